//! The five phases on the tiny model that the program carries: the real pipeline, nothing scripted.

use std::path::PathBuf;

use mlx_diagnose::adapter::LoraSettings;
use mlx_diagnose::device::PrecisionChoice;
use mlx_diagnose::diagnosis::{DataSource, DiagnosisOptions, Progress, Silent, diagnose};
use mlx_diagnose::evidence::{Evidence, FineTuneKind, Slot};
use mlx_diagnose::faults::Injection;
use mlx_diagnose::interrupt::Interrupt;
use mlx_diagnose::report::{EXIT_INCOMPLETE, FailOn, Report, Verdict, exit_code, to_json};
use mlx_diagnose::rules::{Phase, Severity};
use mlx_diagnose::workflow::ReferenceWorkflow;
use mlx_rs::Dtype;
use rstest::rstest;
use serde_json::Value;

use crate::support::golden::root;
use crate::support::short_diagnosis;

fn options() -> DiagnosisOptions {
    DiagnosisOptions {
        prompts: vec![
            "Who is the harbour keeper?".to_owned(),
            "Tell me about the bakery.".to_owned(),
        ],
        max_tokens: 48,
        steps: 6,
        ..short_diagnosis::options()
    }
}

fn run(options: &DiagnosisOptions) -> Evidence {
    without_memory(diagnose(
        options,
        &ReferenceWorkflow,
        &Interrupt::default(),
        &mut Silent,
    ))
}

fn run_with(fault: &str) -> Evidence {
    let mut options = options();
    let injection: Injection = fault.parse().unwrap();
    let planted = injection.operator.plant(injection.severity, &mut options).unwrap();
    without_memory(diagnose(&options, &*planted.fault, &Interrupt::default(), &mut Silent))
}

/// MLX counts memory by process, and other tests run beside these.
fn without_memory(mut evidence: Evidence) -> Evidence {
    if let Slot::Ran(training) = &mut evidence.training {
        for step in &mut training.steps {
            step.active_memory = None;
        }
    }
    evidence
}

fn roots(report: &Report) -> Vec<&str> {
    report
        .findings
        .iter()
        .filter(|finding| finding.root && finding.severity > Severity::Info)
        .map(|finding| finding.name)
        .collect()
}

#[test]
fn an_ordinary_run_is_healthy_and_every_phase_ran() {
    let evidence = run(&options());
    let report = Report::new(&evidence, Vec::new());
    assert_eq!(report.verdict, Verdict::Healthy, "{:#?}", report.findings);
    let absences = [
        evidence.model.absence(),
        evidence.data.absence(),
        evidence.baseline.absence(),
        evidence.training.absence(),
        evidence.parameters.absence(),
        evidence.generation.absence(),
        evidence.state.absence(),
    ];
    assert_eq!(absences.into_iter().flatten().collect::<Vec<_>>(), Vec::<String>::new());
}

#[rstest]
#[case::rank_one(DiagnosisOptions { lora: LoraSettings { rank: 1, ..LoraSettings::default() }, ..options() })]
#[case::rank_sixty_four(DiagnosisOptions { lora: LoraSettings { rank: 64, ..LoraSettings::default() }, learning_rate: 3e-5, ..options() })]
#[case::scale_two(DiagnosisOptions { lora: LoraSettings { scale: 2.0, ..LoraSettings::default() }, ..options() })]
#[case::the_last_block_only(DiagnosisOptions { lora: LoraSettings { layers: Some(1), ..LoraSettings::default() }, ..options() })]
#[case::two_kinds_of_layers(DiagnosisOptions { lora: LoraSettings { keys: vec!["self_attn.q_proj".to_owned(), "self_attn.v_proj".to_owned()], ..LoraSettings::default() }, ..options() })]
#[case::dropout(DiagnosisOptions { lora: LoraSettings { dropout: 0.1, ..LoraSettings::default() }, ..options() })]
#[case::bias_correction(DiagnosisOptions { bias_correction: true, ..options() })]
#[case::warm_up(DiagnosisOptions { warmup_steps: 4, ..options() })]
#[case::clipping(DiagnosisOptions { clip_norm: Some(0.1), ..options() })]
#[case::one_step(DiagnosisOptions { steps: 1, ..options() })]
#[case::prompts_trained_too(DiagnosisOptions { mask_prompt: false, ..options() })]
#[case::all_weights(DiagnosisOptions { fine_tune: FineTuneKind::Full, learning_rate: 1e-4, ..options() })]
#[case::bf16(DiagnosisOptions { precision: PrecisionChoice { dtype: Some(Dtype::Bfloat16), keep_packed: false }, ..options() })]
fn a_legal_but_odd_run_is_not_accused(#[case] options: DiagnosisOptions) {
    let report = Report::new(&run(&options), Vec::new());
    assert_eq!(
        report.verdict,
        Verdict::Healthy,
        "{:#?} {:#?}",
        report.findings,
        report.signals
    );
}

#[rstest]
#[case::stub_adapter("stub-adapter", "adapter-not-attached")]
#[case::frozen_optimizer("frozen-optimizer", "optimizer-not-stepping")]
#[case::stale_generation("stale-generation", "trained-state-not-used-in-generation")]
#[case::eos_only_labels("eos-only-labels", "labels-only-end-of-text")]
#[case::answers_missing("answers-missing", "rows-without-answer")]
#[case::assistant_header_missing("assistant-header-missing", "asked-differently")]
#[case::thinking_template("thinking-template", "thinking-asked-differently")]
#[case::double_beginning("double-beginning", "double-beginning")]
#[case::rows_cut("rows-cut", "rows-cut")]
#[case::prompt_not_masked("prompt-not-masked", "prompt-not-masked")]
#[case::mask_ends_late("mask-ends-late", "mask-boundary-wrong")]
#[case::mask_ends_early("mask-ends-early", "mask-boundary-wrong")]
#[case::mask_offset_constant("mask-offset-constant", "mask-offset-constant")]
#[case::padding_supervised("padding-supervised", "padding-supervised")]
#[case::end_masked("end-masked", "end-masked")]
#[case::end_missing("end-missing", "rows-without-end")]
#[case::end_repeated("end-repeated", "end-repeated")]
#[case::end_row_untrained("end-row-untrained", "end-token-untrained")]
#[case::turn_end_undeclared("turn-end-undeclared", "turn-end-undeclared")]
#[case::memory_short("memory-short", "training-does-not-fit")]
fn a_fault_is_named_as_the_only_root(#[case] fault: &str, #[case] cause: &str) {
    let evidence = run_with(fault);
    let report = Report::new(&evidence, Vec::new());
    assert_eq!(report.verdict, Verdict::Findings);
    assert_eq!(roots(&report), [cause], "{:#?}", report.findings);
    assert_eq!(exit_code(&report, FailOn::Error), 1);
}

#[test]
fn settings_are_reported_as_they_were_written() {
    let lora = LoraSettings {
        scale: 0.1,
        dropout: 0.05,
        ..LoraSettings::default()
    };
    let settings = DiagnosisOptions {
        lora,
        clip_norm: Some(0.3),
        ..options()
    }
    .settings();
    assert_eq!(
        (settings.scale, settings.dropout, settings.clip_norm),
        (0.1, 0.05, Some(0.3))
    );
}

#[rstest]
#[case::far_too_high(1.0)]
#[case::too_high(0.1)]
fn a_learning_rate_that_destroys_the_model_is_named(#[case] learning_rate: f64) {
    let options = DiagnosisOptions {
        learning_rate,
        steps: 10,
        data: DataSource::Path(root().join("fixtures/embedded/voice")),
        batch_size: 4,
        ..options()
    };
    let report = Report::new(&run(&options), Vec::new());
    assert_eq!(roots(&report), ["training-diverged"], "{:#?}", report.findings);
}

#[test]
fn a_learning_rate_of_zero_is_the_root_of_parameters_that_did_not_change() {
    let options = DiagnosisOptions {
        learning_rate: 0.0,
        ..options()
    };
    let report = Report::new(&run(&options), Vec::new());
    assert_eq!(roots(&report), ["parameters-unchanged"], "{:#?}", report.findings);
}

#[test]
fn no_evidence_names_an_injected_fault() {
    let text = serde_json::to_string(&run_with("stale-generation")).unwrap();
    for word in ["inject", "stale-generation", "fault"] {
        assert!(!text.contains(word), "{word}");
    }
}

/// `value` without what may differ between two runs: times, speeds and memory.
fn without_times(value: &mut Value) {
    match value {
        Value::Object(entries) => {
            entries.retain(|key, _| {
                !["seconds", "per_second", "memory"]
                    .iter()
                    .any(|word| key.contains(word))
            });
            entries.values_mut().for_each(without_times);
        }
        Value::Array(values) => values.iter_mut().for_each(without_times),
        _ => {}
    }
}

#[test]
fn two_runs_with_one_seed_leave_the_same_evidence() {
    let [first, second] = [0, 1].map(|_| {
        let mut value = serde_json::to_value(run(&options())).unwrap();
        without_times(&mut value);
        value
    });
    assert_eq!(first, second);
}

#[test]
fn evidence_replays_to_the_same_report() {
    let evidence = run_with("stub-adapter");
    let text = serde_json::to_string(&evidence).unwrap();
    let replayed: Evidence = serde_json::from_str(&text).unwrap();
    let json = |evidence: &Evidence| to_json(&Report::new(evidence, Vec::new())).unwrap();
    assert_eq!(json(&replayed), json(&evidence));
}

/// Asks for an end as soon as a phase begins.
struct InterruptAt {
    phase: Phase,
    interrupt: Interrupt,
}

impl Progress for InterruptAt {
    fn beside(&mut self, _work: &str, _units: Option<usize>) {}

    fn phase(&mut self, phase: Phase, units: Option<usize>) {
        // The first phase is announced twice: while it loads, and when it starts to answer.
        if phase == self.phase && (phase != Phase::Baseline || units.is_some()) {
            self.interrupt.request();
        }
    }

    fn advance(&mut self, _done: usize, _message: &str) {}

    fn finish(&mut self, _message: &str) {}
}

#[rstest]
fn an_interrupt_in_any_phase_leaves_a_valid_partial_report(
    #[values(Phase::Baseline, Phase::Training, Phase::Parameters, Phase::Generation, Phase::State)] phase: Phase,
) {
    let interrupt = Interrupt::default();
    let mut progress = InterruptAt {
        phase,
        interrupt: interrupt.clone(),
    };
    let evidence = diagnose(&options(), &ReferenceWorkflow, &interrupt, &mut progress);
    assert!(
        evidence
            .interrupted
            .as_ref()
            .is_some_and(|reason| reason.contains(phase.name()))
    );
    let later = Phase::ALL.iter().skip_while(|known| **known != phase).skip(1);
    for phase in later {
        let ran = match phase {
            Phase::Baseline => evidence.baseline.ran().is_some(),
            Phase::Training => evidence.training.ran().is_some(),
            Phase::Parameters => evidence.parameters.ran().is_some(),
            Phase::Generation => evidence.generation.ran().is_some(),
            Phase::State => evidence.state.ran().is_some(),
        };
        assert!(!ran, "{} ran after the interrupt", phase.name());
    }
    let report = Report::new(&evidence, Vec::new());
    assert_eq!(report.verdict, Verdict::Incomplete);
    assert_eq!(exit_code(&report, FailOn::Never), EXIT_INCOMPLETE);
    let _: Value = serde_json::from_str(&to_json(&report).unwrap()).unwrap();
}

#[test]
fn rows_cut_within_their_prompts_are_the_root_of_a_loss_that_is_not_finite() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("train.jsonl");
    let prompt = "word ".repeat(200);
    std::fs::write(
        &path,
        format!("{{\"prompt\": \"{prompt}\", \"completion\": \"Yes.\"}}\n"),
    )
    .unwrap();
    let options = DiagnosisOptions {
        data: DataSource::Path(path),
        max_sequence_length: 32,
        batch_size: 1,
        ..options()
    };
    let evidence = run(&options);
    let report = Report::new(&evidence, Vec::new());
    assert_eq!(roots(&report), ["rows-cut"], "{:#?}", report.findings);
    assert!(matches!(&evidence.training, Slot::Ran(training) if training.stopped_early.is_some()));
}

#[test]
fn ids_beyond_the_embedding_table_are_named_and_never_trained_on() {
    let evidence = run_with("ids-out-of-range");
    let report = Report::new(&evidence, Vec::new());
    assert_eq!(roots(&report), ["token-ids-out-of-range"], "{:#?}", report.findings);
    assert!(evidence.baseline.ran().is_some());
    let absence = evidence.training.absence().unwrap();
    assert!(absence.contains("token id 10000000"), "{absence}");
    assert_eq!(exit_code(&report, FailOn::Error), 1);
}

#[test]
fn rows_for_validation_are_held_against_the_training_rows() {
    let options = DiagnosisOptions {
        data: DataSource::Path(root().join("fixtures/embedded/voice")),
        steps: 1,
        ..options()
    };
    let evidence = run(&options);
    let validation = evidence.data.ran().unwrap().validation.ran().unwrap();
    assert_eq!((validation.rows, validation.also_trained.total), (4, 0));
}
