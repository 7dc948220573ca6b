/// Another form in which files hold a tensor that the model has under another name or in another shape.
///
/// Names are of plain tensors and end as the tensor's own does; a form without a transposition serves packed ones too,
/// whose `scales` and `biases` are named alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) enum StoredForm {
    /// The same under another name.
    Renamed(String),
    /// A matrix with rows and columns exchanged, as GPT-2's `Conv1D` keeps it.
    Transposed(String),
    /// One tensor for each index of the first axis.
    Stacked(Vec<String>),
    /// One of several equal parts along the second axis, `part` from 0.
    Part {
        /// The whole.
        name: String,
        /// Which part.
        part: usize,
        /// How many parts the whole has.
        parts: usize,
    },
}

impl StoredForm {
    /// The names of the tensors in the files.
    pub(in crate::model) fn names(&self) -> Vec<&String> {
        match self {
            Self::Renamed(name) | Self::Transposed(name) | Self::Part { name, .. } => vec![name],
            Self::Stacked(names) => names.iter().collect(),
        }
    }
}
