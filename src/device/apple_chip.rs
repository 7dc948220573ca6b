//! The Apple chip, by what `sysctl` and `system_profiler` of macOS print.

use serde_json::Value;

use super::program::RunProgram;
use crate::evidence::{AppleChipEvidence, ChipVariant, Detected};

/// The chip's name.
const BRAND: &str = "machdep.cpu.brand_string";
/// Fast cores; Macs with Intel's processors have no such name.
const PERFORMANCE_CORES: &str = "hw.perflevel0.physicalcpu";
/// Thrifty cores.
const EFFICIENCY_CORES: &str = "hw.perflevel1.physicalcpu";
/// What a virtual machine adds to the name.
const VIRTUAL: &str = "(Virtual)";

/// Asks macOS for its chip.
pub(super) fn detect(run: &RunProgram<'_>) -> Detected<AppleChipEvidence> {
    let settings = match run("sysctl", &[BRAND, PERFORMANCE_CORES, EFFICIENCY_CORES]) {
        Ok(text) => text,
        Err(error) => return Detected::absent(error.to_string()),
    };
    let Some(brand) = setting(&settings, BRAND) else {
        return Detected::absent(format!("`sysctl` names no {BRAND}"));
    };
    let name = match ChipName::parse(brand) {
        Ok(name) => name,
        Err(reason) => return Detected::absent(reason),
    };
    let cores = |key: &str| match setting(&settings, key).map(str::parse) {
        Some(Ok(cores)) => Detected::Found(cores),
        Some(Err(_)) => Detected::absent(format!("`sysctl` gives no number for {key}")),
        None => Detected::absent(format!("`sysctl` names no {key}")),
    };
    let gpu_cores = match run("system_profiler", &["-json", "SPDisplaysDataType"]) {
        Ok(text) => gpu_cores(&text),
        Err(error) => Detected::absent(error.to_string()),
    };
    Detected::Found(AppleChipEvidence {
        name: brand.to_owned(),
        generation: name.generation,
        variant: name.variant,
        is_virtual: name.is_virtual,
        performance_cores: cores(PERFORMANCE_CORES),
        efficiency_cores: cores(EFFICIENCY_CORES),
        gpu_cores,
    })
}

/// What a chip's name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ChipName {
    generation: u32,
    variant: ChipVariant,
    is_virtual: bool,
}

impl ChipName {
    /// Reads `Apple M3 Max`, or says why it cannot.
    fn parse(brand: &str) -> Result<Self, String> {
        let unknown = || format!("`{brand}` is no chip of Apple's M series that this program knows");
        let mut words = brand.split_whitespace();
        let generation = match (words.next(), words.next()) {
            (Some("Apple"), Some(chip)) => chip.strip_prefix('M').and_then(|number| number.parse().ok()),
            _ => None,
        };
        let mut words: Vec<&str> = words.collect();
        let is_virtual = words.last() == Some(&VIRTUAL);
        if is_virtual {
            words.pop();
        }
        let variant = words.join(" ");
        Ok(Self {
            generation: generation.filter(|&number: &u32| number > 0).ok_or_else(unknown)?,
            variant: ChipVariant::ALL
                .into_iter()
                .find(|known| known.name() == variant)
                .ok_or_else(unknown)?,
            is_virtual,
        })
    }
}

/// The value of `key` in the lines `key: value` of `sysctl`.
fn setting<'text>(text: &'text str, key: &str) -> Option<&'text str> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

/// The cores of the built-in GPU in the JSON of `system_profiler SPDisplaysDataType`.
fn gpu_cores(text: &str) -> Detected<u32> {
    let Ok(json) = serde_json::from_str::<Value>(text) else {
        return Detected::absent("`system_profiler` printed no JSON");
    };
    let displays = json["SPDisplaysDataType"].as_array();
    let cores = displays
        .into_iter()
        .flatten()
        .find_map(|display| display["sppci_cores"].as_str()?.parse().ok());
    cores.map_or_else(
        || Detected::absent("`system_profiler` names no GPU with its cores"),
        Detected::Found,
    )
}

#[cfg(test)]
mod tests {
    use super::{ChipName, detect, gpu_cores};
    use crate::device::program::ProgramError;
    use crate::evidence::{ChipVariant, Detected};
    use rstest::rstest;

    #[rstest]
    #[case("Apple M1", 1, ChipVariant::Base, false)]
    #[case("Apple M1 Pro", 1, ChipVariant::Pro, false)]
    #[case("Apple M2 Max", 2, ChipVariant::Max, false)]
    #[case("Apple M2 Ultra", 2, ChipVariant::Ultra, false)]
    #[case("Apple M3 Ultra", 3, ChipVariant::Ultra, false)]
    #[case("Apple M4 Pro", 4, ChipVariant::Pro, false)]
    #[case("Apple M5", 5, ChipVariant::Base, false)]
    #[case("Apple M5 Max", 5, ChipVariant::Max, false)]
    #[case("Apple M1 (Virtual)", 1, ChipVariant::Base, true)]
    #[case("Apple M12 Pro", 12, ChipVariant::Pro, false)]
    fn generation_and_variant_are_read_from_the_name(
        #[case] brand: &str,
        #[case] generation: u32,
        #[case] variant: ChipVariant,
        #[case] is_virtual: bool,
    ) {
        let name = ChipName {
            generation,
            variant,
            is_virtual,
        };
        assert_eq!(ChipName::parse(brand), Ok(name));
    }

    #[rstest]
    #[case("Intel(R) Core(TM) i9-9980HK CPU @ 2.40GHz")]
    #[case("VirtualApple @ 2.50GHz processor")]
    #[case("Apple processor")]
    #[case("Apple A18 Pro")]
    #[case("Apple M0")]
    #[case("Apple M")]
    #[case("Apple M4 Extreme")]
    #[case("Apple M4 Pro Max")]
    #[case("")]
    fn a_name_that_is_not_understood_is_not_guessed_at(#[case] brand: &str) {
        let reason = ChipName::parse(brand).unwrap_err();
        assert!(reason.starts_with(&format!("`{brand}` is no chip")), "{reason}");
    }

    const SYSCTL: &str = "machdep.cpu.brand_string: Apple M1 Max\nhw.perflevel0.physicalcpu: 8\n\
                          hw.perflevel1.physicalcpu: 2\n";
    const PROFILER: &str = r#"{
  "SPDisplaysDataType" : [
    {
      "_name" : "Apple M1 Max",
      "spdisplays_mtlgpufamilysupport" : "spdisplays_metal3",
      "spdisplays_ndrvs" : [ { "_name" : "Color LCD", "spdisplays_main" : "spdisplays_yes" } ],
      "spdisplays_vendor" : "sppci_vendor_Apple",
      "sppci_bus" : "spdisplays_builtin",
      "sppci_cores" : "32",
      "sppci_device_type" : "spdisplays_gpu",
      "sppci_model" : "Apple M1 Max"
    }
  ]
}"#;

    #[test]
    fn a_mac_studio_is_recognised() {
        let Detected::Found(chip) =
            detect(&|program, _| Ok(if program == "sysctl" { SYSCTL } else { PROFILER }.to_owned()))
        else {
            panic!("not found")
        };
        assert_eq!(
            (chip.name.as_str(), chip.generation, chip.variant),
            ("Apple M1 Max", 1, ChipVariant::Max)
        );
        assert_eq!(chip.performance_cores, Detected::Found(8));
        assert_eq!(chip.efficiency_cores, Detected::Found(2));
        assert_eq!(chip.gpu_cores, Detected::Found(32));
    }

    #[test]
    fn what_macos_does_not_say_is_said_to_be_unknown() {
        let hangs = |program: &str| {
            Err(ProgramError::TimedOut {
                program: program.to_owned(),
                seconds: 10,
            })
        };
        let Detected::Found(chip) = detect(&|program, _| match program {
            "sysctl" => Ok("machdep.cpu.brand_string: Apple M4\nhw.perflevel0.physicalcpu: four\n".to_owned()),
            _ => hangs(program),
        }) else {
            panic!("not found")
        };
        let absent = Detected::<u32>::absent;
        assert_eq!(
            chip.performance_cores,
            absent("`sysctl` gives no number for hw.perflevel0.physicalcpu")
        );
        assert_eq!(
            chip.efficiency_cores,
            absent("`sysctl` names no hw.perflevel1.physicalcpu")
        );
        assert_eq!(chip.gpu_cores, absent("`system_profiler` gave no answer in 10 s"));
        assert_eq!(
            detect(&|program, _| hangs(program)),
            Detected::absent("`sysctl` gave no answer in 10 s")
        );
    }

    #[rstest]
    #[case("not json", "`system_profiler` printed no JSON")]
    #[case("{}", "`system_profiler` names no GPU with its cores")]
    #[case(
        r#"{"SPDisplaysDataType": [{"sppci_model": "AMD Radeon Pro 5500M"}]}"#,
        "`system_profiler` names no GPU with its cores"
    )]
    fn a_mac_without_an_apple_gpu_has_no_gpu_cores(#[case] text: &str, #[case] reason: &str) {
        assert_eq!(gpu_cores(text), Detected::absent(reason));
    }
}
