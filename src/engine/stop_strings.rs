//! Texts that end an answer, looked for in text that comes in pieces.

/// Lets text through up to the stop string that is complete first, and of those that end at the same place the longest; what
/// may be the beginning of one is held back. How the text is cut into pieces makes no difference.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Text that may belong to a stop string: shorter than the longest of them.
    held: String,
    has_stopped: bool,
}

impl StopStrings {
    /// A search for each of `stops`, which must not be empty texts.
    pub fn new(stops: Vec<String>) -> Self {
        Self {
            stops,
            held: String::new(),
            has_stopped: false,
        }
    }

    /// Whether a stop string was met. Nothing comes after it.
    pub fn has_stopped(&self) -> bool {
        self.has_stopped
    }

    /// Takes a piece of text and returns what certainly goes before every stop string.
    pub fn push(&mut self, piece: &str) -> String {
        if self.has_stopped {
            return String::new();
        }
        self.held.push_str(piece);
        let met = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop)?;
            Some((start + stop.len(), start))
        });
        if let Some((_, start)) = met.min() {
            self.has_stopped = true;
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let beginnings = self.stops.iter().map(|stop| begun(&self.held, stop));
        let open = beginnings.max().unwrap_or(0);
        let held = self.held.split_off(self.held.len() - open);
        std::mem::replace(&mut self.held, held)
    }

    /// The text held back, when no more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// The length of the longest end of `text` that is a beginning of `stop`. Both are UTF-8, so it holds whole characters.
fn begun(text: &str, stop: &str) -> usize {
    let (text, stop) = (text.as_bytes(), stop.as_bytes());
    let longest = text.len().min(stop.len().saturating_sub(1));
    (1..=longest)
        .rev()
        .find(|&length| text.ends_with(&stop[..length]))
        .unwrap_or(0)
}
