//! Bringing stores to where they last: out of the CPU's caches, or through the kernel.

use std::arch::asm;
use std::arch::x86_64::__cpuid;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;

use crate::error::{Error, Result};

/// Brings stores to a medium. A trait, so that tests can note it down and make it fail.
pub(super) trait WriteBack: Send + Sync {
    /// Starts writing the cache lines of a range back to memory. Whoever stored them, and through
    /// whichever mapping: caches go by physical address.
    ///
    /// # Safety
    /// The range is mapped for reading.
    unsafe fn lines(&self, start: *const u8, len: usize);

    /// Waits for the lines that this thread began to write back.
    fn drain(&self);

    /// Has the kernel write everything of the file that is not on its medium yet, whoever stored
    /// it, and what is needed to find it again.
    fn sync(&self, file: &File) -> io::Result<()>;
}

/// Instructions that write a cache line back, the best first (Intel SDM volume 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instruction {
    /// Keeps the line in the cache.
    Clwb,
    /// Evicts the line.
    Clflushopt,
    /// Evicts the line, one after the other. Every x86-64 CPU has it.
    Clflush,
}

/// The CPU and the kernel.
pub(super) struct OfThisHost {
    instruction: Instruction,
    line_bytes: usize,
}

impl OfThisHost {
    pub(super) fn new() -> OfThisHost {
        // An unsafe function up to Rust 1.89.
        #[allow(unused_unsafe)]
        // SAFETY: every x86-64 CPU has the instruction and these leaves; leaves that a CPU lacks
        // read as another's, and leaf 7 is asked only where it exists.
        let (leaves, features, more) = unsafe { (__cpuid(0).eax, __cpuid(1), __cpuid(7)) };
        let more = if leaves >= 7 { more.ebx } else { 0 };
        OfThisHost {
            instruction: match (more >> 24 & 1, more >> 23 & 1) {
                (1, _) => Instruction::Clwb,
                (_, 1) => Instruction::Clflushopt,
                _ => Instruction::Clflush,
            },
            // Leaf 1, EBX bits 8 to 15, in units of 8 bytes.
            line_bytes: ((features.ebx >> 8 & 0xff) as usize * 8).max(16),
        }
    }
}

impl WriteBack for OfThisHost {
    unsafe fn lines(&self, start: *const u8, len: usize) {
        let first = start.addr() / self.line_bytes * self.line_bytes;
        let end = start.addr() + len;
        for line in (first..end).step_by(self.line_bytes) {
            // SAFETY: the line overlaps the range, which the caller says is mapped, and pages are
            // made of whole lines. The instructions change no memory and no register;
            // they may not move over stores to it, so the assembler block counts as one
            // that reads and writes memory.
            unsafe {
                match self.instruction {
                    Instruction::Clwb => {
                        asm!("clwb [{}]", in(reg) line, options(nostack, preserves_flags))
                    }
                    Instruction::Clflushopt => {
                        asm!("clflushopt [{}]", in(reg) line, options(nostack, preserves_flags));
                    }
                    Instruction::Clflush => {
                        asm!("clflush [{}]", in(reg) line, options(nostack, preserves_flags))
                    }
                }
            }
        }
    }

    fn drain(&self) {
        // SAFETY: orders stores and write-backs, and does nothing else.
        unsafe { asm!("sfence", options(nostack, preserves_flags)) };
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// One `sync` for all that was noted before it.
#[derive(Default)]
pub(super) struct SyncQueue {
    noted: AtomicU64,
    synced: Mutex<Synced>,
}

#[derive(Default)]
struct Synced {
    up_to: u64,
    failed: Option<Errno>,
}

impl SyncQueue {
    /// Something was stored that the next sync must write.
    pub(super) fn note(&self) {
        self.noted.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns when all that was noted before is on the medium.
    ///
    /// After an error it fails for ever: the kernel tells of a write that failed only once, and
    /// then takes the page for written, so that a later success would prove nothing.
    pub(super) fn sync(&self, file: &File, by: &dyn WriteBack) -> Result<()> {
        let up_to = self.noted.load(Ordering::Acquire);
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(errno) = synced.failed {
            return Err(Error::io(
                "an earlier write of the pool to its medium failed: nothing can be made durable \
                 until it is opened again",
            )(errno));
        }
        if synced.up_to >= up_to {
            return Ok(());
        }
        if let Err(source) = by.sync(file) {
            synced.failed = Some(source.raw_os_error().map_or(Errno::EIO, Errno::from_raw));
            return Err(Error::io("writing the pool to its medium")(source));
        }
        synced.up_to = up_to;
        Ok(())
    }
}
