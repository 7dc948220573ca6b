//! Several processes on one machine, by MLX's ring: what collectives give, and that nobody waits for who is lost.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use approx::assert_relative_eq;
use mlx_diagnose::distributed::{Loss, Placement, PresenceLimits, Ranks, Transport};
use mlx_diagnose::train::{DataParallel as _, LossAndGradients};
use mlx_rs::{Array, Dtype};
use rstest::rstest;

/// What a process of a test does, which the test's own processes find in their environment.
const PART: &str = "PART_OF_A_DISTRIBUTED_RUN";
/// Short, since tests wait for it, and long enough for a machine that does much else.
const LIMITS: PresenceLimits = PresenceLimits {
    heartbeat: Duration::from_millis(100),
    silence: Duration::from_secs(4),
    arrival: Duration::from_secs(30),
};
/// Exit code of a process that has lost another.
const LOST: i32 = 7;

/// Ports that nobody uses at the moment.
pub(crate) fn host_file(folder: &Path, size: usize) -> String {
    let listeners: Vec<TcpListener> = (0..size).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses: Vec<[String; 1]> = listeners
        .iter()
        .map(|listener| [listener.local_addr().unwrap().to_string()])
        .collect();
    let path = folder.join("hosts.json");
    fs::write(&path, serde_json::to_string(&addresses).unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The processes of a run, which end with this.
struct Processes(Vec<Child>);

impl Processes {
    fn start(part: &str, size: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let hosts = host_file(folder.path(), size);
        let mut processes = Self(
            (0..size)
                .map(|rank| {
                    Command::new(std::env::current_exe().unwrap())
                        .args(["--exact", "integration::distributed::a_process_of_a_run", "--nocapture"])
                        .env(PART, part)
                        .env("MLX_RANK", rank.to_string())
                        .env("MLX_HOSTFILE", &hosts)
                        .stdout(Stdio::piped())
                        .stderr(Stdio::piped())
                        .spawn()
                        .unwrap()
                })
                .collect(),
        );
        // The file is there until all have met.
        for rank in 0..size {
            processes.await_line(rank, "met");
        }
        processes
    }

    /// Reads what a process prints to the end of the line that is only this.
    fn await_line(&mut self, rank: usize, line: &str) {
        let output = self.0[rank].stdout.as_mut().unwrap();
        assert!(read_to(output, line), "rank {rank} ended before it was `{line}`");
    }

    /// What a process printed on both streams since, and its exit code.
    fn end_of(&mut self, rank: usize) -> (Option<i32>, String) {
        let mut text = String::new();
        let child = &mut self.0[rank];
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (child.wait().unwrap().code(), text)
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Byte by byte, so that nothing behind the line is taken away.
fn read_to(output: &mut ChildStdout, line: &str) -> bool {
    let mut reader = BufReader::with_capacity(1, output);
    let mut text = String::new();
    loop {
        text.clear();
        if reader.read_line(&mut text).unwrap() == 0 {
            return false;
        }
        if text.trim_end() == line {
            return true;
        }
    }
}

/// Not a test but the processes of those below.
#[test]
fn a_process_of_a_run() {
    if let Ok(part) = std::env::var(PART) {
        take_part(&part);
    }
}

#[expect(clippy::print_stdout, reason = "the test that started it reads this")]
fn take_part(part: &str) {
    let placement = Placement::of_environment().unwrap().unwrap();
    assert_eq!(placement.transport, Transport::Ring);
    let on_loss = |loss: Loss| {
        println!("{loss}");
        // A collective cannot be interrupted, and exit would wait for MLX's threads.
        signal_hook::low_level::exit(LOST);
    };
    let ranks = Ranks::meet(&placement, LIMITS, on_loss).unwrap();
    println!("\nmet");
    match part {
        "collectives" => collectives(&ranks),
        "averages" => averages(&ranks),
        "agreement" => agreement(&ranks),
        "sums" => loop {
            let sum = ranks.group().all_sum(&Array::from_slice(&[1.0_f32; 1000], &[1000]));
            ranks.settled(sum).unwrap();
        },
        "failure" => {
            // Nobody fails before all have said that they are there.
            ranks.group().barrier().unwrap();
            if placement.rank == 1 {
                ranks.fail();
            } else {
                ranks.settled(ranks.group().barrier()).unwrap();
            }
        }
        other => panic!("no part `{other}`"),
    }
}

/// Process `r` has `r` tokens, a loss of `10 r` and gradients of `r` and `-r`; the first has none of them.
fn averages(ranks: &Ranks) {
    let (rank, size) = (ranks.rank() as f32, ranks.size() as f32);
    let parameters = BTreeMap::from([
        ("matrix".to_owned(), mlx_rs::ops::zeros::<f32>(&[2, 3]).unwrap()),
        (
            "half".to_owned(),
            mlx_rs::ops::zeros_dtype(&[5], Dtype::Bfloat16).unwrap(),
        ),
    ]);
    let filled = |value: f32, like: &Array| {
        let value = Array::from_f32(value).as_dtype(like.dtype()).unwrap();
        mlx_rs::ops::broadcast_to(value, like.shape()).unwrap()
    };
    let own = (ranks.rank() > 0).then(|| LossAndGradients {
        loss: Array::from_f32(10.0 * rank),
        gradients: BTreeMap::from([
            ("matrix".to_owned(), filled(rank, &parameters["matrix"])),
            ("half".to_owned(), filled(-rank, &parameters["half"])),
        ]),
    });
    let mean = ranks.average(own, ranks.rank(), &parameters).unwrap();
    // The mean of r weighted by r: the sum of squares over the sum, of 0 to size - 1.
    let expected = (2.0 * size - 1.0) / 3.0;
    assert_relative_eq!(mean.loss.item_exact::<f32>(), 10.0 * expected, max_relative = 1e-6);
    assert_eq!(mean.gradients["matrix"].shape(), [2, 3]);
    for value in mean.gradients["matrix"].as_slice::<f32>() {
        assert_relative_eq!(*value, expected, max_relative = 1e-6);
    }
    assert_eq!(mean.gradients["half"].dtype(), Dtype::Bfloat16);
    let half = mean.gradients["half"].as_dtype(Dtype::Float32).unwrap();
    for value in half.as_slice::<f32>() {
        // Eight bits of a bfloat16's mantissa.
        assert_relative_eq!(*value, -expected, max_relative = 1.0 / 256.0);
    }
    let nobody = ranks.average(None, 0, &parameters).unwrap_err();
    assert!(nobody.what().contains("no process has a token to learn"), "{nobody}");
}

/// The last process has another number, and another first value.
fn agreement(ranks: &Ranks) {
    let is_last = ranks.rank() + 1 == ranks.size();
    ranks.agree("number", 0xffff_fff0).unwrap();
    let differs = ranks.agree("number", is_last.into()).unwrap_err().to_string();
    let named = format!("other number at rank {} than at rank 0", ranks.size() - 1);
    assert!(differs.contains(&named), "{differs}");

    let values = [if is_last { -0.0_f32 } else { 0.0 }, 1.5];
    let arrays = BTreeMap::from([("values".to_owned(), Array::from_slice(&values, &[2]))]);
    let differs = ranks.agree_on_bits("values", &arrays).unwrap_err().to_string();
    assert!(differs.contains("other values at rank"), "{differs}");
    let of_first = ranks.of_first(&arrays).unwrap();
    assert_eq!(of_first["values"].as_slice::<f32>(), [0.0, 1.5]);
    ranks.agree_on_bits("values", &of_first).unwrap();

    assert!(ranks.any(is_last).unwrap());
    assert!(!ranks.any(false).unwrap());
    assert_eq!(ranks.sum(&[1.0, ranks.rank() as f32]).unwrap()[0], ranks.size() as f32);
}

fn collectives(ranks: &Ranks) {
    let group = ranks.group();
    let (rank, size) = (group.rank(), group.size());
    let own = rank as f32;
    let all = size as f32;

    // Sums of whole numbers are exact in any order; the last part of a million values is no whole packet.
    let values: Vec<f32> = (0..1_000_003).map(|place| own + (place % 7) as f32).collect();
    let sum = group.all_sum(&Array::from_slice(&values, &[1_000_003])).unwrap();
    for (place, found) in sum.as_slice::<f32>().iter().enumerate() {
        assert_eq!(*found, all * (all - 1.0) / 2.0 + all * (place % 7) as f32);
    }
    let largest = group.all_max(&Array::from_slice(&[own, -own], &[2])).unwrap();
    assert_eq!(largest.as_slice::<f32>(), [all - 1.0, 0.0]);
    let gathered = group
        .all_gather(&Array::from_slice(&[rank as u32, 9], &[1, 2]))
        .unwrap();
    assert_eq!(gathered.shape(), [size as i32, 2]);
    let expected: Vec<u32> = (0..size as u32).flat_map(|rank| [rank, 9]).collect();
    assert_eq!(gathered.as_slice::<u32>(), expected);

    // Each to the next; the first one begins.
    let (next, before) = ((rank + 1) % size, (rank + size - 1) % size);
    let message = Array::from_slice(&[own, 0.5], &[2]);
    let receive = || group.receive(&[2], Dtype::Float32, before).unwrap();
    let received = if rank == 0 {
        group.send(&message, next).unwrap();
        receive()
    } else {
        let received = receive();
        group.send(&message, next).unwrap();
        received
    };
    assert_eq!(received.as_slice::<f32>(), [before as f32, 0.5]);
    group.barrier().unwrap();
    for wrong in [rank, size] {
        let refused = group.send(&message, wrong).unwrap_err();
        assert!(refused.what().contains("exchanges no array with"), "{refused}");
    }
}

#[rstest]
fn every_process_gets_what_all_have_together(
    #[values("collectives", "averages", "agreement")] part: &str,
    #[values(2, 4)] size: usize,
) {
    let mut processes = Processes::start(part, size);
    for rank in 0..size {
        let (code, text) = processes.end_of(rank);
        assert_eq!(code, Some(0), "rank {rank}: {text}");
    }
}

#[rstest]
#[case::killed("KILL", 2)]
#[case::stopped("STOP", 2)]
#[case::killed_among_four("KILL", 4)]
#[case::stopped_among_four("STOP", 4)]
fn a_lost_process_is_named_by_every_other(#[case] signal: &str, #[case] size: usize) {
    let mut processes = Processes::start("sums", size);
    let lost = processes.0[1].id();
    let signalled = Command::new("kill").args(["-s", signal, &lost.to_string()]).status();
    assert!(signalled.unwrap().success());
    for rank in (0..size).filter(|&rank| rank != 1) {
        let (code, text) = processes.end_of(rank);
        assert_eq!(code, Some(LOST), "rank {rank}: {text}");
        assert!(text.contains("rank 1 is lost\n"), "rank {rank}: {text}");
    }
}

#[test]
fn a_process_that_fails_is_named_at_once() {
    let mut processes = Processes::start("failure", 2);
    let (code, text) = processes.end_of(0);
    assert_eq!(code, Some(LOST), "{text}");
    assert!(text.contains("rank 1 has failed\n"), "{text}");
}

#[test]
fn a_process_that_does_not_come_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let placement = Placement {
        transport: Transport::Ring,
        rank: 0,
        addresses: serde_json::from_str::<Vec<[String; 1]>>(&fs::read_to_string(host_file(folder.path(), 2)).unwrap())
            .unwrap()
            .into_iter()
            .map(|[address]| address)
            .collect(),
    };
    let limits = PresenceLimits {
        arrival: Duration::from_millis(300),
        ..LIMITS
    };
    let (tell, told) = std::sync::mpsc::channel();
    let presence = mlx_diagnose::distributed::Presence::start(0, &placement.addresses, limits, move |loss| {
        tell.send(loss).unwrap();
    })
    .unwrap();
    let loss = told.recv_timeout(Duration::from_mins(1)).unwrap();
    assert!(matches!(loss, Loss::NeverCame { rank: 1, .. }), "{loss:?}");
    let taken = mlx_diagnose::distributed::Presence::start(0, &placement.addresses, limits, drop).unwrap_err();
    assert!(taken.to_string().contains("another run may use the port"), "{taken}");
    drop(presence);
}
