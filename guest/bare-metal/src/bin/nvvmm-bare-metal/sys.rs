//! The machine: entry, ports, time stamp counter, guest RAM. All `unsafe` of the program is here.

use core::arch::{asm, global_asm, x86_64};
use core::sync::atomic::{AtomicU64, Ordering};

use nvvmm_bare_metal::boot::{self, BootBlock};
use nvvmm_bare_metal::journal::Journal;
use nvvmm_bare_metal::pace::{LOG_LEN, Pace};
use nvvmm_bare_metal::{FRAME_BYTES, FRAME_WORDS, Memory, VCPUS_MAX};

/// Bytes of stack for each vCPU.
const STACK_BYTES: usize = 32 << 10;

#[repr(C, align(16))]
struct Stacks(core::cell::UnsafeCell<[[u8; STACK_BYTES]; VCPUS_MAX]>);

// SAFETY: only the entry code takes addresses in it, a disjoint slice for each vCPU index.
unsafe impl Sync for Stacks {}

static STACKS: Stacks = Stacks(core::cell::UnsafeCell::new([[0; STACK_BYTES]; VCPUS_MAX]));

/// The journal, in the program's first frame (linker script).
#[unsafe(link_section = ".bss.journal")]
pub static JOURNAL: Journal = Journal::new();

/// The state of `pace`, in the program's second frame (linker script).
#[unsafe(link_section = ".bss.pace")]
pub static PACE: Pace = Pace::new();

/// The log of `pace`.
pub static LOG: [AtomicU64; LOG_LEN] = [const { AtomicU64::new(0) }; LOG_LEN];

global_asm!(
    r#"
    .section .note.nvvmm, "a", @note
    .balign 4
    .long 6, 8, 1
    .asciz "nvvmm"
    .balign 4
    .long 1, 0

    .section .text.start, "ax"
    .globl _start
_start:
    cmp edi, {vcpus_max}
    jae 2f
    mov eax, edi
    inc eax
    imul eax, eax, {stack_bytes}
    lea rsp, [rip + {stacks}]
    add rsp, rax
    xor ebp, ebp
    cld
    call {start}
2:  pause
    jmp 2b
    "#,
    vcpus_max = const VCPUS_MAX,
    stack_bytes = const STACK_BYTES,
    stacks = sym STACKS,
    start = sym start,
);

global_asm!(
    r#"
    .section .text.hold_registers, "ax"
    .globl hold_registers
hold_registers:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    sub rsp, 24
    stmxcsr [rsp]
    fnstcw [rsp + 4]
    mov dword ptr [rsp + 8], 0xff80
    ldmxcsr [rsp + 8]
    mov word ptr [rsp + 12], 0x0f7f
    fldcw [rsp + 12]
    shr rdi
    mov [rsp + 16], rdi
    fild qword ptr [rsp + 16]
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    lea rax, [rdi + \i]
    movq xmm\i, rax
    lea rax, [rdi + \i + 100]
    movq xmm0, rax
    .if \i
    punpcklqdq xmm\i, xmm0
    .endif
    .endr
    movq xmm0, rdi
    .irp i, 8, 9, 10, 11, 12, 13, 14, 15
    lea r\i, [rdi + \i]
    .endr
    lea rbx, [rdi + 1]
    lea rbp, [rdi + 2]
    lea rcx, [rdi + 3]
2:  dec rsi
    jnz 2b
    xor eax, eax
    .irp i, 8, 9, 10, 11, 12, 13, 14, 15
    sub r\i, rdi
    sub r\i, \i
    or rax, r\i
    .endr
    sub rbx, rdi
    dec rbx
    or rax, rbx
    sub rbp, rdi
    sub rbp, 2
    or rax, rbp
    sub rcx, rdi
    sub rcx, 3
    or rax, rcx
    .irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movq rdx, xmm\i
    sub rdx, rdi
    sub rdx, \i
    or rax, rdx
    .if \i
    psrldq xmm\i, 8
    movq rdx, xmm\i
    sub rdx, rdi
    sub rdx, \i + 100
    or rax, rdx
    .endif
    .endr
    fistp qword ptr [rsp + 16]
    mov rdx, [rsp + 16]
    sub rdx, rdi
    or rax, rdx
    stmxcsr [rsp + 8]
    mov edx, [rsp + 8]
    and edx, 0xffc0
    xor edx, 0xff80
    or rax, rdx
    fnstcw [rsp + 12]
    movzx edx, word ptr [rsp + 12]
    xor edx, 0x0f7f
    or rax, rdx
    fninit
    fldcw [rsp + 4]
    ldmxcsr [rsp]
    add rsp, 24
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    "#
);

unsafe extern "C" {
    /// Holds values made from `pattern` in all general, SSE and x87 registers and control words for
    /// `spins` (not 0) turns of a loop. Returns 0, or bits of what changed meanwhile.
    pub safe fn hold_registers(pattern: u64, spins: u64) -> u64;
}

extern "C" fn start(vcpu: u64, boot: *const BootBlock) -> ! {
    // SAFETY: the boot protocol says that `rsi` is the address of the boot block, which nobody
    // writes after boot.
    let boot = unsafe { boot.read() };
    if boot.magic != boot::MAGIC || boot.vcpus as usize > VCPUS_MAX {
        crash();
    }
    let ram = Ram {
        free_start: boot.free_start,
        memory_bytes: boot.memory_bytes,
    };
    crate::main(vcpu, u64::from(boot.vcpus), ram)
}

/// GPA of the log of `pace`: memory is mapped one to one.
pub fn log_gpa() -> u64 {
    LOG.as_ptr() as u64
}

/// Guest RAM, mapped one to one.
#[derive(Debug, Clone, Copy)]
pub struct Ram {
    /// First GPA that the program does not use itself: the memory under test begins here.
    pub free_start: u64,
    /// End of RAM.
    pub memory_bytes: u64,
}

impl Ram {
    /// A frame under test. Panics for any other frame.
    pub fn frame(&self, gfn: u64) -> Frame {
        let gpa = gfn * FRAME_BYTES;
        assert!(
            gpa >= self.free_start && gpa + FRAME_BYTES <= self.memory_bytes,
            "frame {gfn:#x}"
        );
        Frame {
            base: gpa as *mut u64,
        }
    }
}

impl Memory for Ram {
    #[inline]
    fn word(&self, gpa: u64) -> u64 {
        if gpa.is_multiple_of(8) && gpa >= 8 && gpa <= self.memory_bytes - 8 {
            // SAFETY: all of RAM is mapped one to one and may be read (boot protocol).
            unsafe { (gpa as *const u64).read_volatile() }
        } else {
            0
        }
    }
}

/// One frame under test: no Rust object lives in it, every access is volatile or atomic.
#[derive(Clone, Copy)]
pub struct Frame {
    base: *mut u64,
}

impl Frame {
    fn at(&self, index: usize) -> *mut u64 {
        self.base.wrapping_add(index % FRAME_WORDS)
    }

    /// Reads a word.
    #[inline]
    pub fn load(&self, index: usize) -> u64 {
        // SAFETY: `Ram::frame` has checked that the frame is RAM outside of the program.
        unsafe { self.at(index).read_volatile() }
    }

    /// Writes a word.
    #[inline]
    pub fn store(&self, index: usize, word: u64) {
        // SAFETY: as in `load`.
        unsafe { self.at(index).write_volatile(word) }
    }

    /// Writes a word and returns what it replaced, as one atomic access.
    #[inline]
    pub fn swap(&self, index: usize, word: u64) -> u64 {
        // SAFETY: as in `load`, and the address is aligned.
        unsafe { AtomicU64::from_ptr(self.at(index)) }.swap(word, Ordering::SeqCst)
    }

    /// Writes what is there already, as one atomic access: dirties the frame without a change.
    pub fn dirty(&self) {
        // The compiler makes a fence of what it knows to add nothing.
        let nothing = core::hint::black_box(0);
        // SAFETY: as in `swap`.
        unsafe { AtomicU64::from_ptr(self.at(0)) }.fetch_add(nothing, Ordering::SeqCst);
    }
}

/// Registers of one virtio-mmio device.
#[derive(Debug, Clone, Copy)]
pub struct Registers {
    base: u64,
}

impl Registers {
    /// Those of all slots, whether there is a device or not.
    pub fn all() -> impl Iterator<Item = Self> {
        let slots = 0..boot::DEVICES_MAX;
        slots.map(|slot| Self {
            base: boot::DEVICES + slot * FRAME_BYTES,
        })
    }

    /// Reads the register at an offset.
    pub fn read(&self, offset: u64) -> u32 {
        let address = self.base + offset % FRAME_BYTES;
        // SAFETY: the boot protocol maps the registers of all slots at this address. No Rust object
        // is there.
        unsafe { (address as *const u32).read_volatile() }
    }

    /// Writes the register at an offset.
    pub fn write(&self, offset: u64, value: u32) {
        let address = self.base + offset % FRAME_BYTES;
        // SAFETY: as in `read`. What devices write to memory, the session gives them.
        unsafe { (address as *mut u32).write_volatile(value) }
    }
}

/// Writes one byte to an I/O port.
pub fn out_byte(port: u16, byte: u8) {
    // SAFETY: the TSS allows every port; port I/O does not touch Rust's memory.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") byte, options(nomem, nostack, preserves_flags))
    }
}

/// Writes bytes to an I/O port.
pub fn out_bytes(port: u16, bytes: &[u8]) {
    // SAFETY: reads exactly `bytes`; the direction flag is clear (entry code, ABI).
    unsafe {
        asm!("rep outsb", in("dx") port, inout("rsi") bytes.as_ptr() => _,
            inout("rcx") bytes.len() => _, options(readonly, nostack, preserves_flags));
    }
}

/// Reads one byte from an I/O port.
pub fn in_byte(port: u16) -> u8 {
    let byte: u8;
    // SAFETY: as in `out_byte`.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") byte, options(nomem, nostack, preserves_flags))
    }
    byte
}

/// The time stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: CR4.TSD is clear (boot protocol), so `rdtsc` is allowed at any privilege.
    unsafe { x86_64::_rdtsc() }
}

/// Ends in an exception, which nobody handles: the VM shuts down.
pub fn crash() -> ! {
    // SAFETY: does not return.
    unsafe { asm!("ud2", options(noreturn)) }
}

/// The four functions that the compiler calls for copies and comparisons; there is no libc here.
mod intrinsics {
    use core::arch::asm;

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        // SAFETY: the caller vouches for both ranges; the direction flag is clear.
        unsafe {
            asm!("rep movsb", inout("rdi") to => _, inout("rsi") from => _, inout("rcx") count => _,
                options(nostack, preserves_flags));
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
        if (to as usize).wrapping_sub(from as usize) >= count {
            // SAFETY: an ascending copy reads each byte before it is overwritten.
            return unsafe { memcpy(to, from, count) };
        }
        // SAFETY: the caller vouches for both ranges; descending, and the direction flag is clear
        // again after it.
        unsafe {
            asm!("std", "rep movsb", "cld",
                inout("rdi") to.wrapping_add(count).wrapping_sub(1) => _,
                inout("rsi") from.wrapping_add(count).wrapping_sub(1) => _, inout("rcx") count => _,
                options(nostack));
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
        // SAFETY: the caller vouches for the range; the direction flag is clear.
        unsafe {
            asm!("rep stosb", inout("rdi") to => _, in("al") byte as u8, inout("rcx") count => _,
                options(nostack, preserves_flags));
        }
        to
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn memcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
        for i in 0..count {
            // SAFETY: the caller vouches for both ranges. Volatile, so that this does not become a
            // call of itself.
            let (x, y) = unsafe { (a.add(i).read_volatile(), b.add(i).read_volatile()) };
            if x != y {
                return i32::from(x) - i32::from(y);
            }
        }
        0
    }

    #[unsafe(no_mangle)]
    unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, count: usize) -> i32 {
        // SAFETY: the same contract.
        unsafe { memcmp(a, b, count) }
    }
}
