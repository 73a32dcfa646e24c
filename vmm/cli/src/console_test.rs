use super::*;

#[test]
fn the_escape_key_ends_what_was_typed() {
    assert_eq!(before_escape(b"ls\r"), (&b"ls\r"[..], false));
    assert_eq!(before_escape(b"ls\x1drm"), (&b"ls"[..], true));
    assert_eq!(before_escape(b"\x1d"), (&b""[..], true));
    assert_eq!(before_escape(b""), (&b""[..], false));
}
