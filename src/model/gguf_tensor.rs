//! A tensor of a GGUF file in the form in which it is held in memory.

use mlx_rs::{Array, Dtype};

use super::{
    CheckpointError, GgufHeader, GgufTensor, PackedForm, PackedMatrix, Precision, StoredTensor, gguf_blocks,
    gguf_packing,
};

/// The tensor, packed where `precision` keeps packed weights and MLX has such a packing.
///
/// # Errors
/// The file cannot be read, or its blocks are no blocks of their type.
pub(super) fn stored(
    header: &GgufHeader,
    tensor: &GgufTensor,
    precision: Precision,
) -> Result<StoredTensor, CheckpointError> {
    let shape: Vec<i32> = tensor.shape.iter().map(|&size| size as i32).collect();
    let bytes = header.tensor_bytes(tensor)?;
    if precision.keep_packed
        && let [rows, columns] = shape[..]
        && let Some(packed) = gguf_packing::pack(tensor.tensor_type, &bytes)
    {
        let packing = packed.packing;
        let groups = columns / packing.group_size;
        return Ok(StoredTensor::Packed(PackedMatrix {
            weight: Array::from_slice(&packed.words, &[rows, packing.packed_columns(columns)]),
            scales: Array::from_slice(&packed.scales, &[rows, groups]),
            biases: Some(Array::from_slice(&packed.biases, &[rows, groups])),
            form: PackedForm {
                packing,
                dtype: Dtype::Float32,
            },
        }));
    }
    plain(tensor, bytes, &shape).map(StoredTensor::Plain)
}

/// The tensor's values, row after row.
///
/// # Errors
/// As [`stored`].
pub(super) fn values(header: &GgufHeader, tensor: &GgufTensor) -> Result<Vec<f32>, CheckpointError> {
    dequantized(tensor, &header.tensor_bytes(tensor)?)
}

fn plain(tensor: &GgufTensor, bytes: Vec<u8>, shape: &[i32]) -> Result<Array, CheckpointError> {
    let tensor_type = tensor.tensor_type;
    let expected = shape.iter().map(|&size| size as usize).product::<usize>();
    // Values that are written where MLX wants them are not copied there.
    if mlx_cpu_kernels::serve([]) && gguf_blocks::values_in(tensor_type, &bytes) == Ok(expected) {
        let fill = move |values: &mut [f32]| gguf_blocks::dequantize_into(tensor_type, &bytes, values);
        return Ok(mlx_cpu_kernels::filled(shape, fill)?);
    }
    Ok(Array::from_slice(&dequantized(tensor, &bytes)?, shape))
}

fn dequantized(tensor: &GgufTensor, bytes: &[u8]) -> Result<Vec<f32>, CheckpointError> {
    gguf_blocks::dequantize(tensor.tensor_type, bytes).map_err(|source| CheckpointError::Block {
        tensor: tensor.name.clone(),
        source,
    })
}
