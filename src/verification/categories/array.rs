use mlx_rs::Array;

/// An array of these values.
pub(super) fn array(values: &[f32], shape: &[usize]) -> Array {
    let shape: Vec<i32> = shape.iter().map(|&side| side as i32).collect();
    Array::from_slice(values, &shape)
}
