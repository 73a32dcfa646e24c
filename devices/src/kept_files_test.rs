use std::io::{Read, Seek, SeekFrom};

use super::*;

#[test]
fn a_kept_file_is_the_one_that_was_opened_and_read_from_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kernel");
    std::fs::write(&path, "first").unwrap();
    keep(&path, false, open_new(&path, false).unwrap());
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "other").unwrap();
    for _ in 0..2 {
        let mut text = String::new();
        let mut file = open(&path, false).unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "first");
        file.seek(SeekFrom::Start(3)).unwrap();
    }
    let mut text = String::new();
    let mut not_kept = open(&path, true).unwrap();
    not_kept.read_to_string(&mut text).unwrap();
    assert_eq!(text, "other");
}
