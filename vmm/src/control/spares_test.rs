use std::os::unix::net::UnixListener;

use super::*;
use crate::control::life::{Life, LifeStart};
use crate::error::ErrorKind;

const POOL: &str = "/dev/shm/p";

fn directory() -> (tempfile::TempDir, RuntimeDir) {
    let made = tempfile::tempdir().unwrap();
    let dir = RuntimeDir::at(&made.path().join("run")).unwrap();
    (made, dir)
}

fn order(snapshot: &str, count: u32) -> SpareOrder {
    SpareOrder {
        pool: POOL.into(),
        snapshot: snapshot.into(),
        count,
    }
}

/// A spare VM of this process, with a control socket.
fn spare(dir: &RuntimeDir, snapshot: &str) -> (Claim, UnixListener) {
    let claim = dir.claim_spare(POOL.as_ref(), snapshot).unwrap();
    let start = LifeStart::now("", Some(vec!["spare".into()]));
    claim.begin_life(&start).unwrap();
    let socket = UnixListener::bind(&claim.paths().control).unwrap();
    (claim, socket)
}

fn take(dir: &RuntimeDir, snapshot: &str, name: &str) -> Result<Option<VmRuntimePaths>, VmError> {
    let start = LifeStart::now("", Some(vec!["restore".into()]));
    let choice = NameChoice::Given(name.into());
    let taken = dir.take_spares((POOL.as_ref(), snapshot), &[choice], &start)?;
    Ok(taken.into_iter().next())
}

#[test]
fn a_spare_vm_is_in_no_list_of_vms_and_has_no_name_of_one() {
    let (_made, dir) = directory();
    let (claim, _socket) = spare(&dir, "base");
    assert!(is_spare(&claim.paths().name));
    assert!(dir.entries().unwrap().is_empty());
    assert!(dir.past().unwrap().is_empty());
    assert_eq!(dir.spares().unwrap().len(), 1);
    assert!(order("base", 1).has(&claim.paths().name));
    assert!(!order("other", 1).has(&claim.paths().name));
}

#[test]
fn one_that_is_taken_has_all_its_files_under_the_new_name() {
    let (_made, dir) = directory();
    let (claim, _socket) = spare(&dir, "base");
    let before = claim.paths().lock_identity().unwrap();
    let paths = take(&dir, "base", "web").unwrap().unwrap();
    assert_eq!(paths, dir.paths("web"));
    assert_eq!(paths.lock_identity().unwrap(), before);
    assert!(dir.spares().unwrap().is_empty());
    let entries = dir.entries().unwrap();
    let [entry] = &entries[..] else {
        panic!("{entries:?}");
    };
    let record = entry.record.as_ref().unwrap();
    assert_eq!(
        (record.name.as_str(), record.pid),
        ("web", std::process::id())
    );
    assert!(std::os::unix::net::UnixStream::connect(&paths.control).is_ok());
    let life = Life::read(&paths.life).unwrap().unwrap();
    assert_eq!(life.start.vm, "web");
    assert_eq!(life.start.arguments, Some(vec!["restore".into()]));
    let left = std::fs::read_dir(dir.path()).unwrap();
    let left = left.map(|file| file.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = left.filter(|name| name.starts_with(PREFIX)).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn none_is_taken_for_another_snapshot_or_under_a_name_that_is_taken() {
    let (_made, dir) = directory();
    let (claim, _socket) = spare(&dir, "base");
    assert!(take(&dir, "other", "web").unwrap().is_none());
    let _web = dir
        .claim(&NameChoice::Given("web".into()), POOL.as_ref())
        .unwrap();
    assert_eq!(
        take(&dir, "base", "web").unwrap_err().kind,
        ErrorKind::Refused
    );
    assert_eq!(take(&dir, "base", "-").unwrap_err().kind, ErrorKind::Usage);
    // It stands by still.
    assert_eq!(dir.spares().unwrap().len(), 1);
    drop(claim);
}

#[test]
fn one_that_was_killed_leaves_nothing_once_somebody_looks() {
    let (_made, dir) = directory();
    let (claim, _socket) = spare(&dir, "base");
    std::fs::write(&claim.paths().log, "a line").unwrap();
    let paths = claim.paths().clone();
    // As a killed process: the lock goes, and nobody removes the files.
    let copy = dir.path().join(".spare-0000000000000000-1.lock");
    std::fs::copy(dir.path().join(format!("{}.lock", paths.name)), &copy).unwrap();
    drop(claim);
    std::fs::write(dir.path().join(".spare-0000000000000000-1.log"), "a line").unwrap();
    assert!(dir.spares().unwrap().is_empty());
    let left = std::fs::read_dir(dir.path()).unwrap();
    let left: Vec<_> = left.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(left, [".lock"]);
}

#[test]
fn orders_are_kept_until_none_are_wanted() {
    let (_made, dir) = directory();
    dir.order_spares(&order("base", 3)).unwrap();
    dir.order_spares(&order("base", 4)).unwrap();
    dir.order_spares(&order("other", 1)).unwrap();
    let mut orders = dir.spare_orders().unwrap();
    orders.sort_by_key(|order| order.count);
    assert_eq!(orders, [order("other", 1), order("base", 4)]);
    let lock = dir.lock_refill(&orders[0]).unwrap();
    assert!(lock.is_some());
    assert!(dir.lock_refill(&orders[0]).unwrap().is_none());
    drop(lock);
    for order in orders {
        dir.order_spares(&SpareOrder { count: 0, ..order }).unwrap();
    }
    assert!(dir.spare_orders().unwrap().is_empty());
}
