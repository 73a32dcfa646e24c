use super::*;

#[test]
fn a_line_has_its_numbers_and_an_end() {
    let mut line = Line::default();
    line.text(b"call ");
    line.number(0);
    line.text(b" ");
    line.number(4_294_967_295);
    assert_eq!(line.bytes(), b"call 0 4294967295");
    line.text(&[b'x'; 500]);
    assert_eq!(line.bytes().len(), 160);
}
