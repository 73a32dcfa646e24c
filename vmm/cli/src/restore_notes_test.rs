use super::*;

fn report(clock: GuestClock, notes: &[&str]) -> RestoreReport {
    RestoreReport {
        snapshot: "base".into(),
        vm: "copy".into(),
        phases: Vec::new(),
        first_instruction_us: Default::default(),
        frames_mapped: 1,
        once: false,
        prefault: false,
        clock,
        connections: None,
        notes: notes.iter().map(|note| (*note).to_owned()).collect(),
    }
}

#[test]
fn a_clock_that_is_not_set_is_said_and_one_that_is_is_not() {
    for clock in [GuestClock::Kept, GuestClock::Set, GuestClock::Expected] {
        assert_eq!(text(&report(clock, &[]), false), "");
    }
    for (clock, is_paused, words) in [
        (GuestClock::NoAgent, false, "no nvvmm-agent runs"),
        (GuestClock::NotSet, false, "has answered yet"),
        (GuestClock::NotSet, true, "after 'nvvmm resume'"),
        (GuestClock::Failed, false, "could not set it"),
    ] {
        let text = text(&report(clock, &[]), is_paused);
        assert!(text.starts_with("nvvmm: warning: "), "{text}");
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn connections_that_may_not_stay_are_said() {
    let with = |connections, is_paused| {
        let report = RestoreReport {
            connections,
            ..report(GuestClock::Kept, &[])
        };
        text(&report, is_paused)
    };
    assert_eq!(with(None, false), "");
    assert_eq!(with(Some(GuestConnections::Kept), false), "");
    for (connections, is_paused, words) in [
        (GuestConnections::Ended, false, "too old to keep them"),
        (GuestConnections::Awaited, false, "has answered yet"),
        (GuestConnections::Awaited, true, "after 'nvvmm resume'"),
    ] {
        let text = with(Some(connections), is_paused);
        assert!(text.starts_with("nvvmm: warning: the guest's connections may end: "));
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn each_note_is_a_line() {
    let text = text(&report(GuestClock::Kept, &["a", "b\nc"]), false);
    assert_eq!(text, "nvvmm: note: a\nnvvmm: note: b\\nc\n");
}
