use super::text::Page;
use crate::evidence::{
    AppleChipEvidence, BudgetBound, BudgetEvidence, ChoiceEvidence, CudaEvidence, CudaSource, Detected,
    MachineEvidence, MetalEvidence, ProcessorEvidence,
};
use crate::rules::wording::{bytes, counted};

/// The machine as indented JSON with a final line break.
pub fn machine_to_json(machine: &MachineEvidence) -> Result<String, serde_json::Error> {
    let mut text = serde_json::to_string_pretty(machine)?;
    text.push('\n');
    Ok(text)
}

/// The machine for a terminal of `width` columns.
pub fn machine_to_text(machine: &MachineEvidence, width: usize) -> String {
    let mut page = Page::new(width);
    page.heading(&machine.tool_version);
    let system = match machine.system.found() {
        Some(system) => format!("{system} ({})", machine.platform),
        None => machine.platform.clone(),
    };
    page.entry(2, "system", &format!("{system}, MLX {}", machine.mlx_version));
    page.entry(2, "processor", &processor_in_words(&machine.processor));
    page.entry(2, "apple chip", &in_words(&machine.apple_chip, apple_chip_in_words));
    page.entry(2, "metal", &in_words(&machine.metal, metal_in_words));
    match &machine.cuda {
        Detected::Found(devices) => {
            for (index, device) in devices.iter().enumerate() {
                page.entry(2, if index == 0 { "cuda" } else { "" }, &cuda_in_words(device));
            }
        }
        Detected::Absent { reason } => page.entry(2, "cuda", &not_found(reason)),
    }
    page.entry(
        2,
        "memory",
        &in_words(&machine.memory, |memory| {
            format!(
                "{}{}, {} available",
                bytes(memory.total),
                if memory.is_unified { " unified" } else { "" },
                bytes(memory.available)
            )
        }),
    );
    page.entry(
        2,
        "mlx memory",
        &in_words(&machine.mlx_memory, |memory| {
            format!(
                "{} in arrays, {} at the peak, {} cached",
                bytes(memory.active),
                bytes(memory.peak),
                bytes(memory.cache)
            )
        }),
    );
    page.entry(2, "training", &in_words(&machine.budget, budget_in_words));
    page.entry(2, "chosen", &choice_in_words(&machine.choice));
    for reason in &machine.choice.reasons {
        page.entry(2, "", reason);
    }
    page.into_text()
}

/// How much memory training may take, and why no more.
pub fn budget_in_words(budget: &BudgetEvidence) -> String {
    let why = match budget.bound {
        BudgetBound::Reserve => format!("{} are kept free for other programs", bytes(budget.reserve)),
        BudgetBound::WorkingSet => "the most that the GPU recommends to hold".to_owned(),
        BudgetBound::Available => "what other programs leave at the moment".to_owned(),
    };
    let limit = bytes(budget.limit);
    if budget.reserve >= budget.asked_reserve {
        return format!("up to {limit}: {why}");
    }
    let asked = bytes(budget.asked_reserve);
    let kept = bytes(budget.reserve);
    format!("up to {limit}: {why}; the machine is too small to keep {asked} free, so that only {kept} are")
}

fn processor_in_words(processor: &ProcessorEvidence) -> String {
    let name = processor.name.found().map_or("name unknown", String::as_str);
    let cores = match processor.physical_cores {
        Detected::Found(cores) => counted(cores, "core"),
        Detected::Absent { .. } => "cores unknown".to_owned(),
    };
    format!("{name}, {cores}, {} usable", processor.usable_cores)
}

fn apple_chip_in_words(chip: &AppleChipEvidence) -> String {
    let cores = |cores: &Detected<u32>, kind: &str| match cores {
        Detected::Found(cores) => format!("{cores} {kind} cores"),
        Detected::Absent { reason } => format!("{kind} cores unknown ({reason})"),
    };
    format!(
        "{}, generation {}, {}, {}, {}{}",
        chip.name,
        chip.generation,
        cores(&chip.performance_cores, "performance"),
        cores(&chip.efficiency_cores, "efficiency"),
        cores(&chip.gpu_cores, "GPU"),
        if chip.is_virtual { ", in a virtual machine" } else { "" }
    )
}

fn metal_in_words(metal: &MetalEvidence) -> String {
    format!(
        "{}, {}, recommended working set {}, largest array {}",
        or_unknown(&metal.name, Clone::clone),
        or_unknown(&metal.architecture, Clone::clone),
        or_unknown(&metal.recommended_working_set, |&count| bytes(count)),
        or_unknown(&metal.largest_buffer, |&count| bytes(count))
    )
}

fn cuda_in_words(device: &CudaEvidence) -> String {
    let source = match device.source {
        CudaSource::Mlx => "",
        CudaSource::NvidiaSmi => {
            "; known from `nvidia-smi`, and this MLX cannot use it (`MLX_DIAGNOSE_MLX=cuda-13` at the build links one that can)"
        }
    };
    let memory = match (&device.total_memory, &device.free_memory) {
        (Detected::Found(total), Detected::Found(free)) => format!("{} of {} free", bytes(*free), bytes(*total)),
        (Detected::Found(total), Detected::Absent { .. }) => bytes(*total),
        (Detected::Absent { .. }, _) => "memory unknown".to_owned(),
    };
    format!(
        "{}, compute capability {}, {memory}{source}",
        or_unknown(&device.name, Clone::clone),
        or_unknown(&device.compute_capability, Clone::clone)
    )
}

fn choice_in_words(choice: &ChoiceEvidence) -> String {
    let dtype = match choice.dtype.as_str() {
        "checkpoint" => "the checkpoint's element type",
        dtype => dtype,
    };
    let packed = if choice.keeps_packed {
        "stay packed"
    } else {
        "are unpacked"
    };
    format!("{}, {dtype}, packed weights {packed}", choice.backend)
}

fn in_words<T>(detected: &Detected<T>, words: impl Fn(&T) -> String) -> String {
    match detected {
        Detected::Found(found) => words(found),
        Detected::Absent { reason } => not_found(reason),
    }
}

fn or_unknown<T>(detected: &Detected<T>, words: impl Fn(&T) -> String) -> String {
    detected.found().map_or_else(|| "unknown".to_owned(), words)
}

fn not_found(reason: &str) -> String {
    format!("not found: {reason}")
}
