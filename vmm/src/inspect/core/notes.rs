//! The notes of a core file: what the vCPUs' registers are, as debuggers (gdb) and QEMU's readers
//! (crash) know them.

use kvm_bindings::{kvm_dtable, kvm_segment};
use linux_loader::elf::{NT_PRFPREG, NT_PRSTATUS};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::arch::VcpuStateV1;

const KERNEL_GS_BASE: u32 = 0xc000_0102;
/// The FXSAVE area that XSAVE's standard form begins with, and a core's floating-point note is.
const FXSAVE_BYTES: usize = 512;
const QEMU_VERSION: u32 = 1;
const QEMU_TYPE: u32 = 0;

/// `Elf64_Nhdr` (elf.h): name and description follow, each with zeros up to a multiple of four.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct NoteHeader {
    /// Length of the name, with the zero that ends it.
    pub name_bytes: U32,
    /// Length of the description.
    pub desc_bytes: U32,
    /// Type of the note, in the numbers of its name.
    pub kind: U32,
}

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

/// The notes of all vCPUs, in their order: each a thread whose number is the vCPU's and one.
pub fn of_vcpus(vcpus: &[VcpuStateV1]) -> Vec<u8> {
    let mut notes = Vec::new();
    for (number, vcpu) in (1u32..).zip(vcpus) {
        add(
            &mut notes,
            "CORE",
            NT_PRSTATUS,
            pr_status(number, vcpu).as_bytes(),
        );
        if let Some(fxsave) = vcpu.xsave.get(..FXSAVE_BYTES) {
            add(&mut notes, "CORE", NT_PRFPREG, fxsave);
        }
    }
    // Debuggers take what follows a thread's status for that thread's.
    for vcpu in vcpus {
        add(&mut notes, "QEMU", QEMU_TYPE, qemu_cpu(vcpu).as_bytes());
    }
    notes
}

/// Appends a note.
pub fn add(notes: &mut Vec<u8>, name: &str, kind: u32, desc: &[u8]) {
    let header = NoteHeader {
        name_bytes: U32::new(name.len() as u32 + 1),
        desc_bytes: U32::new(desc.len() as u32),
        kind: U32::new(kind),
    };
    notes.extend_from_slice(header.as_bytes());
    for part in [[name.as_bytes(), &[0]].concat(), desc.to_vec()] {
        notes.extend(part);
        notes.resize(notes.len().next_multiple_of(4), 0);
    }
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
