//! Which MLX is linked.

use std::{ffi::OsString, path::PathBuf};

use super::{
    error::Error,
    pins::{MLX_VERSION, PINS, Pin, Variant},
    platform::{System, SystemVersion, Target},
};

/// Chooses one of Apple's builds: `cpu`, `cuda-12`, `cuda-13`, or `metal`.
pub const VARIANT_VARIABLE: &str = "MLX_DIAGNOSE_MLX";
/// Names an existing MLX, which is linked as it is.
pub const FOLDER_VARIABLE: &str = "MLX_DIAGNOSE_MLX_DIR";

#[derive(Debug)]
pub enum Selection {
    Existing(PathBuf),
    Wheel(&'static Pin),
}

/// Decides from the two variables; an empty one counts as not set.
pub fn select(
    target: Target,
    version: Option<SystemVersion>,
    variant: Option<OsString>,
    folder: Option<OsString>,
) -> Result<Selection, Error> {
    if let Some(folder) = folder.filter(|folder| !folder.is_empty()) {
        return Ok(Selection::Existing(folder.into()));
    }
    let variant = match variant.filter(|variant| !variant.is_empty()) {
        Some(name) => parse_variant(target.system, &name)?,
        None => default_variant(target.system),
    };
    newest_that_runs(target, variant, version).map(Selection::Wheel)
}

fn default_variant(system: System) -> Variant {
    match system {
        System::Linux => Variant::Cpu,
        System::MacOs => Variant::Metal,
    }
}

fn parse_variant(system: System, name: &OsString) -> Result<Variant, Error> {
    let variants = match system {
        System::Linux => &[Variant::Cpu, Variant::Cuda12, Variant::Cuda13][..],
        System::MacOs => &[Variant::Metal],
    };
    variants
        .iter()
        .copied()
        .find(|variant| name == variant.name())
        .ok_or_else(|| Error::UnknownVariant {
            found: name.display().to_string(),
            expected: variants
                .iter()
                .map(|variant| variant.name())
                .collect::<Vec<_>>()
                .join(", "),
        })
}

/// Of the wheels for the target, the one for the newest system that is not newer than this one;
/// the oldest one when this system's version is unknown.
fn newest_that_runs(target: Target, variant: Variant, version: Option<SystemVersion>) -> Result<&'static Pin, Error> {
    let mut pins: Vec<&'static Pin> = PINS
        .iter()
        .filter(|pin| (pin.system, pin.architecture, pin.variant) == (target.system, target.architecture, variant))
        .collect();
    pins.sort_by_key(|pin| pin.minimum);
    let oldest = *pins.first().expect("the table has a wheel for each target and variant");
    let Some(version) = version else {
        return Ok(oldest);
    };
    pins.into_iter()
        .rev()
        .find(|pin| pin.minimum <= version)
        .ok_or_else(|| {
            let (system, hint) = match target.system {
                System::Linux => (
                    "glibc",
                    "use a newer distribution (Debian 12, Ubuntu 22.04, Fedora 36, RHEL 10), or a container of one",
                ),
                System::MacOs => ("macOS", "update macOS"),
            };
            Error::SystemTooOld {
                system,
                found: format!("{}.{}", version.0, version.1),
                expected: format!("{}.{} (for MLX {MLX_VERSION})", oldest.minimum.0, oldest.minimum.1),
                hint,
            }
        })
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::platform::Architecture;

    const LINUX: Target = Target {
        system: System::Linux,
        architecture: Architecture::X86_64,
    };
    const MACOS: Target = Target {
        system: System::MacOs,
        architecture: Architecture::Aarch64,
    };

    fn tag(selection: Selection) -> String {
        match selection {
            Selection::Wheel(pin) => format!("{} {}", pin.package, pin.platform_tag),
            Selection::Existing(folder) => format!("existing {}", folder.display()),
        }
    }

    #[rstest]
    #[case(LINUX, Some((2, 36)), None, "mlx-cpu manylinux_2_35_x86_64")]
    #[case(LINUX, None, None, "mlx-cpu manylinux_2_35_x86_64")]
    #[case(LINUX, Some((2, 39)), Some("cuda-13"), "mlx-cuda-13 manylinux_2_35_x86_64")]
    #[case(LINUX, Some((2, 39)), Some("cuda-12"), "mlx-cuda-12 manylinux_2_35_x86_64")]
    #[case(LINUX, Some((2, 39)), Some(""), "mlx-cpu manylinux_2_35_x86_64")]
    #[case(MACOS, None, None, "mlx-metal macosx_14_0_arm64")]
    #[case(MACOS, Some((14, 7)), None, "mlx-metal macosx_14_0_arm64")]
    #[case(MACOS, Some((15, 0)), None, "mlx-metal macosx_15_0_arm64")]
    #[case(MACOS, Some((16, 0)), Some("metal"), "mlx-metal macosx_15_0_arm64")]
    #[case(MACOS, Some((26, 1)), None, "mlx-metal macosx_26_0_arm64")]
    #[case(MACOS, Some((27, 0)), None, "mlx-metal macosx_26_0_arm64")]
    fn the_newest_wheel_that_runs_here_is_chosen(
        #[case] target: Target,
        #[case] version: Option<SystemVersion>,
        #[case] variant: Option<&str>,
        #[case] expected: &str,
    ) {
        let selection = select(target, version, variant.map(OsString::from), None).expect("a wheel is chosen");
        assert_eq!(tag(selection), expected);
    }

    #[test]
    fn an_existing_folder_goes_before_any_wheel() {
        let selection = select(LINUX, Some((2, 31)), Some("cuda-13".into()), Some("/opt/mlx".into()))
            .expect("the folder is chosen");
        assert_eq!(tag(selection), "existing /opt/mlx");
    }

    #[rstest]
    #[case(LINUX, Some((2, 34)), None, &["glibc 2.34", "glibc 2.35", "hint:"])]
    #[case(MACOS, Some((13, 6)), None, &["macOS 13.6", "macOS 14.0", "update macOS"])]
    #[case(LINUX, Some((2, 36)), Some("metal"), &["found: metal", "cpu, cuda-12, cuda-13"])]
    #[case(LINUX, Some((2, 36)), Some("cuda"), &["found: cuda", "cpu, cuda-12, cuda-13"])]
    #[case(MACOS, Some((15, 0)), Some("cpu"), &["found: cpu", "expected: metal"])]
    fn what_cannot_be_had_is_refused_with_what_is_expected(
        #[case] target: Target,
        #[case] version: Option<SystemVersion>,
        #[case] variant: Option<&str>,
        #[case] parts: &[&str],
    ) {
        let error = select(target, version, variant.map(OsString::from), None).expect_err("there is no such wheel");
        for part in parts {
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn every_pin_is_complete_and_unique() {
        for pin in PINS {
            assert_eq!(pin.sha256.len(), 64, "{pin:?}");
            assert!(
                pin.sha256
                    .bytes()
                    .all(|byte| byte.is_ascii_hexdigit() && !byte.is_ascii_uppercase()),
                "{pin:?}"
            );
            let same = |other: &&Pin| {
                other.sha256 == pin.sha256 || (other.package, other.platform_tag) == (pin.package, pin.platform_tag)
            };
            assert_eq!(PINS.iter().filter(same).count(), 1, "{pin:?}");
        }
    }
}
