use super::*;

#[test]
fn the_default_is_half_of_the_space_in_whole_chunks() {
    assert_eq!(default_size_bytes(8 << 30), 4 << 30);
    assert_eq!(default_size_bytes((8 << 30) + (5 << 20)), (4 << 30) + (2 << 20));
    assert_eq!(default_size_bytes(100 << 20), 64 << 20);
    assert_eq!(default_size_bytes(0), 64 << 20);
    assert_eq!(default_size_bytes(u64::MAX) % CHUNK_BYTES, 0);
}

#[test]
fn a_pool_that_is_named_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.pool");
    let option = PoolOption {
        pool: Some(path.clone()),
    };
    for found in [
        found(&option),
        found_or_made(&option),
        found_if_any(&option).map(Option::unwrap_or_default),
    ] {
        let error = found.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
        assert!(error.remedy.unwrap().contains("nvvmm pool create"));
    }
    assert!(!path.exists());
}

#[test]
fn a_default_pool_must_be_an_own_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.pool");
    assert!(!is_own_pool(&path).unwrap());
    std::os::unix::fs::symlink("/dev/null", &path).unwrap();
    assert_eq!(is_own_pool(&path).unwrap_err().kind, ErrorKind::Refused);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    assert!(is_own_pool(&path).unwrap());
}
