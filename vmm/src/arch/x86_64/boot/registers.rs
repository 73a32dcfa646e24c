//! Registers that a vCPU has when the guest starts.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

use super::layout::{FLAT_BOOT_BLOCK, FLAT_TSS, GDT, PML4, ZERO_PAGE};

const CR0_PE: u64 = 1;
const CR0_PG: u64 = 1 << 31;
/// PG AM WP NE ET MP PE.
const FLAT_CR0: u64 = 0x8005_0033;
const CR4_PAE: u64 = 1 << 5;
/// PAE OSFXSR OSXMMEXCPT.
const FLAT_CR4: u64 = 0x620;
/// In CR4: XSAVE and extended control registers are in use.
pub const CR4_OSXSAVE: u64 = 1 << 18;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const EFER_NXE: u64 = 1 << 11;
/// Bit 1 is always set.
const RFLAGS_INITIAL: u64 = 2;
/// x87 and SSE.
pub const FLAT_XCR0: u64 = 3;

/// General registers of vCPU 0 for Linux: the zero page in `rsi`.
pub fn linux_regs(rip: u64) -> kvm_regs {
    kvm_regs {
        rip,
        rflags: RFLAGS_INITIAL,
        rsi: ZERO_PAGE,
        ..Default::default()
    }
}

/// System registers of vCPU 0 for Linux: 64-bit mode, paging on, flat kernel segments from the boot
/// GDT.
pub fn linux_sregs(initial: kvm_sregs) -> kvm_sregs {
    let data = data_segment(0x18, 0);
    kvm_sregs {
        cs: code_segment(0x10, 0),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        // A task register must be there in 64-bit mode; nothing uses it before the kernel loads its
        // own.
        tr: kvm_segment {
            limit: 0x67,
            type_: 11,
            present: 1,
            ..Default::default()
        },
        gdt: kvm_dtable {
            base: GDT,
            limit: 0x1f,
            ..Default::default()
        },
        idt: kvm_dtable::default(),
        cr0: initial.cr0 | CR0_PE | CR0_PG,
        cr3: PML4,
        cr4: initial.cr4 | CR4_PAE,
        efer: initial.efer | EFER_LME | EFER_LMA,
        ..initial
    }
}

/// I/O privilege level 3. The task state segment allows every port too: a software KVM (PVM)
/// forgets the level, and QEMU's software emulation of SVM does not find the segment.
const RFLAGS_IOPL_USER: u64 = 3 << 12;

/// General registers of vCPU `index` of a flat guest.
pub fn flat_regs(rip: u64, index: usize) -> kvm_regs {
    kvm_regs {
        rip,
        rflags: RFLAGS_INITIAL | RFLAGS_IOPL_USER,
        rdi: index as u64,
        rsi: FLAT_BOOT_BLOCK,
        ..Default::default()
    }
}

/// System registers of each vCPU of a flat guest: 64-bit mode at user privilege, no descriptor
/// tables.
pub fn flat_sregs(initial: kvm_sregs, has_xsave: bool, has_nx: bool) -> kvm_sregs {
    let data = data_segment(0x2b, 3);
    kvm_sregs {
        cs: code_segment(0x33, 3),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: kvm_segment {
            selector: 0x40,
            base: FLAT_TSS,
            limit: 0x2068,
            type_: 11,
            present: 1,
            ..Default::default()
        },
        ldt: kvm_segment {
            unusable: 1,
            ..Default::default()
        },
        gdt: kvm_dtable::default(),
        idt: kvm_dtable::default(),
        cr0: FLAT_CR0,
        cr3: PML4,
        cr4: FLAT_CR4 | if has_xsave { CR4_OSXSAVE } else { 0 },
        efer: EFER_LME | EFER_LMA | if has_nx { EFER_NXE } else { 0 },
        ..initial
    }
}

fn code_segment(selector: u16, dpl: u8) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_: 11,
        present: 1,
        dpl,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    }
}

fn data_segment(selector: u16, dpl: u8) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_: 3,
        present: 1,
        dpl,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    }
}
