use super::*;

const PHASES: [Phase; 9] = [
    Phase::Creating,
    Phase::Running,
    Phase::Pausing,
    Phase::Paused,
    Phase::Resuming,
    Phase::Failed,
    Phase::Stopping,
    Phase::Stopped,
    Phase::Left,
];
const EVENTS: [Event; 10] = [
    Event::Ready,
    Event::Pause,
    Event::Frozen,
    Event::Resume,
    Event::Restart,
    Event::Undone,
    Event::Over,
    Event::Kill,
    Event::Cleaned,
    Event::Leave,
];

#[test]
fn whatever_is_accepted_may_be_repeated_for_free() {
    for phase in PHASES {
        for event in EVENTS {
            if let Ok((after, _)) = phase.on(event) {
                assert_eq!(after.on(event), Ok((after, Action::Nothing)), "{phase:?} {event:?}");
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
        let gone = killed.is_last() || killed.on(Event::Cleaned).unwrap().0 == Phase::Stopped;
        assert!(gone, "{phase:?}");
    }
}

#[test]
fn what_is_last_stays_and_stopping_never_serves_again() {
    for event in EVENTS {
        for phase in [Phase::Stopping, Phase::Stopped, Phase::Left] {
            if let Ok((after, _)) = phase.on(event) {
                assert!(!after.is_alive() && after != Phase::Failed, "{phase:?} {event:?}");
            }
        }
        for phase in [Phase::Stopped, Phase::Left] {
            if let Ok(next) = phase.on(event) {
                assert_eq!(next, (phase, Action::Nothing));
            }
        }
    }
}

#[test]
fn a_sandbox_serves_when_its_machine_was_made_or_kept() {
    for phase in PHASES {
        for event in EVENTS {
            let serves = matches!(phase.on(event), Ok((Phase::Running, Action::Serve)));
            let expected = matches!(
                (phase, event),
                (Phase::Creating | Phase::Resuming, Event::Ready) | (Phase::Pausing, Event::Undone)
            );
            assert_eq!(serves, expected, "{phase:?} {event:?}");
        }
    }
}

#[test]
fn every_way_out_of_a_phase_with_a_machine_says_what_becomes_of_it() {
    let with_machine = [Phase::Creating, Phase::Running, Phase::Pausing, Phase::Resuming];
    for phase in with_machine {
        for event in EVENTS {
            if let Ok((after, action)) = phase.on(event)
                && !with_machine.contains(&after)
            {
                let handled = [Action::Bury, Action::TearDown, Action::Rest].contains(&action);
                assert!(handled, "{phase:?} {event:?}");
            }
        }
    }
}

#[test]
fn only_what_is_whole_on_disk_is_paused() {
    for phase in PHASES {
        for event in EVENTS {
            if let Ok((Phase::Paused, action)) = phase.on(event)
                && phase != Phase::Paused
            {
                assert_eq!(action, Action::Rest);
                assert!(matches!(
                    (phase, event),
                    (Phase::Pausing, Event::Frozen) | (Phase::Resuming, Event::Undone)
                ));
            }
        }
    }
}
