use super::*;

#[test]
fn a_key_file_is_read_or_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    assert_eq!(read(&path).unwrap_err().kind, ErrorKind::NotFound);
    std::fs::write(&path, "abc").unwrap();
    let refusal = read(&path).unwrap_err();
    assert_eq!(refusal.kind, ErrorKind::Usage);
    assert!(
        refusal.message.contains("64 hexadecimal digits"),
        "{}",
        refusal.message
    );
    assert!(!refusal.message.contains("abc"), "a key is not told");
    std::fs::write(&path, format!("{}\n", "5c".repeat(32))).unwrap();
    assert!(read(&path).is_ok());
}
