/// A tensor that a model of some configuration has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) struct ExpectedTensor {
    /// Its name in mlx-lm's module tree.
    pub(in crate::model) name: String,
    /// Its shape before any packing.
    pub(in crate::model) shape: Vec<usize>,
    /// What it is.
    pub(in crate::model) role: TensorRole,
}

/// What a tensor is: it decides how a fresh one starts and whether it can be packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::model) enum TensorRole {
    /// A table of vectors, a linear layer or one per expert.
    Matrix,
    /// The same, writing into the residual stream.
    ResidualMatrix,
    /// Factors of a norm.
    NormFactor,
    /// Factors of a norm, less one.
    NormFactorLessOne,
    /// What is added to an output.
    Bias,
}

impl TensorRole {
    /// Whether it can be packed.
    pub(in crate::model) fn is_matrix(self) -> bool {
        matches!(self, Self::Matrix | Self::ResidualMatrix)
    }
}

/// A list of tensors in the making; paths are those of modules.
#[derive(Debug, Default)]
pub(super) struct TensorList(Vec<ExpectedTensor>);

impl TensorList {
    fn push(&mut self, name: String, shape: &[usize], role: TensorRole) {
        self.0.push(ExpectedTensor {
            name,
            shape: shape.to_vec(),
            role,
        });
    }

    /// A matrix `[rows, columns]`, or one per expert.
    pub(super) fn matrix(&mut self, path: &str, shape: &[usize]) {
        self.push(format!("{path}.weight"), shape, TensorRole::Matrix);
    }

    /// A matrix that writes into the residual stream.
    pub(super) fn residual_matrix(&mut self, path: &str, shape: &[usize]) {
        self.push(format!("{path}.weight"), shape, TensorRole::ResidualMatrix);
    }

    /// The bias of a module.
    pub(super) fn bias(&mut self, path: &str, size: usize) {
        self.push(format!("{path}.bias"), &[size], TensorRole::Bias);
    }

    /// The factors of a norm.
    pub(super) fn norm(&mut self, path: &str, size: usize) {
        self.push(format!("{path}.weight"), &[size], TensorRole::NormFactor);
    }

    /// The factors of a norm, less one.
    pub(super) fn norm_less_one(&mut self, path: &str, size: usize) {
        self.push(format!("{path}.weight"), &[size], TensorRole::NormFactorLessOne);
    }

    /// The list.
    pub(super) fn finish(self) -> Vec<ExpectedTensor> {
        self.0
    }
}
