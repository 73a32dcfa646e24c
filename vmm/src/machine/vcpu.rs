//! A vCPU and the thread that runs it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN,
};
use kvm_ioctls::{VcpuExit, VcpuFd};
use nvvmm_devices::Bus;

use super::events::{Events, MachineEvent};
use super::gate::{Gate, Passage};
use super::{MachineError, Result};
use crate::sys::kvm::RunPage;

/// Time until a vCPU runs again for which the kernel had no memory.
const NO_MEMORY_REST: Duration = Duration::from_millis(100);
const TRIPLE_FAULT: &str = "the guest took an exception (triple fault)";

/// One vCPU.
#[derive(Debug)]
pub(super) struct Vcpu {
    pub(super) index: usize,
    fd: Mutex<VcpuFd>,
    run_page: RunPage,
}

/// Parts that all vCPU threads of a machine share.
pub(super) struct Shared {
    pub(super) gate: Gate,
    pub(super) events: Events,
    pub(super) ports: Bus,
    pub(super) mmio: Bus,
    /// Set just before the first entry into the guest, and anew after a rewind.
    pub(super) first_entry: Mutex<Option<Instant>>,
    /// A guest without exception handlers (flat protocol): a triple fault is its failure, not a
    /// reset.
    pub(super) is_flat: AtomicBool,
}

impl Shared {
    pub(super) fn first_entry(&self) -> MutexGuard<'_, Option<Instant>> {
        self.first_entry
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Next step after one return of `KVM_RUN`.
enum Next {
    Again,
    ToGate,
    TripleFault,
    Report(MachineEvent),
}

impl Vcpu {
    pub(super) fn new(index: usize, fd: VcpuFd) -> Result<Vcpu> {
        let run_page = RunPage::map(&fd).map_err(|source| MachineError::Host {
            op: "map a vCPU's run page",
            source,
        })?;
        Ok(Vcpu {
            index,
            fd: Mutex::new(fd),
            run_page,
        })
    }

    /// The descriptor. Held by the vCPU's thread while it is not at the gate.
    pub(super) fn fd(&self) -> MutexGuard<'_, VcpuFd> {
        self.fd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the vCPU leave the guest, once its thread is also signalled.
    pub(super) fn request_exit(&self) {
        self.run_page.set_immediate_exit(true);
    }

    /// Runs the vCPU until the machine is stopped. The body of its thread.
    pub(super) fn run(&self, shared: &Arc<Shared>) {
        let mut may_run = true;
        while shared.gate.pass(self.index, may_run, || {
            self.run_page.set_immediate_exit(false)
        }) == Passage::Run
        {
            // Tells the guest's watchdogs that it stood still. EINVAL: the guest does not use
            // kvmclock.
            let _ = self.fd().kvmclock_ctrl();
            shared.first_entry().get_or_insert_with(Instant::now);
            if let Some(event) = self.run_until_interrupted(shared) {
                // This vCPU's guest code is at an end; the others go on until the owner decides.
                may_run = false;
                shared.events.push(event);
            }
        }
    }

    /// Runs the guest until this vCPU is asked to come to the gate (`None`) or cannot go on.
    fn run_until_interrupted(&self, shared: &Shared) -> Option<MachineEvent> {
        let mut fd = self.fd();
        loop {
            let next = match fd.run() {
                Ok(exit) => self.handle(exit, shared),
                Err(errno) => match errno.errno() {
                    libc::EINTR => Next::ToGate,
                    // A vCPU that waited for its start-up IPI was woken for nothing.
                    libc::EAGAIN => Next::Again,
                    libc::ENOMEM => {
                        tracing::warn!("the kernel has no memory to run vCPU {}", self.index);
                        thread::sleep(NO_MEMORY_REST);
                        Next::Again
                    }
                    libc::EFAULT => self.failed(
                        "the host has no memory behind a guest address (EFAULT from KVM_RUN; pool \
                         full or damaged?)",
                    ),
                    _ => self.failed(&format!("KVM_RUN: {errno}")),
                },
            };
            match next {
                Next::Again => {}
                Next::ToGate => return None,
                Next::Report(MachineEvent::Failed { vcpu, what }) => {
                    return Some(MachineEvent::Failed {
                        vcpu,
                        what: format!("{what}, at rip {}", address(&fd)),
                    });
                }
                Next::TripleFault => {
                    return Some(MachineEvent::TripleFault {
                        vcpu: self.index,
                        what: format!("{TRIPLE_FAULT}, at rip {}", address(&fd)),
                        resets: !shared.is_flat.load(Ordering::Relaxed),
                    });
                }
                Next::Report(event) => return Some(event),
            }
        }
    }

    fn handle(&self, exit: VcpuExit, shared: &Shared) -> Next {
        match exit {
            VcpuExit::IoIn(port, bytes) => {
                // A string instruction asks for several items at once, all from the same port.
                for item in bytes.chunks_mut(self.run_page.io_item_bytes()) {
                    shared.ports.read(u64::from(port), item);
                }
                Next::Again
            }
            VcpuExit::IoOut(port, bytes) => {
                for item in bytes.chunks(self.run_page.io_item_bytes()) {
                    shared.ports.write(u64::from(port), item);
                }
                Next::Again
            }
            VcpuExit::MmioRead(gpa, bytes) => {
                shared.mmio.read(gpa, bytes);
                Next::Again
            }
            VcpuExit::MmioWrite(gpa, bytes) => {
                shared.mmio.write(gpa, bytes);
                Next::Again
            }
            VcpuExit::Intr | VcpuExit::IrqWindowOpen => Next::Again,
            VcpuExit::Shutdown => Next::TripleFault,
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_RESET, _) => Next::Report(MachineEvent::Reset),
            VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN, _) => {
                Next::Report(MachineEvent::PoweredOff)
            }
            VcpuExit::InternalError => {
                let error = self.run_page.internal_error();
                self.failed(&format!(
                    "KVM internal error {error} ({})",
                    internal_error_name(error)
                ))
            }
            VcpuExit::FailEntry(reason, cpu) => self.failed(&format!(
                "the CPU refused to enter the guest (reason {reason:#x}, host CPU {cpu})"
            )),
            VcpuExit::MemoryFault { flags, gpa, size } => self.failed(&format!(
                "the host has no memory behind guest address {gpa:#x} ({size} bytes, flags \
                 {flags:#x})"
            )),
            other => self.failed(&format!(
                "KVM returned for a reason that nvvmm does not handle: {other:?}"
            )),
        }
    }

    fn failed(&self, what: &str) -> Next {
        Next::Report(MachineEvent::Failed {
            vcpu: self.index,
            what: what.into(),
        })
    }
}

/// Address of the vCPU's instruction, for a message.
fn address(fd: &VcpuFd) -> String {
    fd.get_regs()
        .map_or("unknown".into(), |regs| format!("{:#x}", regs.rip))
}

fn internal_error_name(error: u32) -> &'static str {
    match error {
        KVM_INTERNAL_ERROR_EMULATION => "an instruction that KVM cannot emulate",
        KVM_INTERNAL_ERROR_SIMUL_EX => "exceptions on top of each other",
        KVM_INTERNAL_ERROR_DELIVERY_EV => "an event could not be delivered",
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => {
            "the CPU left the guest for an unexpected reason"
        }
        _ => "unknown",
    }
}
