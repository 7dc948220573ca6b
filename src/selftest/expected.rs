use crate::rules::Severity;

/// Through what a fault acts, which decides what it can be combined with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acts {
    /// It keeps the run from training, so that no other fault can show beside it.
    BeforeAnyStep,
    /// Settings, files or rows: it combines with any other fault.
    OnInputs,
    /// A step of the workflow: it combines with faults on inputs.
    OnSteps,
    /// What processes have in common: such a run is one of several processes, in which no other fault is planted.
    AmongProcesses,
}

/// What a right diagnosis of an operator says.
#[derive(Debug, Clone, Copy)]
pub struct Expectation {
    /// The operator.
    pub operator: &'static str,
    /// Rules whose finding names the fault, the primary one first.
    pub names: &'static [&'static str],
    /// The lowest severity at which such a finding counts: below a warning for what stock mlx-lm does by default.
    pub least: Severity,
    /// Through what it acts.
    pub acts: Acts,
}

const fn named(operator: &'static str, names: &'static [&'static str], acts: Acts) -> Expectation {
    Expectation {
        operator,
        names,
        least: Severity::Warning,
        acts,
    }
}

/// What is expected of every operator, in the order of the operators.
pub static EXPECTED: &[Expectation] = &[
    named("shard-missing", &["shards-missing"], Acts::BeforeAnyStep),
    named("weight-file-cut", &["weight-file-broken"], Acts::BeforeAnyStep),
    named("tied-output-mismatch", &["tied-output-mismatch"], Acts::BeforeAnyStep),
    named("packing-bits-wrong", &["packing-mismatch"], Acts::BeforeAnyStep),
    named("packing-not-declared", &["packing-mismatch"], Acts::BeforeAnyStep),
    named("rope-type-unknown", &["configuration-unusable"], Acts::BeforeAnyStep),
    named("tokenizer-cut", &["tokenizer-unusable"], Acts::BeforeAnyStep),
    named("template-lost", &["chat-template-missing"], Acts::BeforeAnyStep),
    named("template-fails", &["chat-template-fails"], Acts::BeforeAnyStep),
    named("end-row-untrained", &["end-token-untrained"], Acts::OnInputs),
    named("base-scrambled", &["base-cannot-predict"], Acts::OnInputs),
    named("data-malformed", &["data-unusable"], Acts::BeforeAnyStep),
    named("pairs-permuted", &["answers-not-to-their-prompts"], Acts::OnInputs),
    named("targets-shuffled", &["answers-unpredictable"], Acts::OnInputs),
    named("rows-duplicated", &["duplicate-rows"], Acts::OnInputs),
    named(
        "foreign-template",
        &["foreign-turn-markers", "asked-differently"],
        Acts::OnInputs,
    ),
    named("answers-missing", &["rows-without-answer"], Acts::OnInputs),
    named("validation-rows-trained", &["validation-rows-trained"], Acts::OnInputs),
    named("thinking-template", &["thinking-asked-differently"], Acts::OnInputs),
    named("double-beginning", &["double-beginning"], Acts::OnInputs),
    named("assistant-header-missing", &["asked-differently"], Acts::OnInputs),
    named("ids-out-of-range", &["token-ids-out-of-range"], Acts::BeforeAnyStep),
    named("rows-cut", &["rows-cut"], Acts::OnInputs),
    named(
        "prompt-not-masked",
        &["prompt-not-masked", "mask-boundary-wrong"],
        Acts::OnInputs,
    ),
    named("all-masked", &["nothing-supervised"], Acts::OnInputs),
    named("mask-ends-late", &["mask-boundary-wrong"], Acts::OnInputs),
    named("mask-ends-early", &["mask-boundary-wrong"], Acts::OnInputs),
    named("mask-offset-constant", &["mask-offset-constant"], Acts::OnInputs),
    named("padding-supervised", &["padding-supervised"], Acts::OnInputs),
    named("eos-only-labels", &["labels-only-end-of-text"], Acts::OnInputs),
    named("end-masked", &["end-masked"], Acts::OnInputs),
    named("end-missing", &["rows-without-end"], Acts::OnInputs),
    named("end-repeated", &["end-repeated"], Acts::OnInputs),
    named("turn-end-undeclared", &["turn-end-undeclared"], Acts::OnInputs),
    named("stop-forgotten", &["stop-token-ignored"], Acts::OnSteps),
    named("stub-adapter", &["adapter-not-attached"], Acts::OnSteps),
    named("nothing-attached", &["adapter-not-attached"], Acts::OnSteps),
    named("layers-missed", &["adapter-not-attached"], Acts::OnSteps),
    named(
        "only-a-trained",
        &["adapter-partly-frozen", "adapter-never-moved"],
        Acts::OnSteps,
    ),
    named("both-zero", &["adapter-starts-at-zero"], Acts::OnSteps),
    named("start-not-identity", &["fresh-adapter-changes-answers"], Acts::OnSteps),
    named("base-not-frozen", &["base-not-frozen"], Acts::OnSteps),
    named("norms-not-frozen", &["base-not-frozen"], Acts::OnSteps),
    named("rank-ignored", &["adapter-settings-not-applied"], Acts::OnSteps),
    named("targets-unknown", &["adapter-targets-unknown"], Acts::BeforeAnyStep),
    named("captured-constants", &["gradients-not-flowing"], Acts::OnSteps),
    named("gradients-missing", &["gradients-not-flowing"], Acts::OnSteps),
    named("gradients-noisy", &["gradient-wrong"], Acts::OnSteps),
    named("gradients-not-cleared", &["gradients-not-cleared"], Acts::OnSteps),
    named("loss-negated", &["gradient-wrong", "update-uphill"], Acts::OnSteps),
    named("labels-not-shifted", &["labels-not-shifted"], Acts::OnSteps),
    named("labels-shifted-twice", &["labels-shifted-twice"], Acts::OnSteps),
    named("loss-counts-prompts", &["loss-counts-prompts"], Acts::OnSteps),
    named("loss-divided-by-positions", &["loss-miscomputed"], Acts::OnSteps),
    named("loss-averaged-by-row", &["loss-miscomputed"], Acts::OnSteps),
    named("gradients-shrinking", &["gradient-wrong"], Acts::OnSteps),
    named("frozen-optimizer", &["optimizer-not-stepping"], Acts::OnSteps),
    named("hidden-factor", &["update-not-as-configured"], Acts::OnSteps),
    named("uphill", &["update-uphill"], Acts::OnSteps),
    named("extra-decay", &["weight-decay-wrong"], Acts::OnSteps),
    named("moments-forgotten", &["optimizer-state-lost"], Acts::OnSteps),
    named(
        "stale-gradients",
        &["update-not-as-configured", "optimizer-state-lost"],
        Acts::OnSteps,
    ),
    named("sums-kept", &["gradients-not-cleared"], Acts::OnSteps),
    named("plain-descent", &["update-not-as-configured"], Acts::OnSteps),
    named(
        "steps-miscounted",
        &["update-not-as-configured", "optimizer-not-stepping"],
        Acts::OnSteps,
    ),
    named("learning-rate-ignored", &["learning-rate-not-applied"], Acts::OnSteps),
    named(
        "learning-rate-high",
        &["training-diverged", "update-too-large"],
        Acts::OnInputs,
    ),
    named("learning-rate-low", &["update-too-small"], Acts::OnInputs),
    named("learning-rate-zero", &["parameters-unchanged"], Acts::OnInputs),
    named("scale-high", &["scale-too-high"], Acts::OnInputs),
    named("overfitting", &["overfit"], Acts::OnInputs),
    named("scale-ignored", &["adapter-settings-not-applied"], Acts::OnSteps),
    named("weights-not-finite", &["weights-not-finite"], Acts::BeforeAnyStep),
    named("float16-overflow", &["float16-of-bfloat16"], Acts::OnInputs),
    named("gradient-not-a-number", &["loss-not-finite"], Acts::OnSteps),
    named("gradient-spike", &["gradient-spike"], Acts::OnSteps),
    named("large-epsilon", &["update-not-as-configured"], Acts::OnSteps),
    named("updates-rounded-away", &["updates-lost-to-rounding"], Acts::OnInputs),
    named("memory-short", &["training-does-not-fit"], Acts::BeforeAnyStep),
    named("memory-leak", &["memory-grows"], Acts::OnSteps),
    named("start-not-shared", &["ranks-diverged"], Acts::AmongProcesses),
    named(
        "reduction-noisy",
        &["ranks-diverged", "gradients-not-averaged"],
        Acts::AmongProcesses,
    ),
    named("gradients-kept", &["gradients-not-averaged"], Acts::AmongProcesses),
    named(
        "gradients-partly-kept",
        &["gradients-not-averaged"],
        Acts::AmongProcesses,
    ),
    named("gradients-summed", &["gradients-not-averaged"], Acts::AmongProcesses),
    named("means-averaged", &["rank-weighting-wrong"], Acts::AmongProcesses),
    named("same-rows", &["same-data-on-every-rank"], Acts::AmongProcesses),
    named("slow-process", &["straggler"], Acts::AmongProcesses),
    named("process-killed", &["rank-lost"], Acts::AmongProcesses),
    named(
        "stale-generation",
        &["trained-state-not-used-in-generation"],
        Acts::OnSteps,
    ),
    named(
        "adapter-not-loaded",
        &["trained-state-not-used-in-generation"],
        Acts::OnSteps,
    ),
    named("dropout-on", &["passes-differ"], Acts::OnSteps),
    named(
        "tensors-dropped",
        &["adapter-file-unusable", "adapter-lost-on-reload"],
        Acts::OnSteps,
    ),
    named(
        "tensors-renamed",
        &["adapter-file-unusable", "adapter-lost-on-reload"],
        Acts::OnSteps,
    ),
    named("tensors-zeroed", &["adapter-lost-on-reload"], Acts::OnSteps),
    named("adapter-file-cut", &["adapter-file-unusable"], Acts::OnSteps),
    named(
        "configuration-missing",
        &["adapter-configuration-wrong", "adapter-file-unusable"],
        Acts::OnSteps,
    ),
    named("scale-lost", &["adapter-configuration-wrong"], Acts::OnSteps),
    named(
        "keys-unresolved",
        &["adapter-configuration-wrong", "adapter-file-unusable"],
        Acts::OnSteps,
    ),
    named("reload-without-tensors", &["adapter-lost-on-reload"], Acts::OnSteps),
    named("other-base", &["adapter-on-another-base"], Acts::OnSteps),
    named("fuse-drops-adapter", &["fuse-loses-adapter"], Acts::OnSteps),
    named("fuse-packs", &["fuse-rounds-adapter-away"], Acts::OnSteps),
];
