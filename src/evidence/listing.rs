use serde::{Deserialize, Serialize};

/// How many names a [`Listing`] keeps.
pub const LISTED_NAMES: usize = 10;

/// A sorted list of names, cut to its first few but counted in full.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "StoredListing")]
pub struct Listing {
    /// How many names there are in all.
    pub total: usize,
    /// The first names in sorted order, at most `LISTED_NAMES`.
    pub first: Vec<String>,
}

/// As it stands in a file, where the two may disagree.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredListing {
    total: usize,
    first: Vec<String>,
}

impl TryFrom<StoredListing> for Listing {
    type Error = String;

    fn try_from(StoredListing { total, first }: StoredListing) -> Result<Self, String> {
        if first.len() > total {
            return Err(format!("{} names of {total}", first.len()));
        }
        Ok(Self { total, first })
    }
}

impl Listing {
    /// `word N` for each number, in the given order.
    pub fn numbered(word: &str, numbers: impl Iterator<Item = usize>) -> Self {
        let mut first = Vec::new();
        let mut total = 0;
        for number in numbers {
            if total < LISTED_NAMES {
                first.push(format!("{word} {number}"));
            }
            total += 1;
        }
        Self { total, first }
    }

    /// The share of the listed among `all`, 0 to 1; 0 of none.
    pub fn share_of(&self, all: usize) -> f64 {
        self.total as f64 / all.max(1) as f64
    }

    /// Whether there is no name at all.
    pub fn is_empty(&self) -> bool {
        self.total == 0
    }
}

impl<S: Into<String>> FromIterator<S> for Listing {
    fn from_iter<I: IntoIterator<Item = S>>(names: I) -> Self {
        let mut first: Vec<String> = names.into_iter().map(Into::into).collect();
        first.sort();
        let total = first.len();
        first.truncate(LISTED_NAMES);
        Self { total, first }
    }
}

impl std::fmt::Display for Listing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_empty() {
            return formatter.write_str("none");
        }
        formatter.write_str(&self.first.join(", "))?;
        match self.total - self.first.len() {
            0 => Ok(()),
            more => write!(formatter, " and {more} more"),
        }
    }
}

impl From<&Listing> for serde_json::Value {
    fn from(listing: &Listing) -> Self {
        serde_json::json!({ "total": listing.total, "first": listing.first })
    }
}
