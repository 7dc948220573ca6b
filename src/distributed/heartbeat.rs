//! What processes of a group tell each other beside their collectives: that they are there, how they end.
//!
//! A datagram of nine bytes: four that name the format, one for what is told, four of the rank, the lowest byte first.

/// Which format, with its version.
const NAME: [u8; 4] = *b"MDH1";
/// Bytes of a datagram.
pub(super) const LENGTH: usize = 9;

/// What a process tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// It is there.
    Present,
    /// It has done its part and ends.
    Done,
    /// It ends because something failed.
    Failed,
}

impl News {
    const ALL: [Self; 3] = [Self::Present, Self::Done, Self::Failed];

    fn code(self) -> u8 {
        match self {
            Self::Present => 0,
            Self::Done => 1,
            Self::Failed => 2,
        }
    }
}

/// The datagram by which the process `rank` tells `news`.
pub(super) fn datagram(rank: u32, news: News) -> [u8; LENGTH] {
    let mut bytes = [news.code(); LENGTH];
    bytes[..4].copy_from_slice(&NAME);
    bytes[5..].copy_from_slice(&rank.to_le_bytes());
    bytes
}

/// Rank and news of a datagram; `None` where it is somebody else's.
pub(super) fn read(bytes: &[u8]) -> Option<(usize, News)> {
    let (name, rest) = bytes.split_first_chunk()?;
    let (&code, rank) = rest.split_first()?;
    let news = News::ALL.into_iter().find(|news| news.code() == code)?;
    let rank = usize::try_from(u32::from_le_bytes(rank.try_into().ok()?)).ok()?;
    (*name == NAME).then_some((rank, news))
}

#[cfg(test)]
mod tests {
    use super::{News, datagram, read};

    #[test]
    fn what_is_told_arrives() {
        for news in News::ALL {
            assert_eq!(read(&datagram(70_000, news)), Some((70_000, news)));
        }
    }

    #[test]
    fn what_others_send_is_passed_over() {
        let whole = datagram(1, News::Present);
        assert_eq!(read(&whole[..8]), None);
        assert_eq!(read(&[&whole[..], &[0]].concat()), None);
        for (place, wrong) in [(0, b'X'), (4, 3)] {
            let mut bytes = whole;
            bytes[place] = wrong;
            assert_eq!(read(&bytes), None);
        }
    }
}
