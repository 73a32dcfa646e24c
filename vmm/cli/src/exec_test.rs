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

/// A request that passes fits into a message, and one that does not says how much is too much.
#[test]
fn words_that_are_too_long_are_refused_before_the_guest_is_asked() {
    let exec = |command: Vec<Vec<u8>>| Exec {
        command,
        environment: vec![(b"TERM".to_vec(), b"dumb".to_vec())],
        terminal: None,
    };
    let long = check_length(&exec(vec![vec![b'x'; 300 << 10]])).unwrap_err();
    assert_eq!(long.kind, ErrorKind::Usage);
    assert_eq!(
        long.message,
        "the program's arguments and variables have 300.0 KiB, and exec takes at most 252.0 KiB"
    );
    assert!(long.remedy.is_some_and(|remedy| remedy.contains("stdin")));
    for len in [0, 1, 127, 128, 20_000] {
        // As many as are taken.
        let words = (WORDS_BYTES_MAX - 100) / (len + WORD_BYTES);
        let exec = exec(vec![vec![b'x'; len]; words]);
        check_length(&exec).unwrap();
        let sent = send(io::sink(), &ToAgent::Exec(exec));
        assert!(sent.is_ok(), "{words} words of {len} bytes: {sent:?}");
    }
}
