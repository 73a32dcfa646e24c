use super::*;

#[test]
fn a_status_is_what_a_shell_shows() {
    assert_eq!(exit_code(Ended::Code(0)), 0);
    assert_eq!(exit_code(Ended::Code(7)), 7);
    assert_eq!(exit_code(Ended::Signal(9)), 137);
    // A guest can say anything.
    exit_code(Ended::Code(i32::MIN));
    exit_code(Ended::Signal(i32::MAX));
}

#[test]
fn variables_that_are_given_come_after_those_of_the_terminal() {
    let given = || vec![("TERM".to_owned(), "dumb".to_owned())];
    let environment = environment_for(true, given());
    assert_eq!(environment.last().unwrap().1, b"dumb");
    assert_eq!(environment_for(false, given()).len(), 1);
}
