//! The one table of what is downloaded: MLX wheels with their SHA-256.

use super::platform::{Architecture, System, SystemVersion};

/// The MLX release that mlx-c 0.7.0 was written for.
pub const MLX_VERSION: &str = "0.32.2";

/// Which of Apple's builds of MLX is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Cpu,
    Cuda12,
    Cuda13,
    Metal,
}

impl Variant {
    /// As the user names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda12 => "cuda-12",
            Self::Cuda13 => "cuda-13",
            Self::Metal => "metal",
        }
    }
}

/// One wheel, as the package index names it.
#[derive(Debug)]
pub struct Pin {
    pub variant: Variant,
    pub package: &'static str,
    pub system: System,
    pub architecture: Architecture,
    /// The oldest glibc or macOS that the wheel runs on.
    pub minimum: SystemVersion,
    pub platform_tag: &'static str,
    pub sha256: &'static str,
}

pub const PINS: &[Pin] = &[
    Pin {
        variant: Variant::Cpu,
        package: "mlx-cpu",
        system: System::Linux,
        architecture: Architecture::X86_64,
        minimum: (2, 35),
        platform_tag: "manylinux_2_35_x86_64",
        sha256: "fc5d31b90fc4f457b2f9614ed45651a567d22a6a11a03d114a90a4e10bdd8878",
    },
    Pin {
        variant: Variant::Cpu,
        package: "mlx-cpu",
        system: System::Linux,
        architecture: Architecture::Aarch64,
        minimum: (2, 35),
        platform_tag: "manylinux_2_35_aarch64",
        sha256: "d0f94625588b51a878786dd51cec5617894ce586cf3c94645ce1b64e24c27c0b",
    },
    Pin {
        variant: Variant::Cuda12,
        package: "mlx-cuda-12",
        system: System::Linux,
        architecture: Architecture::X86_64,
        minimum: (2, 35),
        platform_tag: "manylinux_2_35_x86_64",
        sha256: "35445ead9724855826f310b9085d57137d0a2c5381cc293cb6d86b03bb4feadf",
    },
    Pin {
        variant: Variant::Cuda12,
        package: "mlx-cuda-12",
        system: System::Linux,
        architecture: Architecture::Aarch64,
        minimum: (2, 35),
        platform_tag: "manylinux_2_35_aarch64",
        sha256: "c794c697dcd28e00a51ce8813189ece1a8c62559de7cc5e27803cc591f55df05",
    },
    Pin {
        variant: Variant::Cuda13,
        package: "mlx-cuda-13",
        system: System::Linux,
        architecture: Architecture::X86_64,
        minimum: (2, 35),
        platform_tag: "manylinux_2_35_x86_64",
        sha256: "335094ccd1c0c6dc3e09c8caba207c8180602bacc0c38ba20c1d81e9456ab394",
    },
    Pin {
        variant: Variant::Cuda13,
        package: "mlx-cuda-13",
        system: System::Linux,
        architecture: Architecture::Aarch64,
        minimum: (2, 35),
        platform_tag: "manylinux_2_35_aarch64",
        sha256: "49b1a25df9021f3b519a534fd39a32a5cdbf93a1b265a31e59671c2d9fc9f4a2",
    },
    Pin {
        variant: Variant::Metal,
        package: "mlx-metal",
        system: System::MacOs,
        architecture: Architecture::Aarch64,
        minimum: (14, 0),
        platform_tag: "macosx_14_0_arm64",
        sha256: "3825fff379dbc107dd3413e564a06caeaa24819910ec49c0439e454c06a1b9b8",
    },
    Pin {
        variant: Variant::Metal,
        package: "mlx-metal",
        system: System::MacOs,
        architecture: Architecture::Aarch64,
        minimum: (15, 0),
        platform_tag: "macosx_15_0_arm64",
        sha256: "55a369250d220b2cf10213a87a2ac1b1a420608c5b35b1df4e7147ac8e32f121",
    },
    Pin {
        variant: Variant::Metal,
        package: "mlx-metal",
        system: System::MacOs,
        architecture: Architecture::Aarch64,
        minimum: (26, 0),
        platform_tag: "macosx_26_0_arm64",
        sha256: "e6abeac9ac5265830c9c1541b6f96e9be37a85c2446763a46ad466c63a3837ab",
    },
];
