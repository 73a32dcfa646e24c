use std::sync::Arc;

use nvvmm_snapshot::{CreateOptions, Holder, Pool, Reservation};

use super::Pending;
use crate::sys::peer::Caller;

struct Fixture {
    _directory: tempfile::TempDir,
    holder: Holder,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").unwrap();
        let options = CreateOptions {
            size_bytes: 16 << 20,
            overcommit: false,
        };
        let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
        let holder = pool.hold("vm").unwrap();
        Self {
            _directory: directory,
            holder,
        }
    }

    fn reserve(&self) -> Reservation {
        self.holder.reserve(7).unwrap()
    }

    fn leased_blocks(&self) -> u64 {
        self.holder.pool().status().unwrap().leased_blocks
    }
}

#[test]
fn what_is_reserved_goes_back_with_a_withdrawn_snapshot() {
    let fixture = Fixture::new();
    let pending = Pending::default();
    assert!(pending.keep(fixture.reserve()));
    assert!(fixture.leased_blocks() > 0);
    assert!(pending.withdraw() && pending.is_withdrawn());
    assert_eq!(fixture.leased_blocks(), 0);
    assert!(pending.begin().is_none());
    assert!(pending.withdraw(), "twice is once");
}

#[test]
fn a_snapshot_that_was_withdrawn_early_reserves_nothing() {
    let fixture = Fixture::new();
    let pending = Pending::default();
    assert!(pending.withdraw());
    assert!(!pending.keep(fixture.reserve()));
    assert_eq!(fixture.leased_blocks(), 0);
}

#[test]
fn one_that_has_begun_cannot_be_withdrawn() {
    let fixture = Fixture::new();
    let pending = Pending::default();
    assert!(pending.begin().is_none(), "nothing is reserved");
    assert!(pending.keep(fixture.reserve()));
    assert_eq!(pending.begin().unwrap().blocks(), 7);
    assert!(!pending.withdraw() && !pending.is_withdrawn());
}

#[test]
fn either_it_begins_or_it_is_withdrawn() {
    let fixture = Fixture::new();
    for _ in 0..200 {
        let pending = Arc::new(Pending::default());
        assert!(pending.keep(fixture.reserve()));
        let (begun, withdrawn) = std::thread::scope(|scope| {
            let begins = scope.spawn(|| pending.begin().is_some());
            let withdraws = scope.spawn(|| pending.withdraw());
            (begins.join().unwrap(), withdraws.join().unwrap())
        });
        assert_ne!(begun, withdrawn);
    }
    assert_eq!(fixture.leased_blocks(), 0);
}

#[test]
fn a_snapshot_whose_caller_is_gone_does_not_begin() {
    let fixture = Fixture::new();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let pending = Pending::of(Caller::at(ours));
    assert!(pending.keep(fixture.reserve()));
    assert!(fixture.leased_blocks() > 0 && !pending.caller_is_gone());
    drop(theirs);
    assert!(pending.caller_is_gone());
    assert!(pending.begin().is_none());
    assert!(pending.is_withdrawn());
    assert_eq!(fixture.leased_blocks(), 0);
}
