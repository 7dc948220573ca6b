//! Lines of a stream whose bytes come split anywhere.

use super::bounds::LONGEST_LINE;

/// A line is longer than [`LONGEST_LINE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line is longer than {LONGEST_LINE} bytes")]
pub(super) struct LineTooLong;

/// Takes bytes, gives lines; a line ends in CR, LF or CRLF.
#[derive(Debug, Default)]
pub(super) struct LineSplitter {
    unfinished: Vec<u8>,
    /// The byte before was a CR, to which an LF would belong.
    is_after_carriage_return: bool,
}

impl LineSplitter {
    /// The lines that `bytes` complete, without their ends.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, LineTooLong> {
        let mut lines = Vec::new();
        for &byte in bytes {
            let ends_pair = self.is_after_carriage_return && byte == b'\n';
            self.is_after_carriage_return = byte == b'\r';
            match byte {
                _ if ends_pair => {}
                b'\r' | b'\n' => lines.push(std::mem::take(&mut self.unfinished)),
                _ if self.unfinished.len() == LONGEST_LINE => return Err(LineTooLong),
                _ => self.unfinished.push(byte),
            }
        }
        Ok(lines)
    }

    /// What came after the last end of a line.
    pub(super) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.unfinished)
    }
}
