use super::*;

#[test]
fn a_failure_has_the_words_of_the_system_and_no_number() {
    let missing = io::Error::from_raw_os_error(libc::ENOENT);
    let Failure::Said(because, message) = Failure::io("sh", &missing) else {
        panic!("it is not told");
    };
    assert_eq!(because, FailedBecause::NotFound);
    assert_eq!(message, "sh: No such file or directory");
    assert_eq!(
        words(&io::Error::other("no (os error here)")),
        "no (os error here)"
    );
}
