//! The life of one sandbox.
//!
//! ```text
//!              Ready             Pause             Frozen
//!   Creating ─────────▶ Running ───────▶ Pausing ─────────▶ Paused ───────▶ Left
//!      │                 │  ▲ ▲             │ │            │ ▲  │   Leave
//!      │ Over            │  │ └─────────────┘ │     Resume │ │  │
//!      │            Over │  │     Undone      │            │ │  │
//!      ▼                 │  │ Ready           │ Over       ▼ │ Undone
//!   Failed ◀─────────────┘  └──────────────── │ ───── Resuming  │
//!    │   ▲                                    │         │       │
//!    │   └────────────────────────────────────┴─────────┘       │
//!    │ Kill                                     Over            │ Kill
//!    └────────────────────────▶ Stopping ◀──────────────────────┘
//!                                  │ Cleaned
//!                                  ▼
//!                               Stopped
//! ```
//!
//! `Kill` leads to `Stopping` from every phase before it. A machine that is paused has none that
//! could end. `Restart` leads from `Failed` to `Resuming`, and `Leave` from `Failed` to `Left`, where the
//! disk outlives the machine.
//!
//! Nothing here acts: [`Phase::on`] says what the owner must do next. `Stopped` and `Left` are
//! terminal. `Over` and `Cleaned` are facts, not requests: a machine may end at any moment, also while
//! it is being stopped, so `Over` is accepted everywhere. A repeated request is accepted and free.

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Its machine is being made; nobody may use it yet.
    Creating,
    /// Its agent answers.
    Running,
    /// Its machine is being written to disk.
    Pausing,
    /// All of it is on disk; no machine exists.
    Paused,
    /// A machine is being made of what is on disk.
    Resuming,
    /// Its machine is over by itself, or was never finished; kept for the reason.
    Failed,
    /// Everything of it is being removed.
    Stopping,
    /// Nothing of it is left.
    Stopped,
    /// The node ends and the sandbox stays, for the next one to find.
    Left,
}

impl Phase {
    /// Whether it has come to its end here.
    pub(crate) const fn is_last(self) -> bool {
        matches!(self, Self::Stopped | Self::Left)
    }

    /// Whether it is of use now or will be again.
    pub(crate) const fn is_alive(self) -> bool {
        match self {
            Self::Creating | Self::Running | Self::Pausing | Self::Paused | Self::Resuming => true,
            Self::Failed | Self::Stopping | Self::Stopped | Self::Left => false,
        }
    }
}

/// What can happen to a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The agent acknowledged that it runs, for the first time or again.
    Ready,
    /// Somebody wants it paused.
    Pause,
    /// All of it is on stable storage.
    Frozen,
    /// Somebody wants it to run.
    Resume,
    /// Somebody wants it to run from its disk alone, as its machine is over.
    Restart,
    /// A pause or a resume failed, and everything is as it was before.
    Undone,
    /// The machine is over, or could not be made.
    Over,
    /// Somebody wants it gone.
    Kill,
    /// Process, group and files are gone.
    Cleaned,
    /// The node ends.
    Leave,
}

/// What the owner does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Say that it serves.
    Serve,
    /// Stop the machine and write it to disk.
    Freeze,
    /// End the process, keep the files, and say that it is paused.
    Rest,
    /// Make a machine of what is on disk.
    Thaw,
    /// End the process, keep the files and the reason.
    Bury,
    /// End the process and remove every trace.
    TearDown,
    /// Leave the list of sandboxes.
    Forget,
    /// Touch nothing any more.
    LetGo,
    /// Already so.
    Nothing,
}

/// An event that makes no sense in this phase: a mistake of the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a sandbox that is {phase:?} cannot become {event:?}")]
pub struct Refused {
    /// Where it is.
    pub phase: Phase,
    /// What was said to have happened.
    pub event: Event,
}

impl Phase {
    /// The phase `event` leads to, and the work that gets there.
    pub fn on(self, event: Event) -> Result<(Self, Action), Refused> {
        use {Action as A, Event as E, Phase as P};
        let next = match (self, event) {
            (P::Creating | P::Resuming, E::Ready) | (P::Pausing, E::Undone) => {
                (P::Running, A::Serve)
            }
            (P::Running, E::Pause) => (P::Pausing, A::Freeze),
            (P::Pausing, E::Frozen) | (P::Resuming, E::Undone) => (P::Paused, A::Rest),
            (P::Paused, E::Resume) | (P::Failed, E::Restart) => (P::Resuming, A::Thaw),
            (P::Creating | P::Running | P::Pausing | P::Resuming, E::Over) => (P::Failed, A::Bury),
            (
                P::Creating | P::Running | P::Pausing | P::Paused | P::Resuming | P::Failed,
                E::Kill,
            ) => (P::Stopping, A::TearDown),
            (P::Stopping, E::Cleaned) => (P::Stopped, A::Forget),
            (P::Paused | P::Failed, E::Leave) => (P::Left, A::LetGo),

            // Already where this leads.
            (P::Running, E::Ready | E::Resume | E::Restart | E::Undone)
            | (P::Pausing, E::Pause)
            | (P::Paused, E::Pause | E::Frozen | E::Undone | E::Over)
            | (P::Resuming, E::Resume | E::Restart)
            | (P::Failed | P::Stopping | P::Stopped | P::Left, E::Over)
            | (P::Stopping | P::Stopped | P::Left, E::Kill)
            | (P::Stopped, E::Cleaned)
            | (P::Left, E::Leave) => (self, A::Nothing),

            (
                _,
                E::Ready
                | E::Pause
                | E::Frozen
                | E::Resume
                | E::Restart
                | E::Undone
                | E::Cleaned
                | E::Leave,
            ) => return Err(Refused { phase: self, event }),
        };
        Ok(next)
    }
}

#[cfg(test)]
mod test;
