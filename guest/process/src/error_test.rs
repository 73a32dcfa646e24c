use super::*;

#[test]
fn each_refusal_is_a_line_that_says_which_process_and_what_of_it() {
    let asked = Refusal::new(292, ProcessPart::Descriptor(3), "is a socket (TCP)");
    let below = Refusal {
        program: Some("sleep".into()),
        ..Refusal::new(301, ProcessPart::Process, "was deleted (/tmp/a\nb)")
    };
    let refused = Error::Refused(vec![asked, below]).to_string();
    assert_eq!(
        refused,
        "process 292, fd 3 is a socket (TCP)\nprocess 301 (sleep) was deleted (/tmp/a\\nb)"
    );
}
