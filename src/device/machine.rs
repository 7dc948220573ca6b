//! The machine as evidence: what there is, and what this program would choose.

use std::collections::BTreeMap;
use std::time::Duration;

use mlx_sys::backend::{DeviceKind, DeviceProperty, device_properties, metal_is_available};
use sysinfo::{CpuRefreshKind, RefreshKind, System};

use super::program::{RunProgram, output};
use super::{BackendKind, MemoryBudget, PrecisionChoice, Selection, apple_chip, cuda_device};
use crate::evidence::{
    AppleChipEvidence, ChoiceEvidence, Detected, MACHINE_SCHEMA_VERSION, MachineEvidence, MachineMemory, MetalEvidence,
    MlxMemoryEvidence, ProcessorEvidence,
};
use crate::memory::{MlxMemory, system_memory};
use crate::model::WeightType;

/// Time that a program of the system has to answer; `system_profiler` takes a second or two.
const LIMIT: Duration = Duration::from_secs(10);

/// Looks at the machine; `selection` is what a run would use, and `reserve` the bytes that training is to keep free.
pub fn describe_machine(selection: &Selection, reserve: u64) -> MachineEvidence {
    let run: &RunProgram<'_> = &|program, arguments| output(program, arguments, LIMIT);
    let gpus = device_properties(DeviceKind::Gpu);
    let has_metal = metal_is_available();
    let metal = match gpus.first().filter(|_| has_metal) {
        Some(properties) => Detected::Found(metal(properties)),
        None => Detected::absent("MLX finds no Metal device"),
    };
    let apple_chip = apple_chip(run);
    let memory = system_memory();
    let mlx_memory = MlxMemory::read();
    let cuda = cuda_device::detect(if has_metal { &[] } else { &gpus }, run);
    let working_set = match (selection.backend.kind, &metal, &cuda) {
        (BackendKind::Metal, Detected::Found(metal), _) => metal.recommended_working_set.found().copied(),
        // MLX computes on the first.
        (BackendKind::Cuda, _, Detected::Found(devices)) => {
            devices.first().and_then(|device| device.total_memory.found().copied())
        }
        _ => None,
    };
    let held = mlx_memory.as_ref().map_or(0, |memory| memory.active);
    let budget = memory.map(|memory| MemoryBudget::new(memory, working_set, held, reserve).figures);
    let unknown_memory = "the system does not tell how much memory it has";
    MachineEvidence {
        schema_version: MACHINE_SCHEMA_VERSION,
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        mlx_version: mlx_sys::backend::version().unwrap_or_else(|| "unknown".to_owned()),
        platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        system: known(System::long_os_version().ok(), "the system does not tell its version"),
        processor: processor(),
        memory: known(
            memory.map(|memory| MachineMemory {
                total: memory.total,
                available: memory.available,
                is_unified: has_metal || apple_chip.found().is_some(),
            }),
            unknown_memory,
        ),
        mlx_memory: match mlx_memory {
            Ok(memory) => Detected::Found(MlxMemoryEvidence {
                active: memory.active,
                peak: memory.peak,
                cache: memory.cache,
            }),
            Err(error) => Detected::absent(error.to_string()),
        },
        budget: known(budget, unknown_memory),
        apple_chip,
        cuda,
        metal,
        choice: choice(selection),
    }
}

/// macOS alone is asked, as other systems have programs of the same names.
fn apple_chip(run: &RunProgram<'_>) -> Detected<AppleChipEvidence> {
    if cfg!(target_os = "macos") {
        apple_chip::detect(run)
    } else {
        Detected::absent("this is no Mac")
    }
}

fn processor() -> ProcessorEvidence {
    let what = RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing());
    let name = System::new_with_specifics(what).ok().and_then(|system| {
        let brand = system.cpus().first()?.brand().trim().to_owned();
        (!brand.is_empty()).then_some(brand)
    });
    ProcessorEvidence {
        name: known(name, "the system does not tell its processor's name"),
        physical_cores: known(
            System::physical_core_count().ok(),
            "the system does not tell how many cores there are",
        ),
        usable_cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
    }
}

fn metal(properties: &BTreeMap<String, DeviceProperty>) -> MetalEvidence {
    let bytes = |key: &str| match properties.get(key) {
        Some(DeviceProperty::Number(number)) => Detected::Found(*number as u64),
        _ => Detected::absent(format!("MLX names no `{key}`")),
    };
    MetalEvidence {
        name: text(properties, "device_name"),
        architecture: text(properties, "architecture"),
        recommended_working_set: bytes("max_recommended_working_set_size"),
        largest_buffer: bytes("max_buffer_length"),
    }
}

/// The property of this name, where it is a text.
pub(super) fn text(properties: &BTreeMap<String, DeviceProperty>, key: &str) -> Detected<String> {
    match properties.get(key) {
        Some(DeviceProperty::Text(text)) => Detected::Found(text.clone()),
        _ => Detected::absent(format!("MLX names no `{key}`")),
    }
}

/// What a run without `--dtype` and `--keep-packed` would use.
fn choice(selection: &Selection) -> ChoiceEvidence {
    let choice = PrecisionChoice::default();
    let backend = selection.backend;
    let [half, single] =
        [WeightType::Bfloat16, WeightType::Float32].map(|stored| backend.precision_of(Some(stored), choice));
    let environment = selection.environment(half, choice, true);
    ChoiceEvidence {
        backend: environment.backend,
        dtype: if half.dtype == single.dtype {
            environment.dtype
        } else {
            "checkpoint".to_owned()
        },
        keeps_packed: environment.packed,
        reasons: environment.reasons,
    }
}

fn known<T>(value: Option<T>, reason: &str) -> Detected<T> {
    value.map_or_else(|| Detected::absent(reason), Detected::Found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mlx_sys::backend::{DeviceKind, DeviceProperty, device_properties};

    use super::{choice, describe_machine, metal};
    use crate::device::{Backend, BackendKind, MemoryBudget, Selection};
    use crate::evidence::Detected;
    use rstest::rstest;

    fn selection(kind: BackendKind) -> Selection {
        Selection {
            backend: Backend::new(kind),
            reasons: vec!["the first that works".to_owned()],
        }
    }

    #[rstest]
    #[case(BackendKind::Cpu, "float32", false)]
    #[case(BackendKind::Torch, "float32", false)]
    #[case(BackendKind::Metal, "checkpoint", true)]
    #[case(BackendKind::Cuda, "checkpoint", true)]
    fn each_backend_has_its_element_type_and_says_why(
        #[case] kind: BackendKind,
        #[case] dtype: &str,
        #[case] keeps_packed: bool,
    ) {
        let choice = choice(&selection(kind));
        assert_eq!((choice.backend.as_str(), choice.dtype.as_str()), (kind.name(), dtype));
        assert_eq!(choice.keeps_packed, keeps_packed);
        assert_eq!(choice.reasons.len(), 3, "{:?}", choice.reasons);
        assert_eq!(choice.reasons[0], "the first that works");
        assert!(
            choice.reasons[2].starts_with("packed weights: "),
            "{:?}",
            choice.reasons
        );
    }

    #[test]
    fn an_apple_gpu_is_read_from_what_mlx_says() {
        // As MLX 0.32 lists an M1 Max with 32 GB.
        let properties = BTreeMap::from(
            [
                ("device_name", DeviceProperty::Text("Apple M1 Max".to_owned())),
                ("architecture", DeviceProperty::Text("applegpu_g13s".to_owned())),
                ("memory_size", DeviceProperty::Number(34_359_738_368)),
                (
                    "max_recommended_working_set_size",
                    DeviceProperty::Number(22_906_503_168),
                ),
                ("resource_limit", DeviceProperty::Number(499_000)),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        let metal = metal(&properties);
        assert_eq!(metal.architecture, Detected::Found("applegpu_g13s".to_owned()));
        assert_eq!(metal.recommended_working_set, Detected::Found(22_906_503_168));
        assert_eq!(
            metal.largest_buffer,
            Detected::absent("MLX names no `max_buffer_length`")
        );
    }

    #[test]
    fn mlx_tells_its_processor_and_only_gpus_that_are_there() {
        let processors = device_properties(DeviceKind::Cpu);
        assert_eq!(processors.len(), 1);
        assert!(
            matches!(processors[0].get("architecture"), Some(DeviceProperty::Text(text)) if !text.is_empty()),
            "{processors:?}"
        );
        let has_gpu = mlx_sys::backend::metal_is_available() || mlx_sys::backend::cuda_is_available();
        assert_eq!(device_properties(DeviceKind::Gpu).is_empty(), !has_gpu);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_processor_is_the_one_of_the_kernel() {
        let machine = describe_machine(&selection(BackendKind::Cpu), MemoryBudget::DEFAULT_RESERVE);
        let text = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let named = text
            .lines()
            .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
            .map(|(_, name)| name.trim().to_owned());
        assert_eq!(machine.processor.name.found().cloned(), named);
        assert_eq!(machine.apple_chip, Detected::absent("this is no Mac"));
        assert_eq!(
            machine.processor.usable_cores,
            std::thread::available_parallelism().unwrap().get()
        );
    }
}
