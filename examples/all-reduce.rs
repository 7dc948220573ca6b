//! What a sum over processes costs, by its size.
//!
//! ```sh
//! cargo build --release --example all-reduce
//! diagnose launch -n 2 --program target/release/examples/all-reduce -- 20
//! ```

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool prints what it measured"
)]

use std::time::Instant;

use anyhow::{Context, Result};
use mlx_diagnose::distributed::{Placement, PresenceLimits, Ranks};
use mlx_rs::ops::ones;
use mlx_rs::transforms::eval;

/// Values in each sum, in f32.
const SIZES: [i32; 7] = [1, 1 << 10, 1 << 14, 1 << 17, 1 << 20, 1 << 22, 1 << 25];
/// Sums before those that are timed: connections have to get up to speed.
const WARM_UPS: usize = 2;

fn main() -> Result<()> {
    let repeats: usize = std::env::args()
        .nth(1)
        .context("expected how often each sum is repeated, for example 20")?
        .parse()?;
    let placement =
        Placement::of_environment()?.context("expected to be started by `diagnose launch` or `mlx.launch`")?;
    let ranks = Ranks::meet(&placement, PresenceLimits::default(), |loss| {
        eprintln!("{loss}");
        std::process::abort();
    })?;
    if ranks.is_first() {
        println!("{} processes", ranks.size());
        println!("{:>12}  {:>10}  {:>10}  {:>8}", "bytes", "median", "slowest", "GB/s");
    }
    for size in SIZES {
        let values = ones::<f32>(&[size])?;
        eval([&values])?;
        let mut seconds = Vec::with_capacity(repeats);
        for repeat in 0..WARM_UPS + repeats {
            ranks.group().barrier()?;
            let began = Instant::now();
            ranks.group().all_sum(&values)?;
            if repeat >= WARM_UPS {
                seconds.push(began.elapsed().as_secs_f64());
            }
        }
        seconds.sort_by(f64::total_cmp);
        let (Some(slowest), Some(median)) = (seconds.last(), seconds.get(seconds.len() / 2)) else {
            anyhow::bail!("expected at least one repeat");
        };
        if ranks.is_first() {
            let bytes = f64::from(size) * 4.0;
            println!(
                "{bytes:>12}  {:>7.3} ms  {:>7.3} ms  {:>8.2}",
                median * 1e3,
                slowest * 1e3,
                bytes / median / 1e9
            );
        }
    }
    Ok(())
}
