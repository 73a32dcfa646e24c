//! x86-64.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::Architecture;

/// The architecture of this module.
pub const ARCHITECTURE: Architecture = Architecture::X86_64;

/// Size of a page, of whatever kind.
pub const PAGE_BYTES: u64 = 4096;
/// Size of a huge page, and of what one page table maps.
pub const HUGE_PAGE_BYTES: u64 = 2 << 20;
/// End of the addresses that a process can map, with four-level page tables.
pub const TASK_END: u64 = 0x7fff_ffff_f000;
/// Addresses where room for a stub's code is looked for: between programs and their stacks.
pub const WORKSPACE_ADDRESSES: Range<u64> = 0x10_0000_0000..0x7000_0000_0000;
/// Name of a page that /proc lists in every process, but that is no mapping of the process.
pub const KERNEL_MAPPING: &str = "[vsyscall]";

/// `syscall`.
pub const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// `mov eax, SYS_pause; syscall; jmp` back: a thread waits for ever.
pub const IDLE: [u8; 9] = [0xb8, SYS_PAUSE as u8, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
/// pause(2); newer architectures have no such call.
pub const SYS_PAUSE: libc::c_long = libc::SYS_pause;

/// The register set with the extended state (NT_X86_XSTATE).
pub const XSTATE_SET: usize = 0x202;
/// The register set with the extended state on a CPU without XSAVE (NT_PRFPREG).
pub const XSTATE_SET_LEGACY: usize = 2;
/// Length of the extended state on a CPU without XSAVE (FXSAVE). With XSAVE there is a header
/// behind it.
pub const XSTATE_LEGACY_BYTES: usize = 512;

/// The code segment of 64-bit programs.
const USER_CS: u64 = 0x33;
/// `orig_rax` of a thread that is in no system call: the kernel restarts none.
const NO_SYSCALL: u64 = u64::MAX;

/// The general registers of a thread, in the order of `struct user_regs_struct` (x86-64).
#[allow(missing_docs)]
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The number of the system call that the thread is in, or -1.
    pub orig_rax: u64,
    pub rip: u64,
    pub cs: u64,
    pub eflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub fs_base: u64,
    pub gs_base: u64,
    pub ds: u64,
    pub es: u64,
    pub fs: u64,
    pub gs: u64,
}

const _: () = assert!(size_of::<Registers>() == size_of::<libc::user_regs_struct>());

impl Registers {
    /// The same registers, set for a system call by the `syscall` instruction at `syscall_at`.
    pub fn for_call(
        &self,
        syscall_at: u64,
        number: libc::c_long,
        [rdi, rsi, rdx, r10, r8, r9]: [u64; 6],
    ) -> Self {
        Self {
            rax: number as u64,
            orig_rax: NO_SYSCALL,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            rip: syscall_at,
            ..*self
        }
    }

    /// The result of a system call that has just returned; an error is its negative number.
    pub fn call_result(&self) -> i64 {
        self.rax as i64
    }

    /// The same registers of a thread that is in no system call and goes on at `address`.
    pub fn going_on_at(&self, address: u64) -> Self {
        Self {
            rip: address,
            orig_rax: NO_SYSCALL,
            ..*self
        }
    }

    /// The address of the next instruction.
    pub fn instruction(&self) -> u64 {
        self.rip
    }

    /// Sets the address of the next instruction.
    pub fn set_instruction(&mut self, address: u64) {
        self.rip = address;
    }

    /// True for a thread that runs 64-bit code.
    pub fn is_64_bit(&self) -> bool {
        self.cs == USER_CS
    }
}

/// The extended state components that are enabled (XCR0). The kernel puts them into the software
/// bytes of the XSAVE area for a tracer.
pub fn xfeatures(xstate: &[u8]) -> u64 {
    const XCR0_OFFSET: usize = 464;
    // The FXSAVE format does not contain it.
    if xstate.len() <= XSTATE_LEGACY_BYTES {
        return 0;
    }
    let bytes = xstate
        .get(XCR0_OFFSET..XCR0_OFFSET + 8)
        .and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_le_bytes)
}
