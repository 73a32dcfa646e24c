use super::*;

#[test]
fn an_argument_names_the_descriptors_that_are_given_with_it() {
    assert_eq!(descriptors_named("/dev/fd/63"), [63]);
    assert_eq!(descriptors_named("--disk=/proc/self/fd/7,ro"), [7]);
    assert_eq!(descriptors_named("/dev/fd/4:/dev/fd/5"), [4, 5]);
    for none in ["/dev/fd/", "/dev/fd/x", "63", "/dev/fd/99999999999"] {
        assert_eq!(descriptors_named(none), [0; 0], "{none}");
    }
}
