//! Events of a running machine, for its owner.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};

use nvvmm_snapshot::{Resource, ask_for};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EventFd};

/// Something that the owner of a machine has to act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest has powered off.
    PoweredOff,
    /// The guest asks for a reset: it reboots.
    Reset,
    /// A vCPU took an exception that the guest has no handler for, and none for that either.
    TripleFault {
        /// Index of the vCPU.
        vcpu: usize,
        /// The cause, with the address in the guest.
        what: String,
        /// The machine is reset then, as hardware is. A guest of the flat protocol, which has no
        /// handlers, is at its end.
        resets: bool,
    },
    /// A vCPU cannot go on.
    Failed {
        /// Index of the vCPU.
        vcpu: usize,
        /// The cause, with the address in the guest.
        what: String,
    },
    /// The owner woke itself ([`Interrupter`]).
    Interrupted,
}

/// Events in the order in which they happened, and a descriptor to wait on.
#[derive(Debug)]
pub(super) struct Events {
    queue: Mutex<VecDeque<MachineEvent>>,
    wake: Arc<EventFd>,
}

/// Wakes the thread in [`super::Machine::wait_event`], which then gets
/// [`MachineEvent::Interrupted`]. The descriptor may be written (eight bytes, a number above 0)
/// from a signal handler.
#[derive(Clone, Debug)]
pub struct Interrupter(Arc<EventFd>);

impl Interrupter {
    /// Wakes it. A call with nobody waiting wakes the next one who does.
    pub fn interrupt(&self) {
        wake(&self.0);
    }
}

impl AsRawFd for Interrupter {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn wake(event: &EventFd) {
    // Fails only when the counter is full, and then the waiting thread is being woken anyway.
    let _ = event.write(1);
}

impl Events {
    pub(super) fn new() -> io::Result<Events> {
        Ok(Events {
            queue: Mutex::default(),
            wake: {
                ask_for(Resource::Descriptor)?;
                Arc::new(EventFd::new(EFD_CLOEXEC)?)
            },
        })
    }

    pub(super) fn push(&self, event: MachineEvent) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(event);
        wake(&self.wake);
    }

    /// Pushes the event that `event` finds, if it finds one. It is asked while no event can be
    /// forgotten.
    pub(super) fn push_found(&self, event: impl FnOnce() -> Option<MachineEvent>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(event) = event() else { return };
        queue.push_back(event);
        drop(queue);
        wake(&self.wake);
    }

    /// Forgets the events that nobody has taken.
    pub(super) fn forget(&self) {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    pub(super) fn interrupter(&self) -> Interrupter {
        Interrupter(Arc::clone(&self.wake))
    }

    /// Blocks until there is an event. Events come in their order; `Interrupted` when the
    /// descriptor was written and none is left.
    pub(super) fn wait(&self) -> MachineEvent {
        loop {
            if let Some(event) = self
                .queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop_front()
            {
                return event;
            }
            // One write of an event may have been counted together with another: a wake-up with an
            // empty queue that the owner did not ask for is possible, and harmless.
            match self.wake.read() {
                Ok(_) => {
                    let next = self
                        .queue
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .pop_front();
                    return next.unwrap_or(MachineEvent::Interrupted);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return MachineEvent::Failed {
                        vcpu: 0,
                        what: format!("waiting for the machine: {error}"),
                    };
                }
            }
        }
    }
}
