//! The gate that all vCPU threads pass before they enter the guest, and where they are held while paused.
//!
//! **Pausing without a race.** `KVM_RUN` blocks for as long as the guest runs or sleeps. To get a vCPU out of it the
//! pausing thread first sets the vCPU's `immediate_exit` and then sends its thread a signal. Whatever the thread is
//! doing, it comes out: inside `KVM_RUN`, the signal interrupts it; before `KVM_RUN`, the signal is spent on a
//! handler that does nothing, but `KVM_RUN` then sees `immediate_exit` and returns `EINTR` at once. `immediate_exit`
//! is cleared only here, under the gate's lock, by a thread that is let through: a request that comes later sets it
//! again under the same lock.
//!
//! **Nothing half done.** A thread comes to the gate only when `KVM_RUN` has returned `EINTR`. An access to a device
//! is completed by the *next* `KVM_RUN` (KVM API, section 5, `KVM_EXIT_IO`, `KVM_EXIT_MMIO`), which with
//! `immediate_exit` set does that, and nothing more, before it returns `EINTR`, or hands out the next part of the
//! same instruction. So at the gate no I/O is pending and the registers are complete.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What the vCPU threads shall do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Run,
    Pause,
    Stop,
}

#[derive(Debug)]
struct State {
    wanted: Wanted,
    /// By vCPU: held at the gate, or gone.
    held: Vec<bool>,
}

/// The gate of one machine.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

/// How a thread leaves the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// It may enter the guest.
    Run,
    /// It shall end.
    Stop,
}

impl Gate {
    /// A closed gate for `vcpus` threads that have not come yet.
    pub(super) fn new(vcpus: usize) -> Gate {
        let state = State {
            wanted: Wanted::Pause,
            held: vec![false; vcpus],
        };
        Gate {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called by the thread of `vcpu`: waits while the gate is closed. `may_run` is false for a vCPU that has failed;
    /// it is held until the end. `on_run` is called under the gate's lock just before the thread is let through.
    pub(super) fn pass(&self, vcpu: usize, may_run: bool, on_run: impl FnOnce()) -> Passage {
        let mut state = self.lock();
        loop {
            match state.wanted {
                Wanted::Stop => {
                    state.held[vcpu] = true;
                    self.changed.notify_all();
                    return Passage::Stop;
                }
                Wanted::Run if may_run => {
                    state.held[vcpu] = false;
                    on_run();
                    return Passage::Run;
                }
                Wanted::Run | Wanted::Pause => {
                    if !state.held[vcpu] {
                        state.held[vcpu] = true;
                        self.changed.notify_all();
                    }
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// Closes the gate, calls `kick` (under the lock) to get threads out of the guest, and waits until all are held.
    pub(super) fn pause(&self, kick: impl FnOnce()) {
        let mut state = self.lock();
        if state.wanted == Wanted::Run {
            state.wanted = Wanted::Pause;
            kick();
        }
        while !state.held.iter().all(|&held| held) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Opens the gate, unless the machine is being stopped.
    pub(super) fn resume(&self) {
        let mut state = self.lock();
        if state.wanted == Wanted::Pause {
            state.wanted = Wanted::Run;
            self.changed.notify_all();
        }
    }

    /// Tells all threads to end, calling `kick` (under the lock) to get them out of the guest.
    pub(super) fn stop(&self, kick: impl FnOnce()) {
        let mut state = self.lock();
        state.wanted = Wanted::Stop;
        kick();
        self.changed.notify_all();
    }

    /// All threads are held: their vCPUs may be looked into.
    pub(super) fn is_paused(&self) -> bool {
        let state = self.lock();
        state.wanted != Wanted::Run && state.held.iter().all(|&held| held)
    }
}
