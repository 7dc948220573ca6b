//! The processes of a distributed run, met and watched.

use std::cell::Cell;

use mlx_distributed::{Group, Transport};
use mlx_rs::error::Exception;
use thiserror::Error;

use super::{Loss, Placement, Presence, PresenceError, PresenceLimits};

/// All processes of a run.
#[derive(Debug)]
pub struct Ranks {
    // Dropped before the presence: the others may still wait for what it sends.
    group: Group,
    presence: Option<Presence>,
    all_end: Cell<bool>,
}

/// The processes did not meet.
#[derive(Debug, Error)]
pub enum MeetError {
    /// The linked MLX does not have the transport.
    #[error(
        "MLX has no `{transport}` backend here\n  found: {}\n  hint: start the processes with `--backend` and one of those",
        available()
    )]
    NotAvailable {
        /// What the launcher chose.
        transport: Transport,
    },
    /// They cannot tell each other that they are there.
    #[error(transparent)]
    Presence(#[from] PresenceError),
    /// MLX could not connect them.
    #[error(
        "the processes of the run did not meet\n  found: {}\n  hint: look whether each of them was started, can be reached at its address, and has its port to itself; MLX_RING_VERBOSE=1 says more",
        .0.what()
    )]
    Join(Exception),
}

fn available() -> String {
    let names: Vec<&str> = Transport::ALL
        .into_iter()
        .filter(|transport| transport.is_available())
        .map(Transport::name)
        .collect();
    if names.is_empty() {
        "none at all".to_owned()
    } else {
        names.join(", ")
    }
}

impl Ranks {
    /// Meets the other processes of `placement`; returns when all are there. From then on `on_loss` is called once, by another
    /// thread, with the first that is lost; where the transport has no addresses that are known here, nobody is watched.
    ///
    /// # Errors
    /// [`MeetError`].
    pub fn meet(
        placement: &Placement,
        limits: PresenceLimits,
        on_loss: impl FnOnce(Loss) + Send + 'static,
    ) -> Result<Self, MeetError> {
        let transport = placement.transport;
        if !transport.is_available() {
            return Err(MeetError::NotAvailable { transport });
        }
        let presence = match &placement.addresses[..] {
            [] => None,
            addresses => Some(Presence::start(placement.rank, addresses, limits, on_loss)?),
        };
        // A ring joins its neighbours; a collective returns when all are there.
        match Group::join(transport).and_then(|group| group.barrier().map(|()| group)) {
            Ok(group) => {
                if let Some(presence) = &presence {
                    presence.have_met();
                }
                Ok(Self {
                    group,
                    presence,
                    all_end: Cell::new(false),
                })
            }
            Err(error) => {
                if let Some(presence) = presence {
                    presence.fail();
                }
                Err(MeetError::Join(error))
            }
        }
    }

    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.group.rank()
    }

    /// Processes in all.
    pub fn size(&self) -> usize {
        self.group.size()
    }

    /// Whether this is the process that prints and writes for all.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Whether this process prints and writes, for all of `ranks` or alone.
    pub fn leads(ranks: Option<&Self>) -> bool {
        ranks.is_none_or(Self::is_first)
    }

    /// Returns when every process has called it.
    ///
    /// # Errors
    /// A process is lost.
    pub fn wait_for_all(&self) -> Result<(), Exception> {
        self.settled(self.group.barrier())
    }

    /// What they compute together with.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// What a collective gave. Where it failed, another process is likely to be lost, which MLX's ring tells its neighbours alone
    /// and without its rank: then this waits until `on_loss` has been called, or it is sure that nobody is.
    ///
    /// # Errors
    /// The collective's own.
    pub fn settled<T>(&self, result: Result<T, Exception>) -> Result<T, Exception> {
        if result.is_err()
            && let Some(presence) = &self.presence
        {
            presence.await_loss();
        }
        result
    }

    /// Notes that every process ends for the same reason, which each of them says: none has to be told by another.
    pub fn all_end(&self) {
        self.all_end.set(true);
    }

    /// Ends with the others told that this process failed, unless all end.
    pub fn fail(self) {
        if let Some(presence) = self.presence.filter(|_| !self.all_end.get()) {
            presence.fail();
        }
    }
}
