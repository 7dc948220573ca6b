//! What the pipeline opens it closes: files, sockets, and threads but for those that MLX keeps.
#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlx_diagnose::adapter::{LoraSettings, attach, fuse, load_adapter, save_adapter};
use mlx_diagnose::data::{Batch, Example};
use mlx_diagnose::engine::{Engine, EngineModel, EngineSettings, Request};
use mlx_diagnose::model::ModelSource;
use mlx_diagnose::train::{Lanes, loss_and_gradients};

use crate::support::golden::{EXACT_PRECISION, root};

/// Times the pipeline runs. MLX's CPU backend gives each thread that computes a stream with a thread of its own, which it keeps
/// for ever, and an engine computes on a thread of its own.
const ROUNDS: usize = 4;
/// Within which threads end whose work has ended, on a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// Open files and threads of this process.
fn held() -> (usize, usize) {
    let entries = |folder: &str| fs::read_dir(folder).unwrap().count();
    (entries("/proc/self/fd"), entries("/proc/self/task"))
}

/// Loads, computes gradients, saves, loads again, fuses, and answers.
fn pipeline() {
    let source = || ModelSource::Folder(root().join("fixtures/embedded/model"));
    let folder = tempfile::tempdir().unwrap();
    let settings = LoraSettings::default();
    let mut model = source().load(EXACT_PRECISION).unwrap().model;
    attach(&mut model, &settings, 1).unwrap();
    let batch = Batch::new(&[Example::of_tokens((4..20).collect())], &[0]);
    loss_and_gradients(&model, &batch, &Lanes::on_cpu(2)).unwrap();
    save_adapter(&model, &settings, "embedded", folder.path()).unwrap();
    let adapter = folder.path().to_owned();
    let engine = Engine::start(EngineSettings::default(), move || {
        let mut base = source().load(EXACT_PRECISION).unwrap().model;
        load_adapter(&mut base, &adapter).unwrap();
        fuse(&mut base).unwrap();
        Ok::<_, Infallible>(EngineModel {
            base,
            adapters: BTreeMap::new(),
            tokenizer: Arc::new(source().open().unwrap().tokenizer().unwrap()),
            context: 64,
        })
    });
    let engine = engine.unwrap();
    let answer = engine.submit(Request::greedy(vec![5, 6, 7], 4)).unwrap();
    assert!(!answer.complete().unwrap().tokens.is_empty());
}

#[test]
fn a_pipeline_that_runs_again_and_again_holds_no_more_files_and_threads() {
    // Pools of threads are made once.
    pipeline();
    let before = held();
    for _ in 0..ROUNDS {
        pipeline();
    }
    let begun = Instant::now();
    let mut after = held();
    let kept_by_mlx = ROUNDS;
    while (after.0 > before.0 || after.1 > before.1 + kept_by_mlx) && begun.elapsed() < SOON {
        std::thread::sleep(Duration::from_millis(20));
        after = held();
    }
    assert!(after.0 <= before.0, "{} files, and then {}", before.0, after.0);
    assert!(
        after.1 <= before.1 + kept_by_mlx,
        "{} threads, and then {}",
        before.1,
        after.1
    );
}
