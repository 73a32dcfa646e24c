use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::gate::{Gate, Passage};

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
        let each = (0..self.kicked.len()).map(|index| {
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
    runners.gate.pause(|| runners.kick());
    assert_eq!(runners.counts(), [0, 0, 0]);
    for _ in 0..200 {
        runners.gate.resume();
        let before = runners.counts();
        while runners
            .counts()
            .iter()
            .zip(&before)
            .any(|(now, before)| now == before)
        {
            thread::yield_now();
        }
        runners.gate.pause(|| runners.kick());
        assert!(runners.gate.is_paused());
        let held = runners.counts();
        thread::yield_now();
        assert_eq!(runners.counts(), held);
    }
    runners.gate.stop(|| runners.kick());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_kick_right_after_the_resume_is_not_lost() {
    let runners = Runners::new(2);
    let threads = runners.spawn();
    for _ in 0..2000 {
        runners.gate.resume();
        runners.gate.pause(|| runners.kick());
    }
    runners.gate.stop(|| runners.kick());
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn one_that_failed_is_held_and_does_not_keep_the_others() {
    let gate = Arc::new(Gate::new(1));
    let failed = Arc::clone(&gate);
    gate.resume();
    let thread = thread::spawn(move || failed.pass(0, false, || panic!("let through")));
    gate.pause(|| {});
    gate.resume();
    gate.pause(|| {});
    assert!(gate.is_paused());
    gate.stop(|| {});
    assert_eq!(thread.join().unwrap(), Passage::Stop);
    gate.resume();
    assert!(gate.is_paused(), "a stopped gate stays closed");
}
