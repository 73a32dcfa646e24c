//! Interrupt lines as devices see them.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use vmm_sys_util::eventfd::EventFd;

/// An edge-triggered interrupt line, as ACPI declares it to the guest. So a line is raised and
/// never lowered. Two raises before the guest reacts may give one interrupt or two.
pub trait IrqLine: Send + Sync {
    /// Raises the interrupt once.
    ///
    /// # Errors
    /// The signal could not be sent; the guest has not seen it.
    fn raise(&self) -> io::Result<()>;
}

/// The eventfd that the machine has bound to a GSI with KVM_IRQFD (KVM API section 4.75).
impl IrqLine for EventFd {
    fn raise(&self) -> io::Result<()> {
        self.write(1)
    }
}

/// An interrupt line that only counts: for tests, and for machines without an interrupt controller.
#[derive(Debug, Default)]
pub struct CountingIrq {
    raised: AtomicU64,
}

impl CountingIrq {
    /// Number of times that the line was raised so far.
    pub fn raised(&self) -> u64 {
        self.raised.load(Ordering::SeqCst)
    }
}

impl IrqLine for CountingIrq {
    fn raise(&self) -> io::Result<()> {
        self.raised.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}
