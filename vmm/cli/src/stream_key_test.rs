use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn a_key_file_is_read_or_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    assert_eq!(read(&path).unwrap_err().kind, ErrorKind::NotFound);
    std::fs::write(&path, "abc").unwrap();
    let set_mode = |mode| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for mode in [0o644, 0o640, 0o604, 0o620, 0o601] {
        set_mode(mode);
        let refusal = read(&path).unwrap_err();
        assert_eq!(refusal.kind, ErrorKind::Refused, "{mode:o}");
        assert!(refusal.remedy.unwrap().contains("chmod 600"), "{mode:o}");
    }
    set_mode(0o600);
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
