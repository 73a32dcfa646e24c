use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use super::gate::{Gate, Hold, Passage};

/// Threads that "run" by counting until they are kicked, as vCPUs do.
struct Runners {
    gate: Gate,
    kicked: Vec<AtomicBool>,
    counts: Vec<AtomicU64>,
}

impl Runners {
    fn new(count: usize) -> Arc<Runners> {
        Arc::new(Runners {
            gate: Gate::new(count),
            kicked: (0..count).map(|_| AtomicBool::new(false)).collect(),
            counts: (0..count).map(|_| AtomicU64::new(0)).collect(),
        })
    }

    fn spawn(self: &Arc<Runners>) -> Vec<thread::JoinHandle<()>> {
        self.spawn_from(0)
    }

    fn spawn_from(self: &Arc<Runners>, first: usize) -> Vec<thread::JoinHandle<()>> {
        let each = (first..self.kicked.len()).map(|index| {
            let runners = Arc::clone(self);
            thread::spawn(move || {
                let clear = || runners.kicked[index].store(false, Ordering::SeqCst);
                while runners.gate.pass(index, true, clear) == Passage::Run {
                    while !runners.kicked[index].load(Ordering::SeqCst) {
                        runners.counts[index].fetch_add(1, Ordering::SeqCst);
                        thread::yield_now();
                    }
                }
            })
        });
        each.collect()
    }

    fn pause(&self) {
        self.gate.hold(Hold::Pause, || self.kick(), || {});
        self.gate.wait_held();
    }

    fn resume(&self) {
        self.gate.lift(Hold::Pause);
    }

    fn stop(&self, threads: Vec<thread::JoinHandle<()>>) {
        self.gate.stop(|| self.kick(), || {});
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    }

    /// Every thread runs, or has run since the call.
    fn wait_until_all_ran(&self) {
        let before = self.counts();
        while self
            .counts()
            .iter()
            .zip(&before)
            .any(|(now, before)| now == before)
        {
            thread::yield_now();
        }
    }

    fn kick(&self) {
        self.kicked
            .iter()
            .for_each(|kicked| kicked.store(true, Ordering::SeqCst));
    }

    fn counts(&self) -> Vec<u64> {
        self.counts
            .iter()
            .map(|count| count.load(Ordering::SeqCst))
            .collect()
    }
}

#[test]
fn nobody_runs_before_the_gate_opens_or_while_it_is_closed() {
    let runners = Runners::new(3);
    let threads = runners.spawn();
    runners.pause();
    assert_eq!(runners.counts(), [0, 0, 0]);
    for _ in 0..200 {
        runners.resume();
        runners.wait_until_all_ran();
        runners.pause();
        assert!(runners.gate.is_paused());
        let held = runners.counts();
        thread::yield_now();
        assert_eq!(runners.counts(), held);
    }
    runners.stop(threads);
}

#[test]
fn the_end_of_a_pause_is_when_the_last_thread_went_on() {
    let runners = Runners::new(2);
    let threads = runners.spawn();
    runners.pause();
    for _ in 0..50 {
        assert_eq!(runners.gate.let_through_at(), None);
        let opened = Instant::now();
        runners.resume();
        runners.wait_until_all_ran();
        let went_on = runners.gate.let_through_at().unwrap();
        assert!((opened..Instant::now()).contains(&went_on));
        // A kick that comes late makes threads pass once more, and is no pause.
        runners.kick();
        runners.wait_until_all_ran();
        assert_eq!(runners.gate.let_through_at(), Some(went_on));
        runners.pause();
    }
    runners.stop(threads);
}

#[test]
fn a_kick_right_after_the_resume_is_not_lost() {
    let runners = Runners::new(2);
    let threads = runners.spawn();
    for _ in 0..2000 {
        runners.resume();
        runners.pause();
    }
    runners.stop(threads);
}

#[test]
fn one_that_failed_is_held_and_does_not_keep_the_others() {
    let gate = Arc::new(Gate::new(1));
    let failed = Arc::clone(&gate);
    gate.lift(Hold::Pause);
    let thread = thread::spawn(move || failed.pass(0, false, || panic!("let through")));
    for _ in 0..2 {
        gate.hold(Hold::Pause, || {}, || {});
        gate.wait_held();
        gate.lift(Hold::Pause);
    }
    gate.hold(Hold::Operation, || {}, || {});
    assert!(gate.is_paused());
    gate.stop(|| {}, || {});
    assert_eq!(thread.join().unwrap(), Passage::Stop);
    gate.lift(Hold::Operation);
    assert!(gate.is_paused(), "a stopped gate stays closed");
}

#[test]
fn the_gate_opens_with_the_last_reason() {
    let all = [Hold::Pause, Hold::Operation, Hold::NoSpace];
    let runners = Runners::new(2);
    let threads = runners.spawn();
    for last in all {
        all.iter()
            .for_each(|hold| runners.gate.hold(*hold, || runners.kick(), || {}));
        runners.gate.wait_held();
        let held = runners.counts();
        all.iter()
            .filter(|hold| **hold != last)
            .for_each(|hold| runners.gate.lift(*hold));
        assert!(
            all.iter()
                .all(|hold| runners.gate.has(*hold) == (*hold == last))
        );
        thread::yield_now();
        assert!(runners.gate.is_paused());
        assert_eq!(runners.counts(), held);
        runners.gate.lift(last);
        runners.wait_until_all_ran();
    }
    runners.stop(threads);
}

/// Vcpu 0 waits for an answer that it does not get, as in a fault; the others run.
#[test]
fn a_hold_does_not_wait_for_the_one_that_is_stuck_and_a_pause_outlasts_it() {
    let runners = Runners::new(3);
    runners.resume();
    let (answer, answered) = std::sync::mpsc::channel::<()>();
    let stuck = {
        let runners = Arc::clone(&runners);
        thread::spawn(move || {
            let clear = || runners.kicked[0].store(false, Ordering::SeqCst);
            assert_eq!(runners.gate.pass(0, true, clear), Passage::Run);
            runners.counts[0].fetch_add(1, Ordering::SeqCst);
            answered.recv().unwrap();
            runners.gate.pass(0, true, clear)
        })
    };
    let threads = runners.spawn_from(1);
    while runners.counts().contains(&0) {
        thread::yield_now();
    }
    runners.gate.hold(Hold::NoSpace, || runners.kick(), || {});
    while !runners.gate.all_held_but(0) {
        thread::yield_now();
    }
    let held = runners.counts();
    // The user pauses while vCPU 0 is still stuck, and only then there is space.
    runners.gate.hold(Hold::Pause, || runners.kick(), || {});
    assert!(!runners.gate.is_paused());
    answer.send(()).unwrap();
    runners.gate.lift(Hold::NoSpace);
    runners.gate.wait_held();
    assert_eq!(runners.counts(), held, "nobody ran in between");
    runners.stop(threads);
    assert_eq!(stuck.join().unwrap(), Passage::Stop);
}
