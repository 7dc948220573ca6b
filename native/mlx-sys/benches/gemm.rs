//! The matrix products that MLX asks for, over the shapes of SmolLM2-135M: `cargo bench --package mlx-sys`.

use criterion::{Criterion, criterion_group, criterion_main};

#[cfg(target_os = "linux")]
fn gemm(criterion: &mut Criterion) {
    use criterion::{BenchmarkId, Throughput};
    use mlx_sys::blas::cblas_sgemm;

    const ROW_MAJOR: i32 = 101;
    const AS_IT_IS: i32 = 111;
    const TRANSPOSED: i32 = 112;
    // (m, k, n): batch, a projection, feed-forward both ways, the vocabulary, an adapter, decoding.
    const SHAPES: &[(i32, i32, i32)] = &[
        (512, 576, 576),
        (512, 576, 1536),
        (512, 1536, 576),
        (512, 576, 49152),
        (512, 576, 8),
        (512, 8, 576),
        (1, 576, 1536),
        (1, 576, 49152),
    ];

    let mut group = criterion.benchmark_group("cblas_sgemm");
    group.sample_size(20);
    for &(m, k, n) in SHAPES {
        let a = vec![0.5_f32; (m * k) as usize];
        // Transposed, as weights are.
        let b = vec![0.25_f32; (k * n) as usize];
        let mut c = vec![0.0_f32; (m * n) as usize];
        group.throughput(Throughput::Elements(2 * m as u64 * k as u64 * n as u64));
        group.bench_function(BenchmarkId::from_parameter(format!("{m}x{k}x{n}")), |bencher| {
            // SAFETY: the three vectors have the sizes given, and none overlaps another.
            bencher.iter(|| unsafe {
                cblas_sgemm(
                    ROW_MAJOR,
                    AS_IT_IS,
                    TRANSPOSED,
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
            });
        });
    }
    group.finish();
}

/// Elsewhere MLX brings its own products.
#[cfg(not(target_os = "linux"))]
fn gemm(_: &mut Criterion) {}

criterion_group!(benches, gemm);
criterion_main!(benches);
