//! The life of one sandbox.
//!
//! ```text
//!              Ready                Kill                Cleaned
//!   Creating ─────────▶ Running ─────────▶ Stopping ─────────▶ Stopped
//!     │  │                 │                  ▲
//!     │  │ Kill            │ Over             │ Kill
//!     │  └────────────────────────────────────┤
//!     │ Over               ▼                  │
//!     └────────────────▶ Failed ──────────────┘
//! ```
//!
//! Nothing here acts: [`Phase::on`] says what the owner must do next. `Stopped` is terminal. `Over`
//! and `Cleaned` are facts, not requests: a machine may end at any moment, also while it is being
//! stopped, so `Over` is accepted everywhere. A repeated `Kill` is accepted and free.

/// Where a sandbox is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Its machine is being made; nobody may use it yet.
    Creating,
    /// Its agent answers.
    Running,
    /// Its machine is over by itself, or was never finished; kept for the reason.
    Failed,
    /// Everything of it is being removed.
    Stopping,
    /// Nothing of it is left.
    Stopped,
}

/// What can happen to a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The agent acknowledged the new identity.
    Ready,
    /// The machine is over, or could not be made.
    Over,
    /// Somebody wants it gone.
    Kill,
    /// Process, group and files are gone.
    Cleaned,
}

/// What the owner does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Tell whoever asked for it that it serves.
    Serve,
    /// End the process, keep the files and the reason.
    Bury,
    /// End the process and remove every trace.
    TearDown,
    /// Leave the list of sandboxes.
    Forget,
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
            (P::Creating, E::Ready) => (P::Running, A::Serve),
            (P::Creating | P::Running, E::Over) => (P::Failed, A::Bury),
            (P::Creating | P::Running | P::Failed, E::Kill) => (P::Stopping, A::TearDown),
            (P::Stopping, E::Cleaned) => (P::Stopped, A::Forget),

            // Already where this leads.
            (P::Running, E::Ready)
            | (P::Failed | P::Stopping | P::Stopped, E::Over)
            | (P::Stopping | P::Stopped, E::Kill)
            | (P::Stopped, E::Cleaned) => (self, A::Nothing),

            (P::Failed | P::Stopping | P::Stopped, E::Ready)
            | (P::Creating | P::Running | P::Failed, E::Cleaned) => {
                return Err(Refused { phase: self, event });
            }
        };
        Ok(next)
    }
}

#[cfg(test)]
mod test {
    use super::*;

    const PHASES: [Phase; 5] =
        [Phase::Creating, Phase::Running, Phase::Failed, Phase::Stopping, Phase::Stopped];
    const EVENTS: [Event; 4] = [Event::Ready, Event::Over, Event::Kill, Event::Cleaned];

    #[test]
    fn whatever_is_accepted_may_be_repeated_for_free() {
        for phase in PHASES {
            for event in EVENTS {
                if let Ok((after, _)) = phase.on(event) {
                    assert_eq!(after.on(event), Ok((after, Action::Nothing)));
                }
            }
        }
    }

    #[test]
    fn a_machine_may_end_and_a_kill_may_come_at_any_moment() {
        for phase in PHASES {
            assert!(phase.on(Event::Over).is_ok(), "{phase:?}");
            assert!(phase.on(Event::Kill).is_ok(), "{phase:?}");
        }
    }

    #[test]
    fn every_phase_is_two_events_from_the_end() {
        for phase in PHASES {
            let (killed, _) = phase.on(Event::Kill).unwrap();
            assert_eq!(killed.on(Event::Cleaned).unwrap().0, Phase::Stopped);
        }
    }

    #[test]
    fn stopped_is_terminal_and_stopping_never_serves_again() {
        for event in EVENTS {
            for phase in [Phase::Stopping, Phase::Stopped] {
                let after = phase.on(event).map(|(after, _)| after);
                assert!(!matches!(after, Ok(Phase::Creating | Phase::Running | Phase::Failed)));
            }
            if let Ok(next) = Phase::Stopped.on(event) {
                assert_eq!(next, (Phase::Stopped, Action::Nothing));
            }
        }
    }

    #[test]
    fn only_a_sandbox_that_was_made_serves_and_only_once() {
        for phase in PHASES {
            for event in EVENTS {
                let serves = matches!(phase.on(event), Ok((_, Action::Serve)));
                assert_eq!(serves, (phase, event) == (Phase::Creating, Event::Ready));
            }
        }
    }

    #[test]
    fn every_way_out_of_a_live_phase_ends_the_process() {
        for phase in [Phase::Creating, Phase::Running] {
            for event in EVENTS {
                if let Ok((after, action)) = phase.on(event)
                    && !matches!(after, Phase::Creating | Phase::Running)
                {
                    assert!(matches!(action, Action::Bury | Action::TearDown));
                }
            }
        }
    }
}
