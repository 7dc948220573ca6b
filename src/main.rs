//! The program `diagnose`.

use anyhow::Result;
use mlx_rs::Array;

fn main() -> Result<()> {
    let left = Array::from_slice(&[1.0_f32, 2.0, 3.0, 4.0], &[2, 2]);
    let product = left.matmul(&left)?;
    anyhow::ensure!(product.as_slice::<f32>() == [7.0, 10.0, 15.0, 22.0], "wrong product: {product:?}");
    Ok(())
}
