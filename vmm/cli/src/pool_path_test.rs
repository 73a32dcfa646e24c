use super::*;

#[test]
fn the_default_is_half_of_the_space_in_whole_chunks() {
    assert_eq!(default_size_bytes(8 << 30), 4 << 30);
    assert_eq!(
        default_size_bytes((8 << 30) + (5 << 20)),
        (4 << 30) + (2 << 20)
    );
    assert_eq!(default_size_bytes(100 << 20), 64 << 20);
    assert_eq!(default_size_bytes(0), 64 << 20);
    assert_eq!(default_size_bytes(u64::MAX) % CHUNK_SIZE_BYTES, 0);
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

#[test]
fn the_memory_that_is_available_is_read() {
    let text = "MemTotal:       24634372 kB\nMemFree:        1 kB\nMemAvailable:   24066196 kB\n";
    assert_eq!(memory_available_of(text), Some(24_066_196 * 1024));
    for none in [
        "",
        "MemAvailable: x kB",
        "MemAvailable: 7",
        "MemAvailable: 99999999999999999999 kB",
    ] {
        assert_eq!(memory_available_of(none), None);
    }
    assert!(memory_available_bytes() < u64::MAX);
}

#[test]
fn a_default_pool_is_made_once_and_is_private() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir_in(DEFAULT_DIR).unwrap();
    let path = dir.path().join("x.pool");
    make_default(&path).unwrap();
    let made = fs::metadata(&path).unwrap();
    assert_eq!(made.permissions().mode() & 0o077, 0);
    assert_eq!(made.len() % CHUNK_SIZE_BYTES, 0);
    assert!(made.len() >= DEFAULT_BYTES_MIN);
    assert!(is_own_pool(&path).unwrap());
    // As when two commands need it at the same time.
    make_default(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().ino(), made.ino());
}
