use std::os::unix::fs::PermissionsExt;

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
    let option = PoolOption::of(Some(path.clone()));
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

/// A directory that everyone can write, as /dev/shm is.
fn shared() -> tempfile::TempDir {
    tempfile::tempdir_in(SHARED_DIR).unwrap()
}

fn uid() -> u32 {
    geteuid().as_raw()
}

fn default_in(shared: &tempfile::TempDir) -> DefaultPool {
    DefaultPool::of(shared.path(), "me", uid()).unwrap()
}

/// Something of another user under this name, as far as this user can make it.
fn take_name(shared: &tempfile::TempDir, name: &str) {
    let path = shared.path().join(name);
    fs::create_dir(&path).unwrap();
    match geteuid().is_root() {
        true => std::os::unix::fs::chown(&path, Some(65_534), Some(65_534)).unwrap(),
        // One that others can write is not the user's own either.
        false => fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap(),
    }
}

#[test]
fn a_default_pool_is_made_once_and_is_private() {
    let shared = shared();
    let default = default_in(&shared);
    let expected = shared.path().join(format!("nvvmm-{}/default.pool", uid()));
    assert!(!default.exists && default.path == expected);
    let path = default.make().unwrap();
    assert_eq!(path, expected);
    let directory = fs::metadata(path.parent().unwrap()).unwrap();
    assert_eq!(directory.permissions().mode() & 0o777, 0o700);
    let made = fs::metadata(&path).unwrap();
    assert_eq!(made.permissions().mode() & 0o077, 0);
    assert_eq!(made.len() % CHUNK_SIZE_BYTES, 0);
    assert!(made.len() >= DEFAULT_BYTES_MIN);
    let found = default_in(&shared);
    assert!(found.exists && found.path == path);
    // As when two commands need it at the same time.
    assert_eq!(found.make().unwrap(), path);
    assert_eq!(fs::metadata(&path).unwrap().ino(), made.ino());
}

#[test]
fn who_takes_the_names_first_denies_nobody_a_default_pool() {
    let shared = shared();
    // The name of older programs, and that of the directory.
    take_name(&shared, "nvvmm-me.pool");
    take_name(&shared, &format!("nvvmm-{}", uid()));
    // A directory of the other name that is not the user's own, either.
    take_name(&shared, &format!("nvvmm-{}.0", uid()));
    let path = default_in(&shared).make().unwrap();
    let directory = path.parent().unwrap();
    assert!(is_own_directory(directory, uid()).unwrap());
    let prefix = format!("nvvmm-{}.", uid());
    let name = directory
        .file_name()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    assert!(name.starts_with(&prefix) && name.len() == prefix.len() + 16);
    let found = default_in(&shared);
    assert!(found.exists && found.path == path, "it is found again");
}

#[test]
fn a_link_or_a_directory_is_no_default_pool() {
    let shared = shared();
    let old = shared.path().join("nvvmm-me.pool");
    std::os::unix::fs::symlink("/dev/null", &old).unwrap();
    let own = shared.path().join(format!("nvvmm-{}", uid()));
    std::os::unix::fs::symlink("/", &own).unwrap();
    let default = default_in(&shared);
    assert!(!default.exists);
    let path = default.make().unwrap();
    assert_ne!(path.parent().unwrap(), own);
    assert!(old.is_symlink() && own.is_symlink());
}

#[test]
fn a_default_pool_of_an_older_program_is_still_used() {
    let shared = shared();
    let old = shared.path().join("nvvmm-me.pool");
    super::super::pool_commands::make(&old, DEFAULT_BYTES_MIN, false).unwrap();
    let found = default_in(&shared);
    assert!(found.exists && found.path == old);
}

#[test]
fn a_place_that_cannot_be_written_is_found_before_a_pool_is_made() {
    let shared = shared();
    assert_eq!(default_in(&shared).check_place(), Ok(()));
    assert_eq!(fs::read_dir(&shared).unwrap().count(), 0);
    if geteuid().is_root() {
        return;
    }
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o500)).unwrap();
    let error = default_in(&shared).check_place().unwrap_err();
    assert!(error.message.contains("Permission denied"), "{error}");
    assert!(error.remedy.unwrap().contains("nvvmm pool create"));
}
