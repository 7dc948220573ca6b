//! Notices when another process of the group is lost.
//!
//! Every process tells every other a few times in a second that it is there, by datagrams to the addresses of the ring: its
//! collectives use these ports by TCP, so the same numbers are free for UDP. A process that computes for long goes on telling;
//! one that was killed, stopped or cut off does not.

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::heartbeat::{LENGTH, News, datagram, read};

/// How often the last news of a process are told, since datagrams may get lost.
const LAST_NEWS: usize = 3;
/// How long a process that hears of another's failure has to fail for the same reason, and to say which.
const OWN_FAILURE: Duration = Duration::from_secs(2);

/// How long others may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PresenceLimits {
    /// Time between two datagrams.
    pub heartbeat: Duration,
    /// After which a process that was there is lost.
    pub silence: Duration,
    /// Within which every process has to come.
    pub arrival: Duration,
}

impl Default for PresenceLimits {
    /// Forty heartbeats may be missed, more than a busy network or machine loses; starting a program over SSH and loading its
    /// libraries takes some seconds.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            silence: Duration::from_secs(10),
            arrival: Duration::from_mins(1),
        }
    }
}

/// A process that is no longer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// It was not heard at all.
    NeverCame {
        /// Its rank.
        rank: usize,
        /// For how long it was waited for.
        waited: Duration,
    },
    /// It was heard, and then no more.
    Silent {
        /// Its rank.
        rank: usize,
        /// For how long.
        silent: Duration,
    },
    /// It said that it failed.
    Failed {
        /// Its rank.
        rank: usize,
    },
}

impl Loss {
    /// Who is lost.
    pub fn rank(&self) -> usize {
        let (Self::NeverCame { rank, .. } | Self::Silent { rank, .. } | Self::Failed { rank }) = self;
        *rank
    }

    /// What was noticed of it, in words.
    pub fn how(&self) -> String {
        match self {
            Self::NeverCame { waited: time, .. } | Self::Silent { silent: time, .. } => {
                format!("no sign of it for {} s", time.as_secs())
            }
            Self::Failed { .. } => "it said that it failed".to_owned(),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverCame { rank, .. } => write!(
                formatter,
                "rank {rank} has not come\n  found: {}\n  hint: look at what its process printed, and \
                 whether a firewall keeps UDP out",
                self.how()
            ),
            Self::Silent { rank, .. } => write!(
                formatter,
                "rank {rank} is lost\n  found: {}\n  expected: a sign several times in a second\n  hint: it \
                 was killed or stopped, or the network between the two is cut; a training goes on from its last checkpoint with \
                 `diagnose train resume`",
                self.how()
            ),
            Self::Failed { rank } => write!(
                formatter,
                "rank {rank} has failed\n  hint: look at what its process printed"
            ),
        }
    }
}

/// Presence could not be told.
#[derive(Debug, Error)]
pub enum PresenceError {
    /// An address is none.
    #[error("the address of rank {rank} cannot be used\n  found: `{address}`: {source}\n  expected: IP:PORT")]
    Address {
        /// Whose.
        rank: usize,
        /// As the host file has it.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The own port is taken.
    #[error(
        "rank {rank} cannot listen at its address\n  found: `{address}`: {source}\n  hint: another run may use the port: end it, or start this one with another `--starting-port`"
    )]
    Taken {
        /// Whose: this process's.
        rank: usize,
        /// As the host file has it.
        address: String,
        /// Why.
        source: io::Error,
    },
}

/// Tells others that this process is there, and watches them, until it is dropped: then it tells that its part is done.
#[derive(Debug)]
pub struct Presence {
    line: Arc<Line>,
    limits: PresenceLimits,
    thread: Option<JoinHandle<()>>,
}

/// What leads to the others.
#[derive(Debug)]
struct Line {
    rank: usize,
    socket: UdpSocket,
    /// By rank, this process among them.
    addresses: Vec<SocketAddr>,
    have_met: AtomicBool,
    is_over: AtomicBool,
}

impl Presence {
    /// Tells and watches from now on. `addresses` are by rank; `on_loss` is called once, by another thread, with the first
    /// process that is lost.
    ///
    /// # Errors
    /// [`PresenceError`].
    pub fn start(
        rank: usize,
        addresses: &[String],
        limits: PresenceLimits,
        on_loss: impl FnOnce(Loss) + Send + 'static,
    ) -> Result<Self, PresenceError> {
        let resolved: Vec<SocketAddr> = addresses
            .iter()
            .enumerate()
            .map(|(rank, address)| {
                resolve(address).map_err(|source| PresenceError::Address {
                    rank,
                    address: address.clone(),
                    source,
                })
            })
            .collect::<Result<_, _>>()?;
        let taken = |source| PresenceError::Taken {
            rank,
            address: addresses.get(rank).cloned().unwrap_or_else(|| "none".to_owned()),
            source,
        };
        let own = resolved
            .get(rank)
            .ok_or_else(|| taken(io::Error::other("no address of this rank")))?;
        let socket = UdpSocket::bind(own).map_err(taken)?;
        socket.set_read_timeout(Some(limits.heartbeat)).map_err(taken)?;
        let line = Arc::new(Line {
            rank,
            socket,
            addresses: resolved,
            have_met: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
        });
        let watched = Arc::clone(&line);
        let thread = std::thread::Builder::new()
            .name("presence".to_owned())
            .spawn(move || {
                if let Some(loss) = watched.watch(limits) {
                    on_loss(loss);
                }
            })
            .map_err(taken)?;
        Ok(Self {
            line,
            limits,
            thread: Some(thread),
        })
    }

    /// Says that every process has come, as a collective has shown: whoever was not heard yet has to be heard from now on.
    pub fn have_met(&self) {
        self.line.have_met.store(true, Ordering::SeqCst);
    }

    /// Waits for as long as it takes to notice a loss that has happened by now; `on_loss` has been called then, if there is one.
    pub fn await_loss(&self) {
        let noticed = Instant::now() + 2 * self.limits.silence;
        let is_watching = || self.thread.as_ref().is_some_and(|thread| !thread.is_finished());
        while is_watching() && Instant::now() < noticed {
            std::thread::sleep(self.limits.heartbeat);
        }
    }

    /// Tells the others that this process failed, so that they need not wait.
    pub fn fail(self) {
        self.line.tell_last(News::Failed);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        if !self.line.is_over.load(Ordering::SeqCst) {
            self.line.tell_last(News::Done);
        }
        if let Some(thread) = self.thread.take() {
            // It panics only where `on_loss` does, which has said so.
            let _ = thread.join();
        }
    }
}

impl Line {
    /// Tells and listens until the first loss; `None` where this process ends before one.
    fn watch(&self, limits: PresenceLimits) -> Option<Loss> {
        let mut watch = Watch::new(self.rank, self.addresses.len(), limits, Instant::now());
        let mut due = Instant::now();
        let mut bytes = [0; LENGTH + 1];
        while !self.is_over.load(Ordering::SeqCst) {
            if Instant::now() >= due {
                self.tell(News::Present);
                due = Instant::now() + limits.heartbeat;
            }
            // An error is that of a datagram which found nobody, or of the time that is up.
            if let Ok((length, from)) = self.socket.recv_from(&mut bytes)
                && let Some((rank, news)) = bytes.get(..length).and_then(read)
                && self.addresses.get(rank) == Some(&from)
            {
                watch.heard(rank, news, Instant::now());
            }
            if self.have_met.swap(false, Ordering::SeqCst) {
                watch.all_have_come(Instant::now());
            }
            if let Some(loss) = watch.loss(Instant::now()) {
                return self.unless_it_ends_too(loss);
            }
        }
        None
    }

    /// The loss, unless this process is about to end by itself: what fails in one often fails in all.
    fn unless_it_ends_too(&self, loss: Loss) -> Option<Loss> {
        if matches!(loss, Loss::Failed { .. }) {
            let patience = Instant::now() + OWN_FAILURE;
            while Instant::now() < patience && !self.is_over.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        (!self.is_over.load(Ordering::SeqCst)).then_some(loss)
    }

    fn tell(&self, news: News) {
        let Ok(rank) = u32::try_from(self.rank) else { return };
        let datagram = datagram(rank, news);
        for (other, address) in self.addresses.iter().enumerate() {
            if other != self.rank {
                // Whoever is not there yet, or no more, is found by the silence.
                let _ = self.socket.send_to(&datagram, address);
            }
        }
    }

    fn tell_last(&self, news: News) {
        self.is_over.store(true, Ordering::SeqCst);
        for _ in 0..LAST_NEWS {
            self.tell(news);
        }
    }
}

fn resolve(address: &str) -> io::Result<SocketAddr> {
    let first = address.to_socket_addrs()?.next();
    first.ok_or_else(|| io::Error::other("no address of this name"))
}

/// What is known of another process.
#[derive(Debug, Clone, Copy)]
enum Seen {
    Never,
    At(Instant),
    Done,
    Failed,
}

/// Who was heard when.
struct Watch {
    own: usize,
    seen: Vec<Seen>,
    limits: PresenceLimits,
    began: Instant,
    looked: Instant,
}

impl Watch {
    fn new(own: usize, size: usize, limits: PresenceLimits, now: Instant) -> Self {
        Self {
            own,
            seen: vec![Seen::Never; size],
            limits,
            began: now,
            looked: now,
        }
    }

    fn heard(&mut self, rank: usize, news: News, now: Instant) {
        if let Some(seen) = self.seen.get_mut(rank) {
            // Datagrams overtake each other; nothing comes after the last news.
            if matches!(seen, Seen::Done | Seen::Failed) {
                return;
            }
            *seen = match news {
                News::Present => Seen::At(now),
                News::Done => Seen::Done,
                News::Failed => Seen::Failed,
            };
        }
    }

    fn all_have_come(&mut self, now: Instant) {
        for seen in &mut self.seen {
            if matches!(seen, Seen::Never) {
                *seen = Seen::At(now);
            }
        }
    }

    /// A process that is lost, of several the one that has been silent for longest: the others may have ended for lack of it.
    fn loss(&mut self, now: Instant) -> Option<Loss> {
        // Whoever was stopped, or whose machine slept, has heard nobody, which says nothing of the others.
        let stood_still = now.duration_since(self.looked);
        if stood_still > self.limits.silence / 2 {
            self.began += stood_still;
            for seen in &mut self.seen {
                if let Seen::At(at) = seen {
                    *at += stood_still;
                }
            }
        }
        self.looked = now;
        let others = self.seen.iter().enumerate().filter(|(rank, _)| *rank != self.own);
        let lost = others.filter_map(|(rank, seen)| match *seen {
            Seen::Never => {
                let waited = now.saturating_duration_since(self.began);
                (waited > self.limits.arrival).then_some((waited, Loss::NeverCame { rank, waited }))
            }
            Seen::At(at) => {
                let silent = now.saturating_duration_since(at);
                (silent > self.limits.silence).then_some((silent, Loss::Silent { rank, silent }))
            }
            Seen::Done => None,
            Seen::Failed => Some((Duration::MAX, Loss::Failed { rank })),
        });
        lost.max_by_key(|(silent, _)| *silent).map(|(_, loss)| loss)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Loss, News, PresenceLimits, Watch};

    const LIMITS: PresenceLimits = PresenceLimits {
        heartbeat: Duration::from_secs(1),
        silence: Duration::from_secs(10),
        arrival: Duration::from_mins(1),
    };

    /// Looks every second, while `heard` says who is heard then, and returns the second and the loss.
    fn first_loss(heard: impl Fn(u64) -> Vec<(usize, News)>, seconds: u64) -> Option<(u64, Loss)> {
        let began = Instant::now();
        let mut watch = Watch::new(0, 3, LIMITS, began);
        (0..=seconds).find_map(|second| {
            let now = began + Duration::from_secs(second);
            for (rank, news) in heard(second) {
                watch.heard(rank, news, now);
            }
            watch.loss(now).map(|loss| (second, loss))
        })
    }

    #[test]
    fn processes_that_are_heard_are_not_lost() {
        let both = |_| vec![(1, News::Present), (2, News::Present)];
        assert_eq!(first_loss(both, 1000), None);
    }

    #[test]
    fn a_process_that_falls_silent_is_lost() {
        let heard = |second| match second {
            0..=100 => vec![(1, News::Present), (2, News::Present)],
            _ => vec![(1, News::Present)],
        };
        let silent = Duration::from_secs(11);
        assert_eq!(first_loss(heard, 1000), Some((111, Loss::Silent { rank: 2, silent })));
    }

    #[test]
    fn a_process_that_does_not_come_is_told() {
        let waited = Duration::from_secs(61);
        let heard = |_| vec![(2, News::Present)];
        assert_eq!(first_loss(heard, 1000), Some((61, Loss::NeverCame { rank: 1, waited })));
    }

    #[test]
    fn a_process_that_was_met_and_never_heard_is_lost_after_the_silence() {
        let began = Instant::now();
        let at = |second| began + Duration::from_secs(second);
        let mut watch = Watch::new(0, 2, LIMITS, began);
        watch.all_have_come(at(1));
        let losses: Vec<Option<Loss>> = (1..=12).map(|second| watch.loss(at(second))).collect();
        let silent = Duration::from_secs(11);
        assert!(losses[..11].iter().all(Option::is_none), "{losses:?}");
        assert_eq!(losses[11], Some(Loss::Silent { rank: 1, silent }));
    }

    #[test]
    fn a_process_that_is_done_may_be_silent_and_one_that_failed_is_lost_at_once() {
        let done = |second| match second {
            0..=5 => vec![(1, News::Present), (2, News::Present)],
            6 => vec![(1, News::Done), (2, News::Done)],
            _ => Vec::new(),
        };
        assert_eq!(first_loss(done, 1000), None);
        let failed = |second| match second {
            0..=5 => vec![(1, News::Present), (2, News::Present)],
            _ => vec![(1, News::Present), (2, News::Failed)],
        };
        assert_eq!(first_loss(failed, 1000), Some((6, Loss::Failed { rank: 2 })));
    }

    #[test]
    fn whoever_stood_still_does_not_accuse_the_others() {
        let began = Instant::now();
        let at = |second| began + Duration::from_secs(second);
        let mut watch = Watch::new(0, 2, LIMITS, began);
        watch.heard(1, News::Present, at(1));
        assert_eq!(watch.loss(at(1)), None);
        // The machine slept for an hour.
        assert_eq!(watch.loss(at(3601)), None);
        watch.heard(1, News::Present, at(3602));
        assert_eq!(watch.loss(at(3602)), None);
    }
}
