use super::*;
use crate::answer::answer_line;

fn said(session: &mut Session, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let reply = session.carry_out(words[0], &words[1..]);
    answer_line(None, words[0], &reply)
}

#[test]
fn memory_is_filled_rewritten_and_checked() {
    let mut session = Session::start().unwrap();
    assert!(said(&mut session, "check").starts_with("@ check err -- no memory filled"));
    assert_eq!(
        said(&mut session, "fill 2 9 2"),
        "@ fill ok mib=2 seed=9 parts=2"
    );
    let before = said(&mut session, "check");
    assert!(
        before.starts_with(
            "@ check ok pages=512 seed=9 epochs=1,1 cursors=0,0 damaged=0 fingerprint="
        )
    );
    assert_eq!(said(&mut session, "rewrite 1"), "@ rewrite ok mib=1");
    let after = said(&mut session, "check");
    assert!(
        after.starts_with("@ check ok pages=512 seed=9 epochs=1,1 cursors=128,128 damaged=0"),
        "{after}"
    );
    assert_ne!(before, after);
}

#[test]
fn bad_commands_are_answered_not_obeyed() {
    let mut session = Session::start().unwrap();
    for (line, answer) in [
        ("dance", "@ dance err -- unknown command"),
        ("fill", "@ fill err -- MIB is missing"),
        ("fill x 1", "@ fill err -- MIB is not a number: x"),
        (
            "fill 99999999999999999 1",
            "@ fill err -- no 99999999999999999 MiB of memory",
        ),
        (
            "churn maybe",
            "@ churn err -- say `churn on [MIB_PER_SECOND]` or `churn off`",
        ),
        (
            "disk",
            "@ disk err -- say `disk mount|umount|sync|write|verify|churn`",
        ),
    ] {
        assert_eq!(said(&mut session, line), answer);
    }
}

#[test]
fn the_counter_goes_on_by_itself() {
    let mut session = Session::start().unwrap();
    let first = said(&mut session, "count");
    while said(&mut session, "count") == first {}
}

#[test]
fn a_failing_shell_command_is_bad() {
    let mut session = Session::start().unwrap();
    assert_eq!(said(&mut session, "sh true"), "@ sh ok exit=0");
    assert_eq!(said(&mut session, "sh exit 3"), "@ sh bad exit=3");
}
