use std::sync::mpsc::{Receiver, Sender, channel};

use nvvmm_snapshot::{CreateOptions, Durability};

use super::*;
use crate::error::ErrorKind;

const HUNG: Duration = Duration::from_secs(60);

/// A VM whose checkpoints are what the test says, and that tells what it was asked for.
struct Played {
    _place: tempfile::TempDir,
    pool: Arc<Pool>,
    asked: Receiver<(String, Vec<u64>)>,
    answers: Sender<Attempt>,
    take: Option<Box<TakeCheckpoint>>,
    replaced: usize,
}

impl Played {
    fn new() -> Self {
        let place = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = place.path().join("pool");
        let pool = Pool::create(
            &path,
            &CreateOptions {
                size_bytes: 16 << 20,
                overcommit: false,
            },
        )
        .unwrap();
        let (ask, asked) = channel();
        let (answers, answer) = channel();
        let (ask, answer) = (Mutex::new(ask), Mutex::new(answer));
        let take = move |name: &str, replaced: &[SnapshotId]| {
            let replaced = replaced.iter().map(|id| id.get()).collect();
            ask.lock()
                .unwrap()
                .send((name.to_owned(), replaced))
                .unwrap();
            answer.lock().unwrap().recv_timeout(HUNG).unwrap()
        };
        Self {
            _place: place,
            pool,
            asked,
            answers,
            take: Some(Box::new(take)),
            replaced: 0,
        }
    }

    fn start(&mut self, every: Duration, keep: u32) -> Ring {
        let settings = RingSettings {
            every,
            keep,
            replaced: self.replaced,
        };
        Ring::start(&self.pool, "vm", settings, self.take.take().unwrap()).unwrap()
    }

    fn asked(&self) -> (String, Vec<u64>) {
        self.asked.recv_timeout(HUNG).unwrap()
    }

    fn takes(&self, id: u64, name: &str, pause_us: f64) {
        let report = SnapshotReport {
            name: name.into(),
            disks_only: false,
            phases: vec![PhaseTime {
                phase: "Commit".into(),
                us: pause_us * 2.0,
            }],
            pause_us,
            held_us_max: 1_240.0,
            total_us: pause_us * 3.0,
            frames_mapped: 0,
            frames_new: 0,
            frames_copied: 0,
            frames_copied_paused: 0,
            ioctls_paused: 0,
            mmaps_paused: 0,
            state_bytes: 0,
            metadata_blocks: 0,
            digests_made: None,
            outside_disks: Vec::new(),
            durability: Durability::Process,
        };
        self.answer(Attempt::Taken(
            SnapshotId::new(id).unwrap(),
            Box::new(report),
        ));
    }

    fn answer(&self, attempt: Attempt) {
        self.answers.send(attempt).unwrap();
    }
}

#[test]
fn the_oldest_goes_with_the_commit_of_the_newest() {
    let mut vm = Played::new();
    let ring = vm.start(Duration::ZERO, 2);
    for (id, name, replaced) in [
        (4, "vm@1", &[][..]),
        (6, "vm@2", &[]),
        (9, "vm@3", &[4]),
        (10, "vm@4", &[6]),
    ] {
        assert_eq!(vm.asked(), (name.to_owned(), replaced.to_vec()));
        vm.takes(id, name, id as f64);
    }
    assert_eq!(
        vm.asked(),
        ("vm@5".to_owned(), vec![9]),
        "all before is noted"
    );
    let status = ring.status();
    assert!(status.running && status.failure.is_none());
    assert_eq!((status.taken, status.kept, status.missed), (4, 2, 0));
    assert_eq!(status.newest.as_deref(), Some("vm@4"));
    assert_eq!((status.pause_us_mean, status.pause_us_max), (7.25, 10.0));
    assert_eq!(status.phases_mean.len(), 1);
    assert_eq!(
        (status.phases_mean[0].us, status.total_us_mean),
        (14.5, 21.75)
    );
    vm.answer(Attempt::Failed(VmError::failed("enough")));
}

#[test]
fn what_is_not_taken_is_asked_for_again_and_a_failure_ends_it() {
    let mut vm = Played::new();
    let mut ring = vm.start(Duration::from_millis(1), 8);
    for _ in 0..3 {
        assert_eq!(vm.asked(), ("vm@1".to_owned(), vec![]));
        vm.answer(Attempt::NotNow);
    }
    assert_eq!(vm.asked(), ("vm@1".to_owned(), vec![]));
    let full = VmError::new(ErrorKind::PoolFull, "the pool is full");
    vm.answer(Attempt::Failed(full.clone()));
    ring.stop();
    let status = ring.status();
    assert!(!status.running);
    assert_eq!(status.failure, Some(full));
    assert!(status.taken == 0 && status.missed >= 3, "{status:?}");
    assert!(vm.asked.try_recv().is_err());
}

#[test]
fn it_ends_in_the_middle_of_a_period() {
    let mut vm = Played::new();
    let ring = vm.start(Duration::from_secs(3600), 1);
    assert_eq!(vm.asked().0, "vm@1");
    vm.takes(1, "vm@1", 1.0);
    drop(ring);
    assert!(vm.asked.try_recv().is_err());
}
