//! Several processes of `diagnose train` that make the same updates, and what becomes of the run when one is lost.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use approx::assert_relative_eq;
use mlx_diagnose::evidence::RanksUpdate;
use rstest::rstest;
use serde_json::Value;

use super::distributed::host_file;
use super::fine_tuning_runs::{PROGRAM, adapter, completed, data, metrics, model, start, text, train};

/// Updates that are compared.
const UPDATES: &str = "20";
/// A run of so many updates, whose rows, eight in a batch, have answers of several lengths.
const OPTIONS: [&str; 8] = [
    "--iters",
    UPDATES,
    "--batch-size",
    "8",
    "--learning-rate",
    "2e-4",
    "--save-every",
    "5",
];
/// Difference allowed between losses, in nats: sums of the same terms in another order, over twenty updates.
const LOSS_TOLERANCE: f64 = 1e-5;
/// Difference allowed between trained values after as many: the first steps of `AdamW` have the learning rate's size whatever the
/// gradient's, so that rounding of a gradient near zero shows.
const VALUE_TOLERANCE: f32 = 2e-5;

fn launch(processes: usize, arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(["launch", "-n", &processes.to_string(), "--"])
        .args(arguments)
        .env("NO_COLOR", "1");
    command
}

fn launched(processes: usize, folder: &Path, options: &[&str]) -> Command {
    let mut command = launch(processes, &["train", "start"]);
    command.arg(model()).arg(data()).arg("--out").arg(folder).args(options);
    command
}

/// The losses of updates and of held-out rows, in order.
fn losses(folder: &Path) -> Vec<f64> {
    let loss = |line: &Value| {
        let table = line.get("update").or_else(|| line.get("validation"))?;
        table["loss"].as_f64()
    };
    metrics(folder).iter().filter_map(loss).collect()
}

/// What the processes of a run did, where it was looked at.
fn looks(folder: &Path) -> Vec<RanksUpdate> {
    let lines = metrics(folder);
    let looks = lines.iter().filter_map(|line| line.get("ranks"));
    looks
        .map(|look| serde_json::from_value(look.clone()).unwrap())
        .collect()
}

#[track_caller]
fn assert_same_run(found: &Path, expected: &Path) {
    let (found_losses, expected_losses) = (losses(found), losses(expected));
    assert_eq!(found_losses.len(), expected_losses.len());
    for (found, expected) in found_losses.iter().zip(&expected_losses) {
        assert_relative_eq!(*found, *expected, epsilon = LOSS_TOLERANCE);
    }
    let (found, expected) = (adapter(found), adapter(expected));
    let found = safetensors::SafeTensors::deserialize(&found).unwrap();
    let expected = safetensors::SafeTensors::deserialize(&expected).unwrap();
    assert_eq!(found.len(), expected.len());
    for (name, tensor) in expected.tensors() {
        let values = |bytes: &[u8]| -> Vec<f32> {
            let (values, []) = bytes.as_chunks::<4>() else {
                panic!("`{name}` is not in f32");
            };
            values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
        };
        let found = values(found.tensor(&name).unwrap().data());
        for (found, expected) in found.iter().zip(values(tensor.data())) {
            assert_relative_eq!(*found, expected, epsilon = VALUE_TOLERANCE);
        }
    }
}

/// A process of a run as `mlx.launch` starts it.
fn process(rank: usize, hosts: &str, mut command: Command) -> Child {
    command
        .env("MLX_RANK", rank.to_string())
        .env("MLX_HOSTFILE", hosts)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn ended(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

/// Waits until the run has its first checkpoint.
fn await_checkpoint(folder: &Path) {
    let begun = Instant::now();
    let is_there = || {
        let entries = folder.join("checkpoints").read_dir();
        entries.is_ok_and(|mut entries| {
            entries.any(|entry| !entry.unwrap().file_name().to_string_lossy().starts_with('.'))
        })
    };
    while !is_there() {
        assert!(begun.elapsed() < Duration::from_mins(2), "no checkpoint came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[rstest]
#[case::two(2)]
#[case::four(4)]
fn several_processes_make_the_updates_of_one(#[case] processes: usize) {
    let folder = tempfile::tempdir().unwrap();
    let (together, alone) = (folder.path().join("together"), folder.path().join("alone"));
    completed(start(&alone, &OPTIONS));
    let output = completed(launched(processes, &together, &OPTIONS));
    assert_same_run(&together, &alone);
    // The first process alone prints, and what it says beside that stands behind its rank.
    let (printed, said) = (text(&output.stdout), text(&output.stderr));
    assert!(!printed.contains("[0]") && !printed.contains("[1]"), "{printed}");
    assert!(said.lines().all(|line| line.starts_with("[0] ")), "{said}");
    let shared = format!("processes    {processes}, which share the rows of each batch");
    assert!(said.contains(&shared), "{said}");
    // The first five updates and every tenth are looked at.
    let looks = looks(&together);
    assert_eq!(
        looks.iter().map(|look| look.update).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 10, 20]
    );
    for look in looks {
        assert_eq!(look.ranks.len(), processes);
        let values: Vec<u32> = look.ranks.iter().map(|rank| rank.parameters).collect();
        assert_eq!(values, vec![values[0]; processes], "update {}", look.update);
    }
    let page = std::fs::read_to_string(together.join("loss.html")).unwrap();
    assert!(page.contains("Where the time of an update goes"));
}

#[test]
fn micro_batches_of_several_processes_add_up_to_the_same_updates() {
    let folder = tempfile::tempdir().unwrap();
    let (together, alone) = (folder.path().join("together"), folder.path().join("alone"));
    let options = ["--iters", "8", "--batch-size", "4", "--grad-accumulation-steps", "2"];
    completed(start(&alone, &options));
    completed(launched(2, &together, &options));
    assert_same_run(&together, &alone);
}

#[test]
fn a_killed_process_ends_the_run_whose_checkpoint_any_number_of_processes_goes_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let (broken, alone) = (folder.path().join("broken"), folder.path().join("alone"));
    // Long enough that the kill comes before the end.
    let options = ["--iters", "60", "--batch-size", "8", "--save-every", "5", "--no-guards"];
    completed(start(&alone, &options));
    let hosts = host_file(folder.path(), 2);
    let first = process(0, &hosts, start(&broken, &options));
    let mut second = process(1, &hosts, start(&broken, &options));
    await_checkpoint(&broken);
    second.kill().unwrap();
    let output = ended(first);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("rank 1 is lost"), "{said}");
    ended(second);

    completed(launch(4, &["train", "resume", broken.to_str().unwrap()]));
    assert_eq!(losses(&broken).len(), losses(&alone).len());
    let (found, expected) = (losses(&broken), losses(&alone));
    for (found, expected) in found.iter().zip(&expected) {
        // Rounding grows over so many updates.
        assert_relative_eq!(*found, *expected, epsilon = 100.0 * LOSS_TOLERANCE);
    }
}

/// What SSH does: the words behind the options and the host are joined and read by a shell, elsewhere.
const SSH: &str = r#"#!/bin/sh
until [ "$1" = studio-2 ]; do
    [ $# -gt 1 ] || exit 255
    shift
done
shift
cd / && exec sh -c "$*"
"#;

/// A run of two processes in `place`, the second of which `ssh` starts on another machine.
fn launched_by(ssh: &str, folder: &Path, place: &Path) -> Command {
    let program = folder.join("ssh");
    std::fs::write(&program, ssh).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let hosts = folder.join("hosts.json");
    let text = r#"[{"ssh": "localhost", "ips": ["127.0.0.1"]}, {"ssh": "studio-2", "ips": ["127.0.0.1"]}]"#;
    std::fs::write(&hosts, text).unwrap();
    let mut command = Command::new(PROGRAM);
    command
        .args(["launch", "--hosts", hosts.to_str().unwrap()])
        .args(["--starting-port", &two_ports().to_string(), "--"])
        .args(["train", "start"])
        .args([model(), data()])
        .args(["--out", "a run", "--iters", "4", "--batch-size", "4"])
        .env(
            "PATH",
            format!("{}:{}", folder.display(), std::env::var("PATH").unwrap()),
        )
        .env("NO_COLOR", "1")
        .current_dir(place);
    command
}

#[test]
fn processes_on_other_machines_are_started_by_ssh_in_the_same_folder() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("it's here; $HOME");
    std::fs::create_dir(&place).unwrap();
    completed(launched_by(SSH, folder.path(), &place));
    assert!(place.join("a run/adapters.safetensors").is_file());
}

#[test]
fn a_machine_that_ssh_does_not_reach_ends_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = launched_by("#!/bin/sh\nexit 255\n", folder.path(), folder.path());
    let output = command.env("TMPDIR", folder.path()).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("rank 1 ended with exit code 255"), "{said}");
    assert!(said.contains("rank 0 was ended by the launcher"), "{said}");
    assert!(
        !folder.path().join("a run").exists(),
        "a run that did not begin leaves no folder"
    );
}

#[test]
fn what_fails_in_every_process_is_said_by_each_and_no_host_file_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut command = launched(2, &out, &["--learning-rate", "10"]);
    let output = command.env("TMPDIR", folder.path()).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for rank in 0..2 {
        let line = said.lines().find(|line| line.starts_with(&format!("[{rank}] error:")));
        assert!(line.is_some_and(|line| !line.contains("has failed")), "{said}");
    }
    assert!(said.ends_with("all ranks ended with exit code 2\n"), "{said}");
    let begun = Instant::now();
    // Who removes it does so once the process is gone.
    while folder.path().read_dir().unwrap().next().is_some() {
        assert!(begun.elapsed() < Duration::from_secs(20), "a file is left");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn commands_that_share_no_work_are_not_launched() {
    let output = launch(2, &["models", "list"]).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.contains("processes share the work of a diagnosis and of `diagnose train` alone"),
        "{said}"
    );
}

/// A port that nobody uses at the moment, before another one.
fn two_ports() -> u16 {
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    // Below those that the system gives away by itself.
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    (first..first + 1000)
        .find(|port| is_free(port) && is_free(&(port + 1)))
        .unwrap()
}

#[test]
fn processes_that_do_not_train_the_same_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let hosts = host_file(folder.path(), 2);
    let out = folder.path().join("run");
    let with = |rate: &str| start(&out, &["--iters", "4", "--learning-rate", rate]);
    let processes = [process(0, &hosts, with("1e-4")), process(1, &hosts, with("2e-4"))];
    for process in processes {
        let output = ended(process);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("other settings at rank 1 than at rank 0"), "{said}");
    }
    assert!(!out.exists(), "a run that did not begin leaves no folder");
}

#[test]
fn a_batch_that_cannot_be_shared_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let output = launched(4, &out, &["--iters", "4", "--batch-size", "2"])
        .output()
        .unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("`batch_size: 2` for 4 processes"), "{said}");
    assert!(said.ends_with("all ranks ended with exit code 2\n"), "{said}");
}

#[test]
fn an_interrupted_launch_leaves_a_run_to_go_on_from_and_no_process() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut command = launched(2, &run, &["--iters", "2000", "--batch-size", "8", "--save-every", "5"]);
    let launcher = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    await_checkpoint(&run);
    let asked = Command::new("kill")
        .args(["-s", "INT", &launcher.id().to_string()])
        .status();
    assert!(asked.unwrap().success());
    let output = ended(launcher);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).contains("interrupted after"),
        "{}",
        text(&output.stdout)
    );
    // Its lock is free: nobody trains in it any more.
    let mut resumed = train(&["resume"]);
    let mut resumed = resumed
        .arg(&run)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_secs(1));
    resumed.kill().unwrap();
    let said = text(&ended(resumed).stderr);
    assert!(!said.contains("a run is going on"), "{said}");
}

#[test]
fn a_launcher_that_is_killed_takes_its_processes_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut command = launched(2, &run, &["--iters", "2000", "--batch-size", "8", "--save-every", "5"]);
    let mut launcher = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    await_checkpoint(&run);
    launcher.kill().unwrap();
    launcher.wait().unwrap();
    let begun = Instant::now();
    // The folder's lock is that of the first process for as long as it lives.
    while mlx_diagnose::fine_tuning::RunFolder::resume(&run).is_err() {
        assert!(begun.elapsed() < Duration::from_mins(1), "the processes go on");
        std::thread::sleep(Duration::from_millis(50));
    }
}
