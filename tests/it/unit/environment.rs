//! `diagnose env`: what it says of machines, and that it says it of this one.

use std::process::{Command, Output, Stdio};

use insta::assert_snapshot;
use mlx_diagnose::device::{BackendKind, MemoryBudget, Selection, describe_machine};
use mlx_diagnose::evidence::{
    AppleChipEvidence, BudgetBound, BudgetEvidence, ChipVariant, ChoiceEvidence, CudaEvidence, CudaSource, Detected,
    MACHINE_SCHEMA_VERSION, MachineEvidence, MachineMemory, MetalEvidence, MlxMemoryEvidence, ProcessorEvidence,
};
use mlx_diagnose::report::{budget_in_words, machine_to_json, machine_to_text};
use rstest::rstest;
use serde_json::Value;

use crate::diagnosis::rules::snapshots;
use crate::support::skip;

fn env(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_diagnose"))
        .arg("env")
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn found(text: &str) -> Detected<String> {
    Detected::Found(text.to_owned())
}

/// A Mac Studio.
fn mac() -> MachineEvidence {
    MachineEvidence {
        schema_version: MACHINE_SCHEMA_VERSION,
        tool_version: "0.0.0".to_owned(),
        mlx_version: "0.32.2".to_owned(),
        platform: "macos aarch64".to_owned(),
        system: found("macOS 26.1 Tahoe"),
        processor: ProcessorEvidence {
            name: found("Apple M2 Ultra"),
            physical_cores: Detected::Found(24),
            usable_cores: 24,
        },
        apple_chip: Detected::Found(AppleChipEvidence {
            name: "Apple M2 Ultra".to_owned(),
            generation: 2,
            variant: ChipVariant::Ultra,
            is_virtual: false,
            performance_cores: Detected::Found(16),
            efficiency_cores: Detected::Found(8),
            gpu_cores: Detected::Found(76),
        }),
        metal: Detected::Found(MetalEvidence {
            name: found("Apple M2 Ultra"),
            architecture: found("applegpu_g14d"),
            recommended_working_set: Detected::Found(154_618_822_656),
            largest_buffer: Detected::Found(115_964_116_992),
        }),
        cuda: Detected::absent("MLX finds no CUDA device, and `nvidia-smi` cannot be run: it is not installed"),
        memory: Detected::Found(MachineMemory {
            total: 206_158_430_208,
            available: 181_000_000_000,
            is_unified: true,
        }),
        mlx_memory: Detected::Found(MlxMemoryEvidence {
            active: 0,
            peak: 1_234_567,
            cache: 4096,
        }),
        budget: Detected::Found(BudgetEvidence {
            limit: 154_618_822_656,
            bound: BudgetBound::WorkingSet,
            reserve: 8_000_000_000,
            asked_reserve: 8_000_000_000,
        }),
        choice: ChoiceEvidence {
            backend: "metal".to_owned(),
            dtype: "checkpoint".to_owned(),
            keeps_packed: true,
            reasons: [
                "Metal: MLX finds an Apple GPU",
                "dtype: the checkpoint's own",
                "packed weights: kept packed on a GPU",
            ]
            .map(str::to_owned)
            .to_vec(),
        },
    }
}

/// A Linux machine whose NVIDIA device the linked MLX cannot use, and of which little else is known.
fn linux() -> MachineEvidence {
    let unknown = "the system does not tell how much memory it has";
    MachineEvidence {
        platform: "linux x86_64".to_owned(),
        system: Detected::absent("the system does not tell its version"),
        processor: ProcessorEvidence {
            name: Detected::absent("the system does not tell its processor's name"),
            physical_cores: Detected::absent("the system does not tell how many cores there are"),
            usable_cores: 2,
        },
        apple_chip: Detected::absent("this is no Mac"),
        metal: Detected::absent("MLX finds no Metal device"),
        cuda: Detected::Found(vec![
            CudaEvidence {
                name: found("NVIDIA H100 80GB HBM3"),
                compute_capability: found("9.0"),
                total_memory: Detected::Found(85_520_809_984),
                free_memory: Detected::Found(84_942_061_568),
                driver: found("550.54.15"),
                source: CudaSource::NvidiaSmi,
            },
            CudaEvidence {
                name: found("NVIDIA GB10"),
                compute_capability: found("12.1"),
                total_memory: Detected::absent("`nvidia-smi` says `[N/A]`"),
                free_memory: Detected::absent("`nvidia-smi` says `[N/A]`"),
                driver: found("550.54.15"),
                source: CudaSource::Mlx,
            },
        ]),
        memory: Detected::absent(unknown),
        budget: Detected::absent(unknown),
        choice: ChoiceEvidence {
            backend: "cpu".to_owned(),
            dtype: "float32".to_owned(),
            keeps_packed: false,
            reasons: vec!["CPU: MLX finds no Metal or CUDA device".to_owned()],
        },
        ..mac()
    }
}

#[rstest]
#[case("mac", mac())]
#[case("linux", linux())]
fn a_machine_reads_well_and_has_a_stable_json(#[case] name: &str, #[case] machine: MachineEvidence) {
    colored::control::set_override(false);
    let json = machine_to_json(&machine).unwrap();
    snapshots().bind(|| {
        assert_snapshot!(format!("machine_{name}.txt"), machine_to_text(&machine, 96));
        assert_snapshot!(format!("machine_{name}.json"), json);
    });
    assert_eq!(serde_json::from_str::<MachineEvidence>(&json).unwrap(), machine);
}

/// The names in a JSON object, in their order.
fn names(value: &Value) -> Vec<String> {
    value
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .collect()
}

#[test]
fn the_json_of_this_machine_has_the_same_fields() {
    let output = env(&["--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = serde_json::to_value(mac()).unwrap();
    assert_eq!(names(&json), names(&expected));
    for part in ["processor", "choice"] {
        assert_eq!(names(&json[part]), names(&expected[part]), "{part}");
    }
    let machine: MachineEvidence = serde_json::from_value(json).unwrap();
    assert_eq!(machine.schema_version, MACHINE_SCHEMA_VERSION);
    assert_eq!(Some(machine.mlx_version), mlx_sys::backend::version());
    let memory = machine.memory.found().unwrap();
    let budget = machine.budget.found().unwrap();
    assert!(
        budget.limit <= memory.total && budget.reserve < memory.total,
        "{budget:?} of {memory:?}"
    );
}

#[test]
fn the_text_of_this_machine_has_its_choice_and_why() {
    let output = env(&["--backend", "cpu"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success());
    assert!(
        text.starts_with(&format!("mlx-diagnose {}\n", env!("CARGO_PKG_VERSION"))),
        "{text}"
    );
    assert!(
        text.contains("\n  chosen       cpu, float32, packed weights are unpacked\n"),
        "{text}"
    );
    assert!(text.contains("\n               CPU: chosen with --backend\n"), "{text}");
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
}

#[test]
fn a_backend_that_is_not_there_is_refused() {
    if mlx_sys::backend::cuda_is_available() {
        skip::because("there is a CUDA device here");
        return;
    }
    let output = env(&["--backend", "cuda"]);
    assert_eq!(output.status.code(), Some(2));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.starts_with("error: the backend `cuda` cannot be used\n  found: MLX finds no such device\n  hint: "),
        "{error}"
    );
    assert!(output.stdout.is_empty());
}

#[rstest]
#[case(BudgetBound::Reserve, 8, 8, "up to 20.0 GB: 8.0 GB are kept free for other programs")]
#[case(
    BudgetBound::WorkingSet,
    8,
    8,
    "up to 20.0 GB: the most that the GPU recommends to hold"
)]
#[case(
    BudgetBound::Available,
    8,
    8,
    "up to 20.0 GB: what other programs leave at the moment"
)]
#[case(
    BudgetBound::Reserve,
    2,
    8,
    "up to 20.0 GB: 2.0 GB are kept free for other programs; the machine is too small to keep 8.0 GB free, so that only \
     2.0 GB are"
)]
fn a_budget_says_what_decides_it(
    #[case] bound: BudgetBound,
    #[case] reserve: u64,
    #[case] asked_reserve: u64,
    #[case] words: &str,
) {
    const GB: u64 = 1_000_000_000;
    let budget = BudgetEvidence {
        limit: 20 * GB,
        bound,
        reserve: reserve * GB,
        asked_reserve: asked_reserve * GB,
    };
    assert_eq!(budget_in_words(&budget), words);
}

#[test]
fn the_reserve_is_the_users_to_choose() {
    let limit = |reserve: &str| -> BudgetEvidence {
        let output = env(&["--json", "--reserve", reserve]);
        let machine: MachineEvidence = serde_json::from_slice(&output.stdout).unwrap();
        *machine.budget.found().unwrap()
    };
    assert_eq!(limit("0").reserve, 0);
    assert_eq!(limit("0.5").reserve, 500_000_000);
    assert_eq!(env(&["--reserve", "-1"]).status.code(), Some(2));
}

#[test]
fn the_library_says_the_same_as_the_program() {
    let selection = Selection::of(Some(BackendKind::Cpu)).unwrap();
    let machine = describe_machine(&selection, MemoryBudget::DEFAULT_RESERVE);
    let output = env(&["--backend", "cpu", "--json"]);
    let printed: MachineEvidence = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (
            machine.system,
            machine.processor,
            machine.apple_chip,
            machine.cuda,
            machine.choice
        ),
        (
            printed.system,
            printed.processor,
            printed.apple_chip,
            printed.cuda,
            printed.choice
        )
    );
}
