use super::*;

#[test]
fn lines_for_a_raw_terminal_begin_at_its_edge() {
    assert_eq!(with_carriage_returns(b"a\nb\n"), b"a\r\nb\r\n");
    assert_eq!(with_carriage_returns(b"a"), b"a");
}
