use super::*;
use crate::error::ProcessPart;

fn refusals(of: &[Pid]) -> Vec<Refusal> {
    of.iter()
        .map(|pid| Refusal::new(*pid, ProcessPart::Process, "ended"))
        .collect()
}

#[test]
fn refusals_that_pass_are_no_refusals_and_those_that_last_are() {
    let mut standing = Standing::default();
    for pid in 1..100 {
        assert_eq!(
            standing.add(refusals(&[pid])),
            None,
            "another one each time"
        );
    }
    let mut standing = Standing::default();
    for pid in 1..SAME_MAX as Pid {
        assert_eq!(standing.add(refusals(&[1000, pid])), None);
    }
    assert_eq!(standing.add(refusals(&[77, 1000])), Some(refusals(&[1000])));
}

#[test]
fn a_process_that_is_not_there_is_told_by_the_number_that_was_asked_for() {
    struct Nothing;
    impl PageSink for Nothing {
        fn take(&mut self, _: Pid, _: &[Taken]) -> io::Result<()> {
            Ok(())
        }
    }
    for tree in [false, true] {
        let options = CaptureOptions {
            tree,
            ..CaptureOptions::default()
        };
        let error = freeze_and_capture(Pid::MAX, options, &mut Nothing).unwrap_err();
        assert!(matches!(error, Error::Gone(Pid::MAX)), "{error}");
    }
}
