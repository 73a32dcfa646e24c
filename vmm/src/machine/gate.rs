//! The gate that all vCPU threads pass before they enter the guest, and where they are held while
//! paused.
//!
//! **Pausing without a race.** `KVM_RUN` blocks for as long as the guest runs or sleeps. To get a
//! vCPU out of it the pausing thread first sets the vCPU's `immediate_exit` and then sends its
//! thread a signal. The thread comes out in both cases. Inside `KVM_RUN`, the signal interrupts it.
//! Before `KVM_RUN`, the signal runs a handler that does nothing, but `KVM_RUN` then sees
//! `immediate_exit` and returns `EINTR` at once. `immediate_exit` is cleared
//! only here, under the gate's lock, by a thread that is let through: a request that comes later
//! sets it again under the same lock.
//!
//! **Nothing half done.** A thread comes to the gate only when `KVM_RUN` has returned `EINTR`. An
//! access to a device is completed by the *next* `KVM_RUN` (KVM API, section 5, `KVM_EXIT_IO`,
//! `KVM_EXIT_MMIO`), which with `immediate_exit` set does that, and nothing more, before it returns
//! `EINTR`, or hands out the next part of the same instruction. So at the gate no I/O is pending
//! and the registers are complete.
//!
//! **Several reasons.** Each reason for the guest to stand still has a hold of its own, and lifts
//! no other. For example, a pause that the user asks for during a snapshot lasts longer than the
//! snapshot.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Reasons for which vCPUs are held. The guest runs when there is no reason left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The owner of the machine asked for a pause. A new machine begins with this one.
    Pause,
    /// An operation on the machine is under way, such as a snapshot.
    Operation,
    /// An access to guest memory waits for space in the pool.
    NoSpace,
}

impl Hold {
    fn bit(self) -> u8 {
        1 << self as u8
    }
}

#[derive(Debug)]
struct State {
    /// A bit for each [`Hold`].
    holds: u8,
    /// The threads are to end.
    stop: bool,
    /// By vCPU: held at the gate, or gone.
    held: Vec<bool>,
    /// Time at which one that had been held was let through last.
    let_through: Option<Instant>,
    /// A vCPU has failed: its thread is held until the end.
    has_failed: bool,
}

impl State {
    fn is_open(&self) -> bool {
        self.holds == 0 && !self.stop
    }

    fn all_held(&self) -> bool {
        self.held.iter().all(|&held| held)
    }
}

/// The gate of one machine.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
    /// Threads at the gate wait for this: the gate was opened, or the threads are to end.
    opened: Condvar,
    /// Those who hold the threads wait for this: the last thread has come. A second variable, so
    /// that no thread is woken without need.
    all_came: Condvar,
}

/// Ways out of the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    /// The thread may enter the guest.
    Run,
    /// The thread must end.
    Stop,
}

impl Gate {
    /// A gate for `vcpus` threads that have not come yet, closed by [`Hold::Pause`].
    pub(super) fn new(vcpus: usize) -> Gate {
        let state = State {
            holds: Hold::Pause.bit(),
            stop: false,
            held: vec![false; vcpus],
            let_through: None,
            has_failed: false,
        };
        Gate {
            state: Mutex::new(state),
            opened: Condvar::new(),
            all_came: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called by the thread of `vcpu`: waits while the gate is closed. `may_run` is false for a
    /// vCPU that has failed; it is held until the end. `on_run` is called under the gate's lock
    /// just before the thread is let through.
    pub(super) fn pass(&self, vcpu: usize, may_run: bool, on_run: impl FnOnce()) -> Passage {
        let mut state = self.lock();
        state.has_failed |= !may_run;
        loop {
            if state.stop {
                self.come(&mut state, vcpu);
                return Passage::Stop;
            }
            if state.is_open() && may_run {
                if std::mem::replace(&mut state.held[vcpu], false) {
                    state.let_through = Some(Instant::now());
                }
                on_run();
                return Passage::Run;
            }
            self.come(&mut state, vcpu);
            state = self
                .opened
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn come(&self, state: &mut State, vcpu: usize) {
        if !std::mem::replace(&mut state.held[vcpu], true) && state.all_held() {
            self.all_came.notify_all();
        }
    }

    /// Adds a reason and, if it is the first, gets threads out of the guest: `request` is called
    /// under the lock, `kick` after it, as those that are kicked come for the lock at once. A
    /// kick that comes too late makes a thread pass the gate once more. Waits for nobody.
    pub(super) fn hold(&self, hold: Hold, request: impl FnOnce(), kick: impl FnOnce()) {
        let mut state = self.lock();
        let was_open = state.is_open();
        state.holds |= hold.bit();
        if was_open {
            request();
            drop(state);
            kick();
        }
    }

    /// Waits until all threads are held. There must be a hold.
    pub(super) fn wait_held(&self) {
        let mut state = self.lock();
        while !state.all_held() {
            state = self
                .all_came
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends a reason; the gate opens with the last one, unless the machine is being stopped.
    pub(super) fn lift(&self, hold: Hold) {
        let mut state = self.lock();
        state.holds &= !hold.bit();
        let opens = state.is_open();
        drop(state);
        if opens {
            self.opened.notify_all();
        }
    }

    /// Time at which the last thread was let through. `None` while one is held.
    pub(super) fn let_through_at(&self) -> Option<Instant> {
        let state = self.lock();
        let all_run = state.is_open() && state.held.iter().all(|&held| !held);
        state.let_through.filter(|_| all_run)
    }

    /// Tells all threads to end, and gets them out of the guest as [`Gate::hold`] does.
    pub(super) fn stop(&self, request: impl FnOnce(), kick: impl FnOnce()) {
        let mut state = self.lock();
        state.stop = true;
        request();
        drop(state);
        kick();
        self.opened.notify_all();
    }

    /// True when a vCPU has failed, and does not run again.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().has_failed
    }

    /// True while there is this reason.
    pub(super) fn has(&self, hold: Hold) -> bool {
        self.lock().holds & hold.bit() != 0
    }

    /// True when all threads are held: their vCPUs may be read.
    pub(super) fn is_paused(&self) -> bool {
        let state = self.lock();
        !state.is_open() && state.all_held()
    }

    /// All threads but that of `vcpu` are held.
    #[cfg(test)]
    pub(super) fn all_held_but(&self, vcpu: usize) -> bool {
        let state = self.lock();
        (0..)
            .zip(&state.held)
            .all(|(index, &held)| held || index == vcpu)
    }
}
