use super::*;

#[test]
fn sizes() {
    for (text, bytes) in [
        ("0", Some(0)),
        ("4096", Some(4096)),
        ("64K", Some(64 << 10)),
        ("256M", Some(256 << 20)),
        ("2G", Some(2 << 30)),
        ("", None),
        ("M", None),
        ("1MiB", None),
        ("1.5G", None),
        ("-1", None),
        ("1 M", None),
        ("99999999999G", None),
    ] {
        assert_eq!(bytes_of(text), bytes, "{text:?}");
    }
}
