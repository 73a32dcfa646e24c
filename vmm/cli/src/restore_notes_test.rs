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
fn each_note_is_a_line() {
    let text = text(&report(GuestClock::Kept, &["a", "b\nc"]), false);
    assert_eq!(text, "nvvmm: note: a\nnvvmm: note: b\\nc\n");
}
