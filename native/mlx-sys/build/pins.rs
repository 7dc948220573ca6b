//! The one table of what is downloaded: MLX wheels with their SHA-256.

use super::platform::{Architecture, System, SystemVersion};

/// The MLX release that mlx-c 0.7.0 was written for, which is linked unless another is asked for.
pub const MLX_VERSION: &str = "0.32.2";

/// The MLX releases that can be linked, the oldest first.
///
/// What their C++ interface changed since [`MLX_VERSION`] is in `src/portability.h`.
pub const MLX_VERSIONS: &[&str] = &[MLX_VERSION, "0.32.4"];

/// MLX releases that were tried and cannot be linked, with the reason.
pub const REFUSED_VERSIONS: &[(&str, &str)] = &[(
    "0.31.2",
    "it lacks what mlx-c 0.7.0 is written on, first of all `mlx::core::detail::CompileCacheWeakPtr`: no file of mlx-c \
     compiles",
)];

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
    /// One of [`MLX_VERSIONS`].
    pub version: &'static str,
    pub variant: Variant,
    pub package: &'static str,
    pub system: System,
    pub architecture: Architecture,
    /// The oldest glibc or macOS that the wheel runs on.
    pub minimum: SystemVersion,
    pub platform_tag: &'static str,
    pub sha256: &'static str,
}

const fn linux(version: &'static str, variant: Variant, architecture: Architecture, sha256: &'static str) -> Pin {
    Pin {
        version,
        variant,
        package: match variant {
            Variant::Cpu => "mlx-cpu",
            Variant::Cuda12 => "mlx-cuda-12",
            Variant::Cuda13 => "mlx-cuda-13",
            Variant::Metal => "mlx-metal",
        },
        system: System::Linux,
        architecture,
        minimum: (2, 35),
        platform_tag: match architecture {
            Architecture::X86_64 => "manylinux_2_35_x86_64",
            Architecture::Aarch64 => "manylinux_2_35_aarch64",
        },
        sha256,
    }
}

const fn macos(version: &'static str, major: u32, platform_tag: &'static str, sha256: &'static str) -> Pin {
    Pin {
        version,
        variant: Variant::Metal,
        package: "mlx-metal",
        system: System::MacOs,
        architecture: Architecture::Aarch64,
        minimum: (major, 0),
        platform_tag,
        sha256,
    }
}

pub const PINS: &[Pin] = &[
    linux(
        "0.32.2",
        Variant::Cpu,
        Architecture::X86_64,
        "fc5d31b90fc4f457b2f9614ed45651a567d22a6a11a03d114a90a4e10bdd8878",
    ),
    linux(
        "0.32.2",
        Variant::Cpu,
        Architecture::Aarch64,
        "d0f94625588b51a878786dd51cec5617894ce586cf3c94645ce1b64e24c27c0b",
    ),
    linux(
        "0.32.2",
        Variant::Cuda12,
        Architecture::X86_64,
        "35445ead9724855826f310b9085d57137d0a2c5381cc293cb6d86b03bb4feadf",
    ),
    linux(
        "0.32.2",
        Variant::Cuda12,
        Architecture::Aarch64,
        "c794c697dcd28e00a51ce8813189ece1a8c62559de7cc5e27803cc591f55df05",
    ),
    linux(
        "0.32.2",
        Variant::Cuda13,
        Architecture::X86_64,
        "335094ccd1c0c6dc3e09c8caba207c8180602bacc0c38ba20c1d81e9456ab394",
    ),
    linux(
        "0.32.2",
        Variant::Cuda13,
        Architecture::Aarch64,
        "49b1a25df9021f3b519a534fd39a32a5cdbf93a1b265a31e59671c2d9fc9f4a2",
    ),
    macos(
        "0.32.2",
        14,
        "macosx_14_0_arm64",
        "3825fff379dbc107dd3413e564a06caeaa24819910ec49c0439e454c06a1b9b8",
    ),
    macos(
        "0.32.2",
        15,
        "macosx_15_0_arm64",
        "55a369250d220b2cf10213a87a2ac1b1a420608c5b35b1df4e7147ac8e32f121",
    ),
    macos(
        "0.32.2",
        26,
        "macosx_26_0_arm64",
        "e6abeac9ac5265830c9c1541b6f96e9be37a85c2446763a46ad466c63a3837ab",
    ),
    linux(
        "0.32.4",
        Variant::Cpu,
        Architecture::X86_64,
        "0e0a24fa2ce8b6b94d2e6a90604e8813aa8e29fcb918bb2aa01cfb6d133d8cee",
    ),
    linux(
        "0.32.4",
        Variant::Cpu,
        Architecture::Aarch64,
        "1289e85e64af1fd16380bf331438bfe4afe875d27afc3e0bcf35f427c488fadd",
    ),
    linux(
        "0.32.4",
        Variant::Cuda12,
        Architecture::X86_64,
        "f385c7af7c1f63a9d6ce3e442e1c9ba881c881bcb45c6534ff8155b359da47e5",
    ),
    linux(
        "0.32.4",
        Variant::Cuda12,
        Architecture::Aarch64,
        "cea869b007c809013c369819d485e3b534f3ecc261199b4c655ef92a21f73f28",
    ),
    linux(
        "0.32.4",
        Variant::Cuda13,
        Architecture::X86_64,
        "94cb48fba73e5ee39467e51c35c51c691123359ca17bafd1a24cf92ad6732bee",
    ),
    linux(
        "0.32.4",
        Variant::Cuda13,
        Architecture::Aarch64,
        "cf8a67b49cebff85cd98b1d118c09f6c8ee966b899a914c50cc74d614b25616e",
    ),
    macos(
        "0.32.4",
        14,
        "macosx_14_0_arm64",
        "8019b2db622599267d66cc168b2f0dbf5af929790a6c3b3913e00eabc42a7947",
    ),
    macos(
        "0.32.4",
        15,
        "macosx_15_0_arm64",
        "9f0a3cc26d89724434d9684932fc6f3e4e83669d2a895d858ed2c8a55eb84e8b",
    ),
    macos(
        "0.32.4",
        26,
        "macosx_26_0_arm64",
        "514df92d41a286895d2564b4b18f4da45096bd7a4a0c47e1042f345ad5a7f936",
    ),
];
