use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

const MAX: u64 = 4096;

fn log_in(directory: &Path) -> LogFile {
    let [path, before] = ["vm.log", "vm.log.1"].map(|name| directory.join(name));
    LogFile::open(&path, &before, MAX).unwrap()
}

#[test]
fn both_files_stay_below_their_bound_and_the_newest_lines_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let log = log_in(directory.path());
    let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
    for number in 0..10_000 {
        log.write_lines(format!("line {number}\n").as_bytes());
    }
    let (newest, before) = (read("vm.log"), read("vm.log.1"));
    assert!(newest.len() as u64 <= MAX && before.len() as u64 <= MAX);
    assert!(newest.ends_with("line 9999\n"));
    // The two hold one sequence without a gap.
    let numbers: Vec<u32> = before
        .lines()
        .chain(newest.lines())
        .map(|line| line.strip_prefix("line ").unwrap().parse().unwrap())
        .collect();
    assert!(numbers.windows(2).all(|two| two[0] + 1 == two[1]));
    assert!(numbers.len() as u64 > MAX / 10);
    for name in ["vm.log", "vm.log.1"] {
        let metadata = fs::metadata(directory.path().join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn no_path_is_used_after_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let log = log_in(directory.path());
    let mut newest = File::open(directory.path().join("vm.log")).unwrap();
    drop(directory);
    for _ in 0..1000 {
        log.write_lines(b"0123456789\n");
    }
    let mut text = String::new();
    io::Read::read_to_string(&mut newest, &mut text).unwrap();
    assert!(!text.is_empty() && text.len() as u64 <= MAX);
    assert!(text.lines().all(|line| line == "0123456789"));
}

#[test]
fn others_that_append_go_on_at_the_end_of_the_newest_lines() {
    let directory = tempfile::tempdir().unwrap();
    let log = log_in(directory.path());
    let mut stderr = File::from(log.as_fd().try_clone_to_owned().unwrap());
    while fs::metadata(directory.path().join("vm.log.1"))
        .unwrap()
        .len()
        == 0
    {
        log.write_lines(b"line\n");
    }
    stderr.write_all(b"panicked\n").unwrap();
    let newest = fs::read(directory.path().join("vm.log")).unwrap();
    assert_eq!(newest, b"line\npanicked\n");
}

#[test]
fn a_line_longer_than_a_file_may_be_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let log = log_in(directory.path());
    log.write_lines(&[b'x'; MAX as usize + 1]);
    log.write_lines(b"next\n");
    let newest = fs::read(directory.path().join("vm.log")).unwrap();
    assert_eq!(newest, b"next\n");
}

#[test]
fn a_link_in_the_place_of_a_log_is_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let [path, before, target] =
        ["vm.log", "vm.log.1", "target"].map(|name| directory.path().join(name));
    fs::write(&target, "precious").unwrap();
    std::os::unix::fs::symlink(&target, &before).unwrap();
    LogFile::open(&path, &before, MAX).unwrap_err();
    assert_eq!(fs::read(&target).unwrap(), b"precious");
}
