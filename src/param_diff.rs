//! What changed between two snapshots, computed on the device and read back as numbers.

use mlx_cpu_kernels::Difference;
use mlx_rs::error::Result;
use mlx_rs::ops::{ne, square, subtract};
use mlx_rs::transforms::eval;
use mlx_rs::{Array, Dtype};

use crate::param_snapshot::ParameterSnapshot;
use crate::readback::scalar;

/// One parameter before against after.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterDifference {
    /// Path in the parameter tree.
    pub name: String,
    /// Number of values after.
    pub values: u64,
    /// Values that differ bit for bit.
    pub changed_values: u64,
    /// Euclidean norm before.
    pub norm_before: f64,
    /// Euclidean norm after.
    pub norm_after: f64,
    /// Euclidean norm of the difference.
    pub norm_difference: f64,
}

/// Two snapshots compared.
#[derive(Debug, Clone, PartialEq)]
pub struct SnapshotDifference {
    /// Parameters of both snapshots with the same shape and type, sorted by path.
    pub compared: Vec<ParameterDifference>,
    /// Parameters of the first snapshot only, or of another shape in the second.
    pub vanished: Vec<String>,
    /// Parameters of the second snapshot only, or of another shape in the first.
    pub appeared: Vec<String>,
}

/// Compares two snapshots bit for bit.
pub fn compare(before: &ParameterSnapshot, after: &ParameterSnapshot) -> Result<SnapshotDifference> {
    let comparable = |name: &str, array: &Array, other: &ParameterSnapshot| {
        other
            .parameters()
            .get(name)
            .is_some_and(|counterpart| counterpart.shape() == array.shape() && counterpart.dtype() == array.dtype())
    };
    let only_in = |one: &ParameterSnapshot, other: &ParameterSnapshot| -> Vec<String> {
        one.parameters()
            .iter()
            .filter(|(name, array)| !comparable(name, array, other))
            .map(|(name, _)| name.clone())
            .collect()
    };
    let mut pairs = Vec::new();
    for (name, old) in before.parameters() {
        if let Some(new) = after.parameters().get(name).filter(|new| comparable(name, new, before)) {
            pairs.push((name, old, new));
        }
    }
    let in_one_pass = pairs
        .iter()
        .map(|(_, old, new)| {
            mlx_cpu_kernels::serve([*old, *new])
                .then(|| mlx_cpu_kernels::difference(old, new))
                .transpose()
        })
        .collect::<Result<Vec<_>>>()?;
    // Small parameters would cost more to wait for, one by one, than to compare.
    eval(in_one_pass.iter().flatten())?;
    let compared = pairs
        .into_iter()
        .zip(&in_one_pass)
        .map(|((name, old, new), numbers)| match numbers {
            Some(numbers) => Ok(read_difference(name, new, Difference::read(numbers)?)),
            None => difference(name, old, new),
        })
        .collect::<Result<_>>()?;
    Ok(SnapshotDifference {
        compared,
        vanished: only_in(before, after),
        appeared: only_in(after, before),
    })
}

fn read_difference(name: &str, new: &Array, found: Difference) -> ParameterDifference {
    ParameterDifference {
        name: name.to_owned(),
        values: new.size() as u64,
        changed_values: found.changed,
        norm_before: found.squares_before.sqrt(),
        norm_after: found.squares_after.sqrt(),
        // The same bits differ in nothing, even where they are no numbers.
        norm_difference: if found.changed == 0 {
            0.0
        } else {
            found.squares_of_difference.sqrt()
        },
    }
}

fn difference(name: &str, old: &Array, new: &Array) -> Result<ParameterDifference> {
    let values = new.size() as u64;
    if same_buffer(old, new)? {
        let norm = read(&norm(old)?)?;
        return Ok(ParameterDifference {
            name: name.to_owned(),
            values,
            changed_values: 0,
            norm_before: norm,
            norm_after: norm,
            norm_difference: 0.0,
        });
    }
    let changed = ne(bits(old)?, bits(new)?)?.as_dtype(Dtype::Uint32)?.sum(None)?;
    let norms = [
        norm(old)?,
        norm(new)?,
        norm(&subtract(as_numbers(new)?, as_numbers(old)?)?)?,
    ];
    eval(norms.iter().chain([&changed]))?;
    let changed_values = u64::from(scalar::<u32>(&changed)?);
    Ok(ParameterDifference {
        name: name.to_owned(),
        values,
        changed_values,
        norm_before: read(&norms[0])?,
        norm_after: read(&norms[1])?,
        // As above: NaN less itself is no zero.
        norm_difference: if changed_values == 0 { 0.0 } else { read(&norms[2])? },
    })
}

/// Whether two arrays are the very same object: the same values at the same place in memory.
pub fn same_buffer(left: &Array, right: &Array) -> Result<bool> {
    let address = |array: &Array| -> Result<Option<*const u8>> {
        let bytes = array.view_dtype(Dtype::Uint8)?;
        bytes.eval()?;
        Ok(bytes.try_as_slice::<u8>().ok().map(<[u8]>::as_ptr))
    };
    if left.shape() != right.shape() || left.dtype() != right.dtype() {
        return Ok(false);
    }
    Ok(matches!((address(left)?, address(right)?), (Some(left), Some(right)) if left == right))
}

/// The raw bits, so that NaN equals itself and zero differs from minus zero.
pub(crate) fn bits(array: &Array) -> Result<Array> {
    match array.item_size() {
        4 => array.view_dtype(Dtype::Uint32),
        2 => array.view_dtype(Dtype::Uint16),
        1 => array.view_dtype(Dtype::Uint8),
        _ => Ok(array.clone()),
    }
}

fn as_numbers(array: &Array) -> Result<Array> {
    array.as_dtype(Dtype::Float32)
}

fn norm(array: &Array) -> Result<Array> {
    square(as_numbers(array)?)?.sum(None)?.sqrt()
}

fn read(norm: &Array) -> Result<f64> {
    scalar::<f32>(norm).map(f64::from)
}
