use super::*;

#[test]
fn lines_for_a_raw_terminal_begin_at_its_edge() {
    assert_eq!(with_carriage_returns(b"a\nb\n"), b"a\r\nb\r\n");
    assert_eq!(with_carriage_returns(b"a"), b"a");
}

#[test]
fn what_a_terminal_obeys_is_escaped() {
    for (text, expected) in [
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\u{9b}2J", "\\u{9b}2J"),
        ("a\rb\x7f\0", "a\\rb\\x7f\\x00"),
        ("gnp\u{202e}exe", "gnp\\u{202e}exe"),
        ("a\u{2028}b", "a\\u{2028}b"),
    ] {
        assert_eq!(shown(text), expected);
        assert_eq!(shown(&shown(text)), expected, "escaped once");
    }
    for plain in ["├─ web\t1\n", "naïve C:\\path \"x\""] {
        assert!(matches!(shown(plain), Cow::Borrowed(same) if same == plain));
    }
}

#[test]
fn a_value_in_a_line_is_no_second_line() {
    assert_eq!(shown_in_line("a\nnvmm: b\t\x1b"), "a\\nnvmm: b\\t\\x1b");
}
