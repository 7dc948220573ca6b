//! Typed metadata values.

/// A metadata value. Integers are widened; their width in the file has no meaning of its own.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// An unsigned integer of 8 to 64 bits.
    Unsigned(u64),
    /// A signed integer of 8 to 64 bits.
    Signed(i64),
    /// A single-precision number.
    Float32(f32),
    /// A double-precision number.
    Float64(f64),
    /// True or false.
    Boolean(bool),
    /// Text.
    Text(String),
    /// Values of one type.
    Array(GgufArray),
}

/// A metadata array. Integers are widened as in [`GgufValue`].
#[derive(Debug, Clone, PartialEq)]
pub enum GgufArray {
    /// Unsigned integers.
    Unsigned(Vec<u64>),
    /// Signed integers.
    Signed(Vec<i64>),
    /// Single-precision numbers.
    Float32(Vec<f32>),
    /// Double-precision numbers.
    Float64(Vec<f64>),
    /// Truth values.
    Boolean(Vec<bool>),
    /// Texts.
    Text(Vec<String>),
    /// Arrays.
    Array(Vec<GgufArray>),
}

impl GgufValue {
    /// The kind and, when short, the value, for messages.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Unsigned(value) => format!("the integer {value}"),
            Self::Signed(value) => format!("the integer {value}"),
            Self::Float32(value) => format!("the number {value}"),
            Self::Float64(value) => format!("the number {value}"),
            Self::Boolean(value) => value.to_string(),
            Self::Text(value) => format!("the text `{}`", value.chars().take(40).collect::<String>()),
            Self::Array(_) => "an array".to_owned(),
        }
    }
}
