//! Counters of energy, as Linux shows them and as macOS prints them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::skip;
use mlx_diagnose::bench::{BenchError, EnergyCounters, PowerError, PowerMeter, combined_watts};
use rstest::rstest;
use tempfile::TempDir;

/// What lies in the folder of a counter.
struct Zone {
    folder: &'static str,
    name: &'static str,
    energy: u64,
    range: u64,
}

const fn zone(folder: &'static str, name: &'static str, energy: u64, range: u64) -> Zone {
    Zone {
        folder,
        name,
        energy,
        range,
    }
}

fn set(powercap: &Path, zone: &str, energy: u64) {
    fs::write(powercap.join(zone).join("energy_uj"), format!("{energy}\n")).unwrap();
}

/// A made-up folder of counters, beside the file that Linux has there too.
fn powercap(zones: &[Zone]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("uevent"), "").unwrap();
    for Zone {
        folder: zone,
        name,
        energy,
        range,
    } in zones
    {
        let path = folder.path().join(zone);
        fs::create_dir(&path).unwrap();
        fs::write(path.join("name"), format!("{name}\n")).unwrap();
        fs::write(path.join("max_energy_range_uj"), format!("{range}\n")).unwrap();
        set(folder.path(), zone, *energy);
    }
    folder
}

/// Two packages with memory beside one of them; what lies within them, around them or is the same again counts once.
const MACHINE: [Zone; 7] = [
    zone("intel-rapl:0", "package-0", 1_000_000, 262_143_328_850),
    zone("intel-rapl:0:0", "core", 500_000, 262_143_328_850),
    zone("intel-rapl:0:1", "dram", 2_000_000, 65_712_999_613),
    zone("intel-rapl:1", "package-1", 3_000_000, 262_143_328_850),
    zone("intel-rapl:2", "psys", 9_000_000, 262_143_328_850),
    zone("intel-rapl-mmio:0", "package-0", 1_000_000, 262_143_328_850),
    zone("dtpm:0", "package", 7, 7),
];

#[test]
fn packages_and_memory_are_added_up_and_nothing_is_counted_twice() {
    let folder = powercap(&MACHINE);
    let counters = EnergyCounters::find(folder.path()).unwrap();
    assert_eq!(counters.names(), ["package-0", "dram", "package-1"]);
    let before = counters.read().unwrap();
    for (zone, energy) in [
        ("intel-rapl:0", 4_000_000),
        ("intel-rapl:0:0", 3_000_000),
        ("intel-rapl:0:1", 2_500_000),
        ("intel-rapl:1", 3_000_000),
        ("intel-rapl:2", 99_000_000),
        ("intel-rapl-mmio:0", 4_000_000),
    ] {
        set(folder.path(), zone, energy);
    }
    let after = counters.read().unwrap();
    // Three joules of the first package, half a joule of its memory, nothing of the second package.
    assert_eq!(counters.joules_between(&before, &after), 3.5);
}

#[test]
fn a_counter_that_began_again_goes_on_where_it_was() {
    let folder = powercap(&[zone("intel-rapl:0", "package-0", 999_000_000, 1_000_000_000)]);
    let counters = EnergyCounters::find(folder.path()).unwrap();
    let before = counters.read().unwrap();
    set(folder.path(), "intel-rapl:0", 4_000_000);
    let after = counters.read().unwrap();
    // One joule up to the range, and four from zero.
    assert_eq!(counters.joules_between(&before, &after), 5.0);
    assert_eq!(counters.joules_between(&after, &after), 0.0);
}

#[test]
fn joules_are_those_of_one_piece_of_work() {
    let folder = powercap(&[zone("intel-rapl:0", "package-0", 0, 1_000_000_000)]);
    let meter = PowerMeter::Counters(EnergyCounters::find(folder.path()).unwrap());
    let mut done = 0;
    let joules = meter.joules(Duration::from_millis(5), || {
        done += 1;
        set(folder.path(), "intel-rapl:0", done * 2_000_000);
        Ok::<(), BenchError>(())
    });
    assert!(done >= 1);
    assert!((joules.unwrap() - 2.0).abs() < 1e-9);
    assert_eq!(meter.source(), "by the processor's counters of package-0");
}

#[rstest]
#[case::no_folder("absent", &[])]
#[case::an_empty_folder("", &[])]
#[case::nothing_but_parts("", &[zone("intel-rapl:0:0", "core", 1, 9)])]
fn a_machine_without_counters_is_told(#[case] within: &str, #[case] zones: &[Zone]) {
    let folder = powercap(zones);
    let error = EnergyCounters::find(&folder.path().join(within)).unwrap_err();
    assert!(matches!(error, PowerError::None(_)), "{error}");
    assert!(error.to_string().contains("as in most virtual machines"), "{error}");
}

#[rstest]
#[case::words("energy_uj", "lots")]
#[case::a_negative_number("max_energy_range_uj", "-1")]
#[case::nothing("energy_uj", "")]
fn a_counter_that_is_no_number_is_told(#[case] file: &str, #[case] text: &str) {
    let folder = powercap(&MACHINE);
    fs::write(folder.path().join("intel-rapl:1").join(file), text).unwrap();
    let error = EnergyCounters::find(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains(file) && error.contains(&format!("`{text}` is no number")),
        "{error}"
    );
}

#[cfg(unix)]
#[test]
fn a_counter_for_root_alone_is_told_as_such() {
    use std::os::unix::fs::PermissionsExt;
    let folder = powercap(&MACHINE);
    let counter = folder.path().join("intel-rapl:0/energy_uj");
    fs::set_permissions(&counter, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read_to_string(&counter).is_ok() {
        skip::because("root reads every file; `PowerError`'s own test has the message");
        return;
    }
    let error = EnergyCounters::find(folder.path()).unwrap_err();
    assert!(matches!(error, PowerError::Denied(_)), "{error}");
}

#[test]
fn the_combined_power_of_macos_is_read_in_watts() {
    let printed = "*** Sampled system activity (Sat Nov 21 12:00:00 2026 +0000) (1003.45ms elapsed) ***\n\n\
        **** Processor usage ****\n\nCPU Power: 4321 mW\nGPU Power: 12 mW\nANE Power: 0 mW\n\
        Combined Power (CPU + GPU + ANE): 4333 mW\n";
    assert_eq!(combined_watts(printed), Some(4.333));
    for other in ["", "CPU Power: 4321 mW", "Combined Power (CPU + GPU + ANE): many mW"] {
        assert_eq!(combined_watts(other), None, "{other}");
    }
}
