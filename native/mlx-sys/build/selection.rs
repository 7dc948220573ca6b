//! Which MLX is linked.

use std::{ffi::OsString, path::PathBuf};

use super::{
    error::Error,
    pins::{MLX_VERSION, MLX_VERSIONS, PINS, Pin, REFUSED_VERSIONS, Variant},
    platform::{System, SystemVersion, Target},
};

/// Chooses one of Apple's builds: `cpu`, `cuda-12`, `cuda-13`, or `metal`.
pub const VARIANT_VARIABLE: &str = "MLX_DIAGNOSE_MLX";
/// Chooses one of the releases of MLX that can be linked.
pub const VERSION_VARIABLE: &str = "MLX_DIAGNOSE_MLX_VERSION";
/// Names an existing MLX, which is linked as it is.
pub const FOLDER_VARIABLE: &str = "MLX_DIAGNOSE_MLX_DIR";

#[derive(Debug)]
pub enum Selection {
    /// A folder, and the release that it must hold where one was asked for.
    Existing(PathBuf, Option<&'static str>),
    Wheel(&'static Pin),
}

/// What the user asks for; an empty variable counts as not set.
#[derive(Debug, Default)]
pub struct Asked {
    /// Of [`VARIANT_VARIABLE`].
    pub variant: Option<OsString>,
    /// Of [`VERSION_VARIABLE`].
    pub version: Option<OsString>,
    /// Of [`FOLDER_VARIABLE`].
    pub folder: Option<OsString>,
}

/// Decides from what is asked for and from the system's own version.
pub fn select(target: Target, system: Option<SystemVersion>, asked: Asked) -> Result<Selection, Error> {
    let given = |value: Option<OsString>| value.filter(|value| !value.is_empty());
    let version = match given(asked.version) {
        Some(name) => Some(parse_version(&name)?),
        None => None,
    };
    if let Some(folder) = given(asked.folder) {
        return Ok(Selection::Existing(folder.into(), version));
    }
    let variant = match given(asked.variant) {
        Some(name) => parse_variant(target.system, &name)?,
        None => default_variant(target.system),
    };
    newest_that_runs(target, variant, version.unwrap_or(MLX_VERSION), system).map(Selection::Wheel)
}

fn parse_version(name: &OsString) -> Result<&'static str, Error> {
    if let Some(&version) = MLX_VERSIONS.iter().find(|&&version| name == version) {
        return Ok(version);
    }
    let reason = REFUSED_VERSIONS.iter().find(|(version, _)| name == version);
    Err(Error::UnknownMlxVersion {
        found: name.display().to_string(),
        reason: reason.map_or("no wheel of it is pinned, and none was tried", |(_, reason)| reason),
    })
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
fn newest_that_runs(
    target: Target,
    variant: Variant,
    mlx: &str,
    version: Option<SystemVersion>,
) -> Result<&'static Pin, Error> {
    let mut pins: Vec<&'static Pin> = PINS
        .iter()
        .filter(|pin| pin.version == mlx)
        .filter(|pin| (pin.system, pin.architecture, pin.variant) == (target.system, target.architecture, variant))
        .collect();
    pins.sort_by_key(|pin| pin.minimum);
    let oldest = *pins
        .first()
        .expect("the table has a wheel for each target, variant, and version");
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
                expected: format!("{}.{} (for MLX {mlx})", oldest.minimum.0, oldest.minimum.1),
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
            Selection::Existing(folder, version) => format!("existing {} {version:?}", folder.display()),
        }
    }

    fn variant(name: Option<&str>) -> Asked {
        Asked {
            variant: name.map(OsString::from),
            ..Asked::default()
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
        #[case] name: Option<&str>,
        #[case] expected: &str,
    ) {
        let selection = select(target, version, variant(name)).expect("a wheel is chosen");
        assert_eq!(tag(selection), expected);
    }

    #[test]
    fn an_existing_folder_goes_before_any_wheel() {
        let asked = Asked {
            folder: Some("/opt/mlx".into()),
            ..variant(Some("cuda-13"))
        };
        let selection = select(LINUX, Some((2, 31)), asked).expect("the folder is chosen");
        assert_eq!(tag(selection), "existing /opt/mlx None");
    }

    fn version(name: &str) -> Asked {
        Asked {
            version: Some(name.into()),
            ..Asked::default()
        }
    }

    #[rstest]
    #[case("", MLX_VERSION)]
    #[case("0.32.2", "0.32.2")]
    #[case("0.32.4", "0.32.4")]
    fn the_release_that_is_asked_for_is_chosen(#[case] name: &str, #[case] expected: &str) {
        let Ok(Selection::Wheel(pin)) = select(LINUX, None, version(name)) else {
            panic!("a wheel is chosen");
        };
        assert_eq!(pin.version, expected);
    }

    #[test]
    fn an_existing_folder_must_hold_the_release_that_is_asked_for() {
        let asked = Asked {
            folder: Some("/opt/mlx".into()),
            ..version("0.32.4")
        };
        let selection = select(LINUX, None, asked).expect("the folder is chosen");
        assert_eq!(tag(selection), r#"existing /opt/mlx Some("0.32.4")"#);
    }

    #[rstest]
    #[case("0.31.2", "CompileCacheWeakPtr")]
    #[case("0.32.9", "no wheel of it is pinned")]
    #[case("newest", "no wheel of it is pinned")]
    fn another_release_is_refused_by_name_with_the_reason(#[case] name: &str, #[case] reason: &str) {
        let error = select(LINUX, None, version(name))
            .expect_err("there is no such release")
            .to_string();
        for part in [name, reason, "0.32.2, 0.32.4"] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn every_release_has_the_same_wheels() {
        let of = |version: &str| -> Vec<(&str, &str)> {
            let pins = PINS.iter().filter(|pin| pin.version == version);
            pins.map(|pin| (pin.package, pin.platform_tag)).collect()
        };
        for version in MLX_VERSIONS {
            assert_eq!(of(version), of(MLX_VERSION), "{version}");
        }
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
        #[case] name: Option<&str>,
        #[case] parts: &[&str],
    ) {
        let error = select(target, version, variant(name)).expect_err("there is no such wheel");
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
                let name = |pin: &Pin| (pin.version, pin.package, pin.platform_tag);
                other.sha256 == pin.sha256 || name(other) == name(pin)
            };
            assert_eq!(PINS.iter().filter(same).count(), 1, "{pin:?}");
        }
    }
}
