//! Registers of the vCPUs as notes of a core file, in the forms of debuggers (gdb) and of QEMU's
//! readers (crash).

use kvm_bindings::{kvm_dtable, kvm_segment};
use linux_loader::elf::{NT_PRFPREG, NT_PRSTATUS};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromZeros, Immutable, IntoBytes, KnownLayout};

use super::VcpuStateV1;

const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// The FXSAVE area that XSAVE's standard form begins with, and a core's floating-point note is.
const FXSAVE_BYTES: usize = 512;
const QEMU_VERSION: u32 = 1;
const QEMU_TYPE: u32 = 0;

/// `struct elf_prstatus` of x86-64 (linux/elfcore.h).
#[derive(FromZeros, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct PrStatus {
    signal: [U32; 3],
    current_signal: U16,
    padding: U16,
    pending: U64,
    held: U64,
    pid: U32,
    parent: U32,
    group: U32,
    session: U32,
    times: [[U64; 2]; 4],
    registers: [U64; 27],
    fp_valid: U32,
    reserved: U32,
}

/// QEMU's `QEMUCPUSegment` (target/i386/arch_dump.c).
#[derive(FromZeros, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct QemuSegment {
    selector: U32,
    limit: U32,
    flags: U32,
    padding: U32,
    base: U64,
}

/// QEMU's `QEMUCPUState`, version 1.
#[derive(FromZeros, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct QemuCpu {
    version: U32,
    size: U32,
    registers: [U64; 18],
    segments: [QemuSegment; 10],
    control: [U64; 5],
    kernel_gs_base: U64,
}

const _: () = assert!(size_of::<PrStatus>() == 336);
const _: () = assert!(std::mem::offset_of!(PrStatus, registers) == 112);
const _: () = assert!(size_of::<QemuSegment>() == 24 && size_of::<QemuCpu>() == 440);

/// A note of a core file.
#[derive(Debug)]
pub struct CoreNote {
    /// Owner of the note's kinds.
    pub name: &'static str,
    /// Kind, one of the owner's own numbers.
    pub kind: u32,
    /// Content.
    pub desc: Vec<u8>,
}

/// The notes of all vCPUs, in their order. Each vCPU is a thread whose number is the vCPU's and
/// one.
pub fn core_notes(vcpus: &[VcpuStateV1]) -> Vec<CoreNote> {
    let note = |name, kind, desc: &[u8]| CoreNote {
        name,
        kind,
        desc: desc.to_vec(),
    };
    let mut notes = Vec::new();
    for (number, vcpu) in (1u32..).zip(vcpus) {
        let status = pr_status(number, vcpu);
        notes.push(note("CORE", NT_PRSTATUS, status.as_bytes()));
        if let Some(fxsave) = vcpu.xsave.get(..FXSAVE_BYTES) {
            notes.push(note("CORE", NT_PRFPREG, fxsave));
        }
    }
    // A debugger takes the notes behind a thread's status as that thread's.
    for vcpu in vcpus {
        notes.push(note("QEMU", QEMU_TYPE, qemu_cpu(vcpu).as_bytes()));
    }
    notes
}

/// The vCPU is in kernel mode.
pub fn is_in_kernel(vcpu: &VcpuStateV1) -> bool {
    vcpu.sregs.cs.selector & 3 == 0
}

fn pr_status(number: u32, vcpu: &VcpuStateV1) -> PrStatus {
    let (regs, sregs) = (&vcpu.regs, &vcpu.sregs);
    let selector = |segment: &kvm_segment| u64::from(segment.selector);
    // `struct user_regs_struct` (sys/user.h). Nobody is in a system call of the host: orig_rax is
    // -1.
    let registers = [
        regs.r15,
        regs.r14,
        regs.r13,
        regs.r12,
        regs.rbp,
        regs.rbx,
        regs.r11,
        regs.r10,
        regs.r9,
        regs.r8,
        regs.rax,
        regs.rcx,
        regs.rdx,
        regs.rsi,
        regs.rdi,
        u64::MAX,
        regs.rip,
        selector(&sregs.cs),
        regs.rflags,
        regs.rsp,
        selector(&sregs.ss),
        sregs.fs.base,
        sregs.gs.base,
        selector(&sregs.ds),
        selector(&sregs.es),
        selector(&sregs.fs),
        selector(&sregs.gs),
    ];
    PrStatus {
        pid: U32::new(number),
        registers: registers.map(U64::new),
        fp_valid: U32::new(u32::from(vcpu.xsave.len() >= FXSAVE_BYTES)),
        ..PrStatus::new_zeroed()
    }
}

fn qemu_cpu(vcpu: &VcpuStateV1) -> QemuCpu {
    let (regs, sregs) = (&vcpu.regs, &vcpu.sregs);
    let registers = [
        regs.rax,
        regs.rbx,
        regs.rcx,
        regs.rdx,
        regs.rsi,
        regs.rdi,
        regs.rsp,
        regs.rbp,
        regs.r8,
        regs.r9,
        regs.r10,
        regs.r11,
        regs.r12,
        regs.r13,
        regs.r14,
        regs.r15,
        regs.rip,
        regs.rflags,
    ];
    let [cs, ds, es, fs, gs, ss, ldt, tr] = [
        &sregs.cs, &sregs.ds, &sregs.es, &sregs.fs, &sregs.gs, &sregs.ss, &sregs.ldt, &sregs.tr,
    ]
    .map(qemu_segment);
    let kernel_gs = vcpu.msrs.iter().find(|msr| msr.index == KERNEL_GS_BASE);
    QemuCpu {
        version: U32::new(QEMU_VERSION),
        size: U32::new(size_of::<QemuCpu>() as u32),
        registers: registers.map(U64::new),
        segments: [
            cs,
            ds,
            es,
            fs,
            gs,
            ss,
            ldt,
            tr,
            qemu_table(&sregs.gdt),
            qemu_table(&sregs.idt),
        ],
        // There is no CR1.
        control: [sregs.cr0, 0, sregs.cr2, sregs.cr3, sregs.cr4].map(U64::new),
        kernel_gs_base: U64::new(kernel_gs.map_or(0, |msr| msr.value)),
    }
}

/// The flags are where a descriptor has them, in its second word.
fn qemu_segment(segment: &kvm_segment) -> QemuSegment {
    let bit = |value: u8, at: u32| u32::from(value & 1) << at;
    let flags = u32::from(segment.type_ & 15) << 8
        | bit(segment.s, 12)
        | u32::from(segment.dpl & 3) << 13
        | bit(segment.present, 15)
        | bit(segment.avl, 20)
        | bit(segment.l, 21)
        | bit(segment.db, 22)
        | bit(segment.g, 23);
    QemuSegment {
        selector: U32::new(u32::from(segment.selector)),
        limit: U32::new(segment.limit),
        flags: U32::new(flags),
        padding: U32::ZERO,
        base: U64::new(segment.base),
    }
}

fn qemu_table(table: &kvm_dtable) -> QemuSegment {
    QemuSegment {
        limit: U32::new(u32::from(table.limit)),
        base: U64::new(table.base),
        ..QemuSegment::new_zeroed()
    }
}
