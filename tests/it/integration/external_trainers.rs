//! Other programs that train: scripts that stand in for them.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mlx_diagnose::adapter::{LoraSettings, attach, save_adapter};
use mlx_diagnose::diagnosis::{DataSource, DiagnosisOptions, Progress, Silent, diagnose};
use mlx_diagnose::evidence::{Evidence, Slot};
use mlx_diagnose::external::{Ending, ExternalTrainer, Watched, run};
use mlx_diagnose::interrupt::Interrupt;
use mlx_diagnose::model::ModelSource;
use mlx_diagnose::rules;
use mlx_diagnose::workflow::ReferenceWorkflow;
use mlx_rs::random;
use rstest::rstest;

use crate::support::golden::{EXACT_PRECISION, root};
use crate::support::short_diagnosis;

fn model() -> ModelSource {
    ModelSource::Folder(root().join("fixtures/embedded/model"))
}

/// An adapter as another program could leave it: every second matrix drawn at random.
fn leave_adapter(folder: &Path) {
    let settings = LoraSettings {
        scale: 0.5,
        ..LoraSettings::default()
    };
    let mut model = model().load(EXACT_PRECISION).unwrap().model;
    attach(&mut model, &settings, 1).unwrap();
    for (index, (_, linear)) in model.linears_mut().into_iter().enumerate() {
        if let Some(lora_b) = &mut linear.lora_b.value {
            let key = random::key(index as u64).unwrap();
            *lora_b = random::uniform::<_, f32>(-0.05, 0.05, lora_b.shape(), &key).unwrap();
        }
    }
    save_adapter(&model, &settings, "tiny", folder).unwrap();
}

fn options(command: &str, timeout: f64) -> DiagnosisOptions {
    DiagnosisOptions {
        source: model(),
        model_name: "model".to_owned(),
        data: DataSource::Path(root().join("fixtures/embedded/voice/train.jsonl")),
        data_name: "rows".to_owned(),
        trainer: Some(ExternalTrainer {
            name: command.to_owned(),
            timeout: Duration::from_secs_f64(timeout),
        }),
        steps: 7,
        seed: 3,
        ..short_diagnosis::options()
    }
}

fn diagnosed(command: &str, timeout: f64) -> Evidence {
    let options = options(command, timeout);
    diagnose(&options, &ReferenceWorkflow, &Interrupt::default(), &mut Silent)
}

fn roots(evidence: &Evidence) -> Vec<&'static str> {
    let diagnosis = rules::diagnose(evidence);
    let roots = diagnosis
        .causes
        .iter()
        .filter(|cause| cause.is_root() && cause.severity == rules::Severity::Error);
    roots.map(|cause| cause.rule.name).collect()
}

#[test]
fn what_another_program_trained_is_taken_up_and_judged() {
    let prepared = tempfile::tempdir().unwrap();
    let folder = prepared.path().join("an adapter's folder");
    leave_adapter(&folder);
    // Every value arrives as one word, and the output may be a folder within.
    let seen = prepared.path().join("seen");
    let command = format!(
        "printf '%s\\n' {{steps}} {{rank}} {{seed}} {{batch_size}} >'{}'; wc -l <{{data}}/train.jsonl; test -f {{model}}/config.json \
         && echo 'Iter 1: Train loss 2.5, Learning Rate 1e-4' && echo 'Iter 7: Train loss 1.5, Learning Rate 1e-4' >&2 \
         && cp -r \"{}\" {{output}}/checkpoint-7",
        seen.display(),
        folder.display()
    );
    let evidence = diagnosed(&command, 60.0);
    assert_eq!(fs::read_to_string(seen).unwrap(), "7\n8\n3\n2\n");
    let external = evidence.external.ran().unwrap();
    assert_eq!(
        (external.exit_code, external.left_adapter, external.timed_out),
        (Some(0), true, false)
    );
    assert_eq!(external.last_lines[0].trim(), "24");
    let log = evidence.log.ran().unwrap();
    assert_eq!(log.losses(), [(1, 2.5), (7, 1.5)]);
    let files = evidence.adapter_files.ran().unwrap();
    assert_eq!((files.applied, files.missing.total), (56, 0));
    assert!(evidence.generation.ran().is_some() && evidence.fit.ran().is_some());
    assert!(matches!(evidence.training, Slot::Skipped { .. }));
    assert!(!roots(&evidence).contains(&"trainer-failed"));
}

#[test]
fn rows_that_another_program_cannot_read_are_handed_over_as_it_reads_them() {
    let folder = tempfile::tempdir().unwrap();
    let row = r#"{"instruction": "Name a bird.", "output": "Petrel"}"#;
    fs::write(folder.path().join("train.json"), format!("[{row},\n{row}]")).unwrap();
    fs::write(folder.path().join("valid.jsonl"), row).unwrap();
    let evidence = diagnose(
        &DiagnosisOptions {
            data: DataSource::Path(folder.path().to_owned()),
            ..options("cat {data}/train.jsonl {data}/valid.jsonl", 60.0)
        },
        &ReferenceWorkflow,
        &Interrupt::default(),
        &mut Silent,
    );
    let chat = r#"{"messages":[{"role":"user","content":"Name a bird."},{"role":"assistant","content":"Petrel"}]}"#;
    assert_eq!(evidence.external.ran().unwrap().last_lines, [chat; 3]);
    assert_eq!(evidence.data.ran().unwrap().format, "instruction");
}

#[rstest]
#[case::it_fails(
    "echo 'IndexError: list index out of range' >&2; exit 4",
    60.0,
    Some(4),
    "IndexError: list index out of range"
)]
#[case::it_leaves_nothing("echo done", 60.0, Some(0), "done")]
#[case::it_hangs("echo start; sleep 60 & sleep 60", 0.5, None, "start")]
#[case::it_is_not_there("no-such-trainer --data {data}", 60.0, Some(127), "not found")]
fn a_trainer_that_leaves_no_adapter_is_the_cause(
    #[case] command: &str,
    #[case] timeout: f64,
    #[case] code: Option<i32>,
    #[case] last_line: &str,
) {
    let begun = Instant::now();
    let evidence = diagnosed(command, timeout);
    let external = evidence.external.ran().unwrap();
    assert_eq!((external.exit_code, external.left_adapter), (code, false));
    assert_eq!(external.timed_out, code.is_none());
    assert!(external.last_lines.last().unwrap().contains(last_line), "{external:?}");
    assert_eq!(roots(&evidence), ["trainer-failed"]);
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[test]
fn nothing_of_a_stopped_trainer_runs_on() {
    let folder = tempfile::tempdir().unwrap();
    let (log, sign) = (folder.path().join("log"), folder.path().join("sign"));
    // The child of a child ignores the request to end.
    let command = format!(
        "(trap '' TERM; while :; do date >>'{}'; sleep 0.1; done) & wait",
        sign.display()
    );
    let interrupt = Interrupt::default();
    let interrupted = interrupt.clone();
    let asking = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        interrupted.request()
    });
    let finished = run(
        &Watched {
            command: &command,
            log: &log,
            timeout: Duration::from_mins(1),
            interrupt: &interrupt,
        },
        &mut |_| {},
    )
    .unwrap();
    asking.join().unwrap();
    assert_eq!(finished.ending, Ending::Interrupted);
    let size = || fs::metadata(&sign).unwrap().len();
    let then = size();
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(size(), then);
}

/// Asks for the end of a run as soon as work beside the five phases begins.
struct InterruptBeside(Interrupt);

impl Progress for InterruptBeside {
    fn phase(&mut self, _phase: rules::Phase, _units: Option<usize>) {}

    fn beside(&mut self, _work: &str, _units: Option<usize>) {
        self.0.request();
    }

    fn advance(&mut self, _done: usize, _message: &str) {}

    fn finish(&mut self, _message: &str) {}
}

#[test]
fn a_run_that_is_ended_while_the_reference_trains_is_not_whole() {
    let prepared = tempfile::tempdir().unwrap();
    leave_adapter(prepared.path());
    let command = format!("cp -r '{}' {{output}}/checkpoint-7", prepared.path().display());
    let interrupt = Interrupt::default();
    let mut progress = InterruptBeside(interrupt.clone());
    let evidence = diagnose(&options(&command, 60.0), &ReferenceWorkflow, &interrupt, &mut progress);
    assert!(evidence.state.ran().is_some(), "the five phases came to their end");
    assert!(evidence.interrupted.is_some());
}
