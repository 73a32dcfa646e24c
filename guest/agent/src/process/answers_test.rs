use super::*;

#[test]
fn a_message_ends_with_a_whole_line_and_says_what_it_leaves_out() {
    assert_eq!(shortened("one\ntwo"), "one\ntwo");
    assert_eq!(shortened(""), "");
    let line = "x".repeat(100);
    let many = vec![line.clone(); 1000].join("\n");
    let short = shortened(&many);
    let (lines, last) = short.rsplit_once('\n').unwrap();
    assert!(short.len() < MESSAGE_BYTES_MAX + 20, "{}", short.len());
    assert!(lines.lines().all(|kept| kept == line));
    assert_eq!(last, format!("and {} more", 1000 - lines.lines().count()));
}
