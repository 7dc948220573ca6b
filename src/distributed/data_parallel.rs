//! Gradients averaged over the processes of a run.

use std::collections::BTreeMap;

use mlx_rs::error::Exception;
use mlx_rs::ops::{concatenate, divide, multiply, zeros};
use mlx_rs::{Array, Dtype};

use super::Ranks;
use crate::data::Batch;
use crate::readback::vector;
use crate::train::{DataParallel, LossAndGradients};

/// Values that one sum over the processes carries at most, 32 MB: enough to keep a network busy, little beside a model. A single
/// larger array goes alone. As large as mlx-lm's.
const VALUES_PER_SUM: usize = 8 << 20;

impl DataParallel for Ranks {
    fn rank(&self) -> usize {
        self.group().rank()
    }

    fn size(&self) -> usize {
        self.group().size()
    }

    fn any(&self, own: bool) -> Result<bool, Exception> {
        Self::any(self, own)
    }

    fn begin_alike(&self, own: BTreeMap<String, Array>) -> Result<BTreeMap<String, Array>, Exception> {
        self.of_first(&own)
    }

    fn own_rows(&self, batch: &Batch) -> Batch {
        batch.deal(self.size()).swap_remove(self.rank())
    }

    /// Every mean is weighted by its tokens: the mean of the means would count a token of a short answer more than one of a long
    /// answer.
    fn average(
        &self,
        own: Option<LossAndGradients>,
        tokens: usize,
        parameters: &BTreeMap<String, Array>,
    ) -> Result<LossAndGradients, Exception> {
        let weight = Array::from_f32(tokens as f32);
        let (own_loss, mut own_gradients) = match own {
            Some(own) => (
                multiply(own.loss.as_dtype(Dtype::Float32)?, &weight)?,
                Some(own.gradients),
            ),
            None => (Array::from_f32(0.0), None),
        };
        let mut sent = vec![concatenate(&[own_loss.reshape(&[1])?, weight.reshape(&[1])?], 0)?];
        for (name, parameter) in parameters {
            let gradient = match &mut own_gradients {
                None => zeros::<f32>(&[parameter.size() as i32])?,
                Some(gradients) => {
                    let gradient = gradients.remove(name).ok_or_else(|| {
                        Exception::custom(format!("`{name}` is trained and has no gradient to average"))
                    })?;
                    multiply(gradient.as_dtype(Dtype::Float32)?.reshape(&[-1])?, &weight)?
                }
            };
            sent.push(gradient);
        }
        let mut sums = self.settled(self.sums(&sent))?.into_iter();
        let head = sums.next().ok_or_else(|| Exception::custom("a sum without its head"))?;
        let [loss, tokens] = two_values(&head)?;
        if tokens == 0.0 {
            return Err(Exception::custom("no process has a token to learn"));
        }
        let all = Array::from_f32(tokens);
        let gradients = parameters
            .iter()
            .zip(sums)
            .map(|((name, parameter), sum)| {
                let mean = divide(sum, &all)?.reshape(parameter.shape())?;
                Ok((name.clone(), mean.as_dtype(parameter.dtype())?))
            })
            .collect::<Result<_, Exception>>()?;
        Ok(LossAndGradients {
            loss: Array::from_f32(loss / tokens),
            gradients,
        })
    }
}

impl Ranks {
    /// The sum over the processes of each of `arrays`, which are flat and in f32, in few collectives.
    fn sums(&self, arrays: &[Array]) -> Result<Vec<Array>, Exception> {
        let mut sums = Vec::with_capacity(arrays.len());
        for bucket in buckets(arrays) {
            let whole = self.group().all_sum(&concatenate(bucket, 0)?)?;
            let mut starts = Vec::with_capacity(bucket.len());
            let mut end = 0;
            for array in bucket {
                starts.push(end);
                end += array.size() as i32;
            }
            sums.extend(whole.split_at_indices(&starts[1..], 0)?);
        }
        Ok(sums)
    }
}

/// Neighbours that go together in one sum.
fn buckets(arrays: &[Array]) -> Vec<&[Array]> {
    let mut buckets = Vec::new();
    let mut rest = arrays;
    while !rest.is_empty() {
        let mut values = 0;
        let fitting = rest.iter().take_while(|array| {
            values += array.size();
            values <= VALUES_PER_SUM
        });
        let (bucket, later) = rest.split_at(fitting.count().max(1));
        buckets.push(bucket);
        rest = later;
    }
    buckets
}

fn two_values(array: &Array) -> Result<[f32; 2], Exception> {
    let values = vector::<f32>(array)?;
    <[f32; 2]>::try_from(values).map_err(|found| Exception::custom(format!("{} values instead of two", found.len())))
}

#[cfg(test)]
mod tests {
    use mlx_rs::Array;
    use mlx_rs::ops::zeros;

    use super::{VALUES_PER_SUM, buckets};

    #[test]
    fn sums_carry_as_much_as_they_may_and_nothing_is_left_out() {
        let sizes = [3, VALUES_PER_SUM - 4, 2, 2 * VALUES_PER_SUM, 1];
        let arrays: Vec<Array> = sizes
            .iter()
            .map(|&size| zeros::<f32>(&[size as i32]).unwrap())
            .collect();
        let found: Vec<Vec<usize>> = buckets(&arrays)
            .into_iter()
            .map(|bucket| bucket.iter().map(Array::size).collect())
            .collect();
        assert_eq!(found, [&sizes[..2], &sizes[2..3], &sizes[3..4], &sizes[4..]]);
        assert!(buckets(&[]).is_empty());
    }
}
