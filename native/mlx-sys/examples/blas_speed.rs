//! Prints how fast the matrix products of this crate are.
//!
//! `cargo run --release --package mlx-sys --example blas_speed [THREADS]`

#[cfg(target_os = "linux")]
fn main() {
    use std::{env, hint::black_box, time::Instant};

    use mlx_sys::blas;

    // Shapes (m, k, n) of a small language model; B is stored transposed, as weights are.
    const SHAPES: &[(i32, i32, i32)] = &[
        (1024, 1024, 1024),
        (512, 576, 1536),
        (512, 1536, 576),
        (512, 576, 49152),
        (512, 576, 8),
        (512, 8, 576),
        (128, 64, 128),
        (64, 64, 64),
        (96, 96, 96),
        (128, 128, 128),
        (160, 160, 160),
        (192, 192, 192),
        (256, 256, 256),
        (1, 576, 192),
        (1, 576, 576),
        (1, 576, 1536),
        (1, 1536, 576),
        (1, 576, 49152),
        (2, 576, 49152),
        (4, 576, 49152),
        (8, 576, 49152),
        (512, 1, 576),
        (512, 2, 49152),
    ];

    let threads: usize = env::args()
        .nth(1)
        .map_or(0, |text| text.parse().expect("THREADS is a number"));
    blas::set_threads(threads);
    println!("threads: {}", blas::threads());
    println!("{:>22} {:>10} {:>10} {:>8}", "m x k x n", "time us", "GFLOP/s", "GB/s");
    for &(m, k, n) in SHAPES {
        let a = vec![0.5_f32; (m * k) as usize];
        let b = vec![0.25_f32; (k * n) as usize];
        let mut c = vec![0.0_f32; (m * n) as usize];
        let flops = 2.0 * f64::from(m) * f64::from(k) * f64::from(n);
        let bytes = 4.0 * (a.len() + b.len() + c.len()) as f64;
        let mut best = f64::INFINITY;
        let begin = Instant::now();
        while begin.elapsed().as_secs_f64() < 0.6 {
            let start = Instant::now();
            // SAFETY: the three vectors have the sizes given.
            unsafe {
                blas::cblas_sgemm(
                    101,
                    111,
                    112,
                    m,
                    n,
                    k,
                    1.0,
                    a.as_ptr(),
                    k,
                    b.as_ptr(),
                    k,
                    0.0,
                    c.as_mut_ptr(),
                    n,
                );
            }
            best = best.min(start.elapsed().as_secs_f64());
            black_box(&c);
        }
        println!(
            "{:>22} {:>10.1} {:>10.1} {:>8.1}",
            format!("{m}x{k}x{n}"),
            best * 1e6,
            flops / best * 1e-9,
            bytes / best * 1e-9
        );
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("only on Linux: elsewhere MLX brings its own");
}
