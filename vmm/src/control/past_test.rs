use std::path::Path;

use super::super::life::End;
use super::super::registry::NameChoice;
use super::*;

fn registry() -> (tempfile::TempDir, RuntimeDir) {
    let root = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::at(&root.path().join("run")).unwrap();
    (root, dir)
}

fn claim(dir: &RuntimeDir, name: &str) -> Claim {
    dir.claim(&NameChoice::Given(name.into()), Path::new("/pool"))
        .unwrap()
}

/// A VM that has begun, with a log.
fn begin(dir: &RuntimeDir, name: &str, argument: &str) -> (Claim, KeptLife) {
    let claim = claim(dir, name);
    let start = LifeStart::now(name, Some(vec![argument.into()]));
    let kept = claim.begin_life(&start).unwrap();
    fs::write(&claim.paths().log, "").unwrap();
    (claim, kept)
}

/// A VM that ran, said this, and ended.
fn lived(dir: &RuntimeDir, name: &str, argument: &str) {
    let (claim, kept) = begin(dir, name, argument);
    kept.record.running();
    fs::write(&claim.paths().log, argument).unwrap();
    kept.record.ended(End::Stopped, None);
}

/// Names of all files but the registry's lock.
fn files(dir: &RuntimeDir) -> Vec<String> {
    let listing = fs::read_dir(dir.path()).unwrap();
    let mut names: Vec<String> = listing
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != ".lock")
        .collect();
    names.sort();
    names
}

fn argument_of(dir: &RuntimeDir, name: &str) -> String {
    dir.past_of(name).unwrap().start.arguments.unwrap()[0].clone()
}

const KEPT: [&str; 3] = ["web.log", "web.output", "web.record"];

#[test]
fn a_vm_that_ended_is_kept_until_its_name_is_used_again() {
    let (_root, dir) = registry();
    lived(&dir, "web", "first");
    assert_eq!(files(&dir), KEPT);
    assert_eq!(dir.past().unwrap().len(), 1);
    assert_eq!(dir.past_of("web").unwrap().end(), End::Stopped);
    let error = dir.find("web").unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.message.contains("it has ended"), "{error}");
    assert!(error.remedy.unwrap().contains("nvvmm start web"));

    let (claim, kept) = begin(&dir, "web", "second");
    assert!(dir.past().unwrap().is_empty(), "it lives");
    assert_eq!(dir.past_of("web").unwrap_err().kind, ErrorKind::Refused);
    kept.record.running();
    assert_eq!(dir.entries().unwrap().len(), 1);
    assert!(!files(&dir).iter().any(|name| name.contains("before")));
    kept.record.ended(End::PoweredOff, None);
    drop(claim);
    assert_eq!(argument_of(&dir, "web"), "second");
    assert_eq!(files(&dir), KEPT);
}

#[test]
fn a_vm_that_could_not_be_started_leaves_what_was_there() {
    let (_root, dir) = registry();
    drop(begin(&dir, "web", "failed"));
    assert!(files(&dir).is_empty(), "{:?}", files(&dir));
    assert_eq!(dir.past_of("web").unwrap_err().kind, ErrorKind::NotFound);

    lived(&dir, "web", "first");
    drop(begin(&dir, "web", "failed"));
    assert_eq!(files(&dir), KEPT);
    assert_eq!(argument_of(&dir, "web"), "first");
    assert_eq!(fs::read(dir.paths("web").log).unwrap(), b"first");

    // What it said stays.
    let (claim, _kept) = begin(&dir, "web", "failed");
    fs::write(&claim.paths().log, "said").unwrap();
    drop(claim);
    assert_eq!(argument_of(&dir, "web"), "first");
    assert_eq!(fs::read(dir.paths("web").log).unwrap(), b"said");
    assert_eq!(files(&dir), KEPT);
}

#[test]
fn a_killed_vm_is_told_by_whoever_looks() {
    let (_root, dir) = registry();
    let (claim, kept) = begin(&dir, "web", "first");
    kept.record.running();
    let lock = dir.paths("web");
    // As the kernel does when the process is killed: the lock is free, nothing is removed.
    claim.keep_without_files();
    fs::remove_file(dir.path().join("web.lock")).unwrap();
    fs::write(dir.path().join("web.lock"), "").unwrap();
    let past = dir.past().unwrap();
    assert_eq!((past.len(), past[0].end()), (1, End::Killed));
    assert_eq!(past[0].state.ended_unix_ns, None, "nobody saw it");
    assert_eq!(files(&dir), KEPT);
    dir.note_killed(&lock, 1);
    assert_eq!(dir.past_of("web").unwrap().state.end, None, "another one");
    dir.note_killed(&lock, std::process::id());
    let noted = dir.past_of("web").unwrap().state;
    assert_eq!(noted.end, Some(End::Killed));
    assert!(noted.ended_unix_ns.is_some());
}

#[test]
fn nothing_is_noted_of_a_vm_that_lives() {
    let (_root, dir) = registry();
    let (claim, kept) = begin(&dir, "web", "first");
    kept.record.running();
    dir.note_killed(claim.paths(), std::process::id());
    assert_eq!(dir.life("web").unwrap().state.phase, Phase::Running);
    assert_eq!(dir.forget("web").unwrap_err().kind, ErrorKind::Refused);
}

#[test]
fn what_is_kept_can_be_removed_and_is_bounded() {
    let (_root, dir) = registry();
    lived(&dir, "web", "first");
    dir.forget("web").unwrap();
    assert!(files(&dir).is_empty());
    assert_eq!(dir.forget("web").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(dir.forget("../x").unwrap_err().kind, ErrorKind::Usage);
    for number in 0..PAST_VMS_MAX + 3 {
        lived(&dir, &format!("v{number:03}"), "x");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let past = dir.past().unwrap();
    assert_eq!(past.len(), PAST_VMS_MAX);
    assert_eq!(past[0].start.vm, "v003", "the oldest went");
    assert_eq!(files(&dir).len(), 3 * PAST_VMS_MAX);
}

#[test]
fn a_name_that_nobody_chose_does_not_cost_a_record() {
    let (_root, dir) = registry();
    lived(&dir, "vm-1", "first");
    let made_up = dir.claim(&NameChoice::MadeUp, Path::new("/pool")).unwrap();
    assert_eq!(made_up.paths().name, "vm-2");
    assert_eq!(argument_of(&dir, "vm-1"), "first");
}

#[test]
fn a_file_that_is_no_record_is_no_obstacle() {
    let (_root, dir) = registry();
    lived(&dir, "web", "first");
    fs::write(dir.paths("web").life, [0xff; 9000]).unwrap();
    assert!(dir.past().unwrap().is_empty());
    lived(&dir, "web", "second");
    assert_eq!(argument_of(&dir, "web"), "second");
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("db.record")).unwrap();
    assert!(dir.life("db").is_none(), "links are not followed");
    lived(&dir, "db", "third");
    assert_eq!(argument_of(&dir, "db"), "third");
}
