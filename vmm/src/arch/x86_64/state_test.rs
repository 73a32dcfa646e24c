//! On the host's own KVM. Skipped with a notice where there is none.

use std::sync::Arc;

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_MAX_CPUID_ENTRIES,
    KVM_MP_STATE_HALTED, KVM_MP_STATE_UNINITIALIZED, KVM_VCPUEVENT_VALID_NMI_PENDING,
    KVM_VCPUEVENT_VALID_SHADOW, kvm_irqchip, kvm_mp_state, kvm_msr_entry,
};
use kvm_ioctls::VcpuFd;
use zerocopy::IntoBytes;

use super::msrs::{self, MSR_IA32_TSC_DEADLINE, MSR_MTRR_DEF_TYPE, MsrV1};
use super::state::{KvmStateV1, restore, save};
use super::*;
use crate::kvm::{Host, KvmVm, Result};
use crate::memory::GuestRam;
use crate::sys;

/// Says that a test was skipped, unless `NVVMM_REQUIRE_KVM` makes that a failure.
pub(crate) fn kvm_is_missing() -> bool {
    let mut options = std::fs::File::options();
    let Err(error) = options.read(true).write(true).open("/dev/kvm") else {
        return false;
    };
    assert!(
        std::env::var_os("NVVMM_REQUIRE_KVM").is_none(),
        "/dev/kvm: {error}"
    );
    eprintln!("SKIPPED: /dev/kvm: {error}");
    true
}

struct Guest {
    vcpus: Vec<VcpuFd>,
    vm: KvmVm,
    cpu: HostCpu,
    ram: GuestRam,
}

impl Guest {
    fn new(vcpus: u8) -> Guest {
        let host = Arc::new(Host::open().unwrap());
        let ram = GuestRam::reserve(4 << 20).unwrap();
        let vm = create_vm(host).unwrap();
        let cpu = HostCpu::read(&vm).unwrap();
        vm.set_memory(Arc::clone(ram.memory()), ram.slots(), false)
            .unwrap();
        let vcpus = (0..vcpus)
            .map(|i| create_vcpu(&vm, &cpu, i, vcpus).unwrap())
            .collect();
        Guest {
            vcpus,
            vm,
            cpu,
            ram,
        }
    }

    fn fds(&self) -> Vec<&VcpuFd> {
        self.vcpus.iter().collect()
    }

    fn save(&self) -> KvmStateV1 {
        save(&self.vm, &self.cpu, &self.fds(), self.ram.memory()).unwrap()
    }

    fn restore(&self, state: &KvmStateV1) -> Result<()> {
        restore(&self.vm, &self.cpu, &self.fds(), state)
    }

    /// Fills every part of the state with what a fresh VM does not have.
    fn scribble(&self) {
        self.scribble_on_chips();
        for (index, fd) in self.vcpus.iter().enumerate() {
            let mut regs = fd.get_regs().unwrap();
            (regs.rax, regs.r15, regs.rip) = (0x1111_2222_3333_4444 + index as u64, 0xfeed, 0x1234);
            fd.set_regs(&regs).unwrap();
            let mut sregs = fd.get_sregs().unwrap();
            (sregs.fs.base, sregs.cr2) = (0xabcd_0000, 0x7777_0000);
            fd.set_sregs(&sregs).unwrap();
            self.scribble_on_extended_state(fd);
            let mut debug = fd.get_debug_regs().unwrap();
            (debug.db[0], debug.dr7) = (0x5000, 0x401);
            fd.set_debug_regs(&debug).unwrap();
            set_apic(fd, SPURIOUS_VECTOR, 0x1ff);
            set_apic(fd, TASK_PRIORITY, 0x20);
            // STAR, LSTAR, a KVM clock page in guest memory, and what KVM keeps without listing it:
            // a variable and a fixed memory type, the default one, control and status
            // of a machine check bank.
            let values = [
                (0xc000_0081, 0x23_0010_0000_0000),
                (0xc000_0082, 0xffff_8000_0000_1000),
                (0x4b56_4d01, 0x2001),
                (0x200, 0xfee0_0000),
                (0x250, 0x0606_0606_0606_0606),
                (MSR_MTRR_DEF_TYPE, 0xc06),
                (0x404, u64::MAX),
                (0x405, 0x1234),
            ];
            let values = values.map(|(index, value)| MsrV1 { index, value });
            msrs::write(fd, index, &values).unwrap();
            let mut events = fd.get_vcpu_events().unwrap();
            events.flags |= KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
            (events.nmi.pending, events.nmi.masked) = (1, 1);
            (events.exception.injected, events.exception.nr) = (1, 13);
            (events.exception.has_error_code, events.exception.error_code) = (1, 0x10);
            events.interrupt.shadow = 1;
            fd.set_vcpu_events(&events).unwrap();
        }
        let halted = kvm_mp_state {
            mp_state: KVM_MP_STATE_HALTED,
        };
        self.vcpus[0].set_mp_state(halted).unwrap();
    }

    fn scribble_on_chips(&self) {
        /// Mask of a PIC, and the first redirection of the IOAPIC, in `struct kvm_irqchip`.
        const PIC_MASK: usize = 8 + 2;
        const IOAPIC_REDIRECTION: usize = 8 + 24;
        for (chip_id, at, value) in [
            (KVM_IRQCHIP_PIC_MASTER, PIC_MASK, 0xa5),
            (KVM_IRQCHIP_PIC_SLAVE, PIC_MASK, 0x5a),
            (KVM_IRQCHIP_IOAPIC, IOAPIC_REDIRECTION, 0x44),
        ] {
            let mut chip = kvm_irqchip {
                chip_id,
                ..Default::default()
            };
            self.vm.fd().get_irqchip(&mut chip).unwrap();
            chip.as_mut_bytes()[at] = value;
            self.vm.fd().set_irqchip(&chip).unwrap();
        }
        let mut pit = self.vm.fd().get_pit2().unwrap();
        (pit.channels[2].count, pit.channels[2].mode) = (0x1234, 3);
        self.vm.fd().set_pit2(&pit).unwrap();
    }

    fn scribble_on_extended_state(&self, fd: &VcpuFd) {
        if self.has_xsave() {
            let mut xcrs = fd.get_xcrs().unwrap();
            xcrs.xcrs[0].value = 3;
            fd.set_xcrs(&xcrs).unwrap();
        }
        let size_bytes = self.cpu.xsave_bytes();
        let mut xsave = sys::kvm::get_xsave(fd, size_bytes).unwrap();
        xsave[160..164].copy_from_slice(&0xdead_beefu32.to_le_bytes()); // low word of XMM0
        xsave[512] |= 3; // XSTATE_BV: x87 and SSE are in use
        sys::kvm::set_xsave(fd, &xsave, size_bytes).unwrap();
    }

    /// The guest is told of XSAVE, else it cannot have an XCR0 of its own.
    fn has_xsave(&self) -> bool {
        let cpuid = self.vcpus[0].get_cpuid2(KVM_MAX_CPUID_ENTRIES).unwrap();
        cpuid
            .as_slice()
            .iter()
            .any(|entry| entry.function == 1 && entry.ecx & 1 << 26 != 0)
    }
}

fn bytes(state: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_allocvec(state).unwrap()
}

/// The state without what goes on by itself, time, as named parts.
fn timeless(state: &KvmStateV1) -> Vec<(String, Vec<u8>)> {
    /// MSRs of Hyper-V's that count time: run time of a vCPU, reference counter.
    const COUNT_TIME: [u32; 2] = [0x4000_0010, 0x4000_0020];
    let mut state = state.clone();
    state.vm.clock = ClockStateV1 {
        clock_ns: 0,
        realtime_ns: None,
        host_tsc: None,
    };
    state
        .vm
        .pit
        .channels
        .iter_mut()
        .for_each(|channel| channel.count_load_time = 0);
    for vcpu in &mut state.vcpus {
        (vcpu.tsc.value, vcpu.tsc.offset) = (0, None);
        vcpu.msrs.retain(|msr| !COUNT_TIME.contains(&msr.index));
    }
    let vm = &state.vm;
    let chips = [
        ("pics", bytes(&(&vm.pic_master, &vm.pic_slave))),
        ("ioapic", bytes(&vm.ioapic)),
        ("pit", bytes(&vm.pit)),
    ];
    let mut parts: Vec<_> = chips
        .into_iter()
        .map(|(name, part)| (name.to_string(), part))
        .collect();
    for (index, vcpu) in state.vcpus.iter().enumerate() {
        let of_vcpu = [
            ("cpuid", bytes(&vcpu.cpuid)),
            ("mp_state", bytes(&vcpu.mp_state)),
            ("regs", bytes(&vcpu.regs)),
            ("sregs", bytes(&vcpu.sregs)),
            ("xsave", vcpu.xsave.clone()),
            ("xcrs", bytes(&vcpu.xcrs)),
            ("debug_regs", bytes(&vcpu.debug_regs)),
            ("lapic", bytes(&vcpu.lapic)),
            ("events", bytes(&vcpu.events)),
        ];
        parts.extend(of_vcpu.map(|(name, part)| (format!("{name} of vCPU {index}"), part)));
        let msrs = vcpu.msrs.iter();
        parts.extend(msrs.map(|m| {
            (
                format!("MSR {:#x} of vCPU {index}", m.index),
                m.value.to_le_bytes().to_vec(),
            )
        }));
    }
    parts
}

/// Names of the parts in which two states differ, time aside.
fn differences(one: &KvmStateV1, other: &KvmStateV1) -> Vec<String> {
    let (one, other) = (timeless(one), timeless(other));
    assert_eq!(one.len(), other.len(), "other parts");
    let pairs = one
        .into_iter()
        .zip(other)
        .filter(|(one, other)| one != other);
    pairs.map(|(one, _)| one.0).collect()
}

#[test]
fn what_is_saved_comes_back_the_same_in_another_vm() {
    if kvm_is_missing() {
        return;
    }
    let old = Guest::new(2);
    old.scribble();
    let state = old.save();
    assert_eq!(
        state.vcpus[1].mp_state.mp_state, KVM_MP_STATE_UNINITIALIZED,
        "waits for its start-up IPI"
    );
    assert!(state.vcpus[0].xsave[160..164] == 0xdead_beefu32.to_le_bytes());
    assert!(state.vcpus[0].msrs.contains(&MsrV1 {
        index: 0xc000_0082,
        value: 0xffff_8000_0000_1000
    }));
    let new = Guest::new(2);
    // A part that a fresh VM has as well would prove nothing.
    let other = differences(&new.save(), &state);
    let same = timeless(&state)
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| {
            !other.contains(name) && !name.starts_with("MSR") && !name.starts_with("cpuid")
        })
        .filter(|name| !name.starts_with("xcrs") || old.has_xsave());
    assert_eq!(same.collect::<Vec<_>>(), ["mp_state of vCPU 1"]);
    for index in [
        0xc000_0081u32,
        0x200,
        0x250,
        MSR_MTRR_DEF_TYPE,
        0x404,
        0x405,
    ] {
        let name = format!("MSR {index:#x} of vCPU 1");
        assert!(other.contains(&name), "{name} is not in the state");
    }
    new.restore(&state).unwrap();
    let again = new.save();
    assert_eq!(differences(&again, &state), [""; 0]);
    assert!(
        again.vm.clock.clock_ns >= state.vm.clock.clock_ns,
        "the clock goes on"
    );
}

#[test]
fn the_saved_form_decodes_to_itself() {
    if kvm_is_missing() {
        return;
    }
    let guest = Guest::new(1);
    guest.scribble();
    let encoded = bytes(&guest.save());
    let (decoded, rest): (KvmStateV1, _) = postcard::take_from_bytes(&encoded).unwrap();
    assert!(rest.is_empty());
    assert_eq!(bytes(&decoded), encoded);
}

/// True when this KVM can set time-stamp counters exactly. A software KVM cannot set them at all,
/// and on a host whose own TSC is not stable KVM changes them.
fn sets_tsc(guest: &Guest) -> bool {
    let stable = guest.save().vcpus[0].tsc.offset.is_some();
    let fd = &guest.vcpus[0];
    let offset = || sys::kvm::get_tsc_offset(fd).unwrap_or(0);
    let was = offset();
    let sets = stable
        && sys::kvm::set_tsc_offset(fd, was.wrapping_sub(1 << 40)).is_ok()
        && offset() == was.wrapping_sub(1 << 40);
    if sets {
        sys::kvm::set_tsc_offset(fd, was).unwrap();
    } else {
        eprintln!("SKIPPED: this KVM does not set time-stamp counters exactly");
    }
    sets
}

#[test]
fn time_stamp_counters_go_on_and_stay_as_far_apart_as_they_were() {
    if kvm_is_missing() {
        return;
    }
    let old = Guest::new(3);
    if !sets_tsc(&old) {
        return;
    }
    let start = sys::kvm::get_tsc_offset(&old.vcpus[0]).unwrap();
    sys::kvm::set_tsc_offset(&old.vcpus[2], start).unwrap();
    sys::kvm::set_tsc_offset(&old.vcpus[1], start.wrapping_sub(5_000_000)).unwrap();
    let state = old.save();
    // The same host: undo the passing of time by pretending that the save was in the guest's far
    // future.
    let mut later = state.clone();
    for vcpu in &mut later.vcpus {
        vcpu.tsc.value += 1 << 50;
    }
    for (name, state) in [("now", &state), ("moved", &later)] {
        let new = Guest::new(3);
        new.restore(state).unwrap();
        let again = new.save();
        for (was, is) in state.vcpus.iter().zip(&again.vcpus) {
            assert!(is.tsc.value >= was.tsc.value, "{name}: a TSC went back");
            assert!(
                is.tsc.value - was.tsc.value < 1 << 40,
                "{name}: a TSC jumped"
            );
        }
        // Clock and TSC have gone on by the same time, whatever happened between setting the one
        // and the other.
        let ticks = again.vcpus[0].tsc.value - state.vcpus[0].tsc.value;
        let by_tsc_ns = ticks * 1_000_000 / u64::from(again.vcpus[0].tsc.khz.unwrap());
        let by_clock_ns = again.vm.clock.clock_ns - state.vm.clock.clock_ns;
        let apart_ns = by_tsc_ns.abs_diff(by_clock_ns);
        assert!(
            apart_ns < 1_000_000,
            "{name}: {by_tsc_ns} ns by TSC, {by_clock_ns} ns by clock"
        );
        let offset = |index: usize| again.vcpus[index].tsc.offset.unwrap();
        assert_eq!(offset(0).wrapping_sub(offset(1)), 5_000_000, "{name}");
        assert_eq!(offset(0), offset(2), "{name}");
    }
}

#[test]
fn without_offsets_no_time_stamp_counter_goes_back() {
    if kvm_is_missing() {
        return;
    }
    let old = Guest::new(2);
    if !sets_tsc(&old) {
        return;
    }
    let mut state = old.save();
    state
        .vcpus
        .iter_mut()
        .for_each(|vcpu| vcpu.tsc.offset = None);
    (state.vcpus[0].tsc.value, state.vcpus[1].tsc.value) = (1 << 50, (1 << 50) + 1000);
    let new = Guest::new(2);
    new.restore(&state).unwrap();
    let again = new.save();
    assert!(
        again
            .vcpus
            .iter()
            .all(|vcpu| vcpu.tsc.value >= (1 << 50) + 1000)
    );
}

/// Registers of the local APIC by their offset.
const TASK_PRIORITY: usize = 0x80;
const SPURIOUS_VECTOR: usize = 0xf0;

/// Register of the local APIC, as KVM_GET_LAPIC gives it.
fn set_apic(fd: &VcpuFd, register: usize, value: u32) {
    let mut lapic = fd.get_lapic().unwrap();
    for (byte, value) in lapic.regs[register..register + 4]
        .iter_mut()
        .zip(value.to_le_bytes())
    {
        *byte = value as i8;
    }
    fd.set_lapic(&lapic).unwrap();
}

#[test]
fn an_armed_timer_deadline_is_still_armed_after_a_restore() {
    if kvm_is_missing() {
        return;
    }
    const LVT_TIMER: usize = 0x320;
    let old = Guest::new(1);
    let fd = &old.vcpus[0];
    set_apic(fd, SPURIOUS_VECTOR, 0x1ff); // enabled
    set_apic(fd, LVT_TIMER, 2 << 17 | 0x40); // deadline mode, vector 0x40
    let far = msrs::read(fd, 0, &[msrs::MSR_IA32_TSC]).unwrap()[0].value + (1 << 50);
    let deadline =
        |guest: &Guest| msrs::read(&guest.vcpus[0], 0, &[MSR_IA32_TSC_DEADLINE]).unwrap();
    msrs::write(
        fd,
        0,
        &[MsrV1 {
            index: MSR_IA32_TSC_DEADLINE,
            value: far,
        }],
    )
    .unwrap();
    assert_eq!(deadline(&old)[0].value, far, "armed to begin with");
    let new = Guest::new(1);
    new.restore(&old.save()).unwrap();
    assert_eq!(deadline(&new)[0].value, far);
}

#[test]
fn an_msr_that_this_kvm_refuses_is_an_error_only_if_the_guest_used_it() {
    if kvm_is_missing() {
        return;
    }
    const UNKNOWN: u32 = 0x1234_5678;
    let fresh = Guest::new(1);
    let probe = kvm_bindings::Msrs::from_entries(&[kvm_msr_entry {
        index: UNKNOWN,
        ..Default::default()
    }])
    .unwrap();
    if fresh.vcpus[0].set_msrs(&probe) == Ok(1) {
        eprintln!("SKIPPED: this KVM takes any MSR (ignore_msrs)");
        return;
    }
    let mut state = Guest::new(1).save();
    state.vcpus[0].msrs.insert(
        0,
        MsrV1 {
            index: UNKNOWN,
            value: 0,
        },
    );
    state.vcpus[0].msrs.push(MsrV1 {
        index: 0xc000_0082,
        value: 0x5000,
    });
    let new = Guest::new(1);
    new.restore(&state).expect("zero: the guest never used it");
    let lstar = msrs::read(&new.vcpus[0], 0, &[UNKNOWN, 0xc000_0082]).unwrap();
    assert_eq!(
        lstar,
        [MsrV1 {
            index: 0xc000_0082,
            value: 0x5000
        }],
        "those after it are written"
    );
    state.vcpus[0].msrs[0].value = 7;
    let text = Guest::new(1).restore(&state).unwrap_err().to_string();
    assert!(text.contains("MSR 0x12345678 = 0x7"), "{text}");
}

#[test]
fn a_state_of_another_machine_is_refused() {
    if kvm_is_missing() {
        return;
    }
    let state = Guest::new(2).save();
    let text = Guest::new(1).restore(&state).unwrap_err().to_string();
    assert!(text.contains("1 vCPUs, the state 2"), "{text}");

    let mut alien = state.clone();
    for entry in alien.vcpus[1]
        .cpuid
        .iter_mut()
        .filter(|entry| entry.function == 7 && entry.index == 0)
    {
        entry.ecx |= 1 << 18; // a bit that no CPU has
    }
    let guest = Guest::new(2);
    let before = guest.save();
    let text = guest.restore(&alien).unwrap_err().to_string();
    assert!(text.contains("cpuid 0x7.0 ecx bit 18"), "{text}");
    let changed = differences(&guest.save(), &before);
    assert_eq!(changed, [""; 0], "refused before anything is changed");

    let mut larger = state;
    larger.vcpus[0].xsave.resize(1 << 16, 0);
    Guest::new(2).restore(&larger).expect("what is cut is zero");
    larger.vcpus[0].xsave.push(1);
    let text = Guest::new(2).restore(&larger).unwrap_err().to_string();
    assert!(text.contains("65537 bytes of extended CPU state"), "{text}");
}

#[path = "rewind_test.rs"]
mod rewind_test;
