//! vCPUs take over a state that is not their first.

use kvm_bindings::kvm_cpuid_entry2;

use super::*;
use crate::arch::rewind::{check, fixed_part, rewind};

const LVT_TIMER: usize = 0x320;

impl Guest {
    fn check(&self, state: &KvmStateV1) -> Result<()> {
        check(&self.cpu, &self.fds(), state)
    }

    fn rewind(&self, state: &KvmStateV1) {
        self.check(state).unwrap();
        rewind(&self.vm, &self.cpu, &self.fds(), state).unwrap();
    }
}

#[test]
fn every_part_goes_back_and_forth() {
    if kvm_is_missing() {
        return;
    }
    let guest = Guest::new(2);
    let first = guest.save();
    guest.scribble();
    let second = guest.save();
    assert!(differences(&first, &second).len() > 10);
    for _ in 0..3 {
        guest.rewind(&first);
        assert_eq!(differences(&guest.save(), &first), [""; 0]);
        guest.rewind(&second);
        let again = guest.save();
        assert_eq!(differences(&again, &second), [""; 0]);
        assert!(again.vm.clock.clock_ns >= second.vm.clock.clock_ns);
        // Half a minute would be the time since then, and more.
        assert!(again.vm.clock.clock_ns < second.vm.clock.clock_ns + 30_000_000_000);
    }
}

#[test]
fn a_deadline_of_later_is_gone() {
    if kvm_is_missing() {
        return;
    }
    let guest = Guest::new(1);
    let fd = &guest.vcpus[0];
    let deadline = |fd| {
        let read = msrs::read(fd, 0, &[MSR_IA32_TSC_DEADLINE]).unwrap();
        read.first().map(|msr| msr.value)
    };
    if deadline(fd).is_none() {
        eprintln!("SKIPPED: this KVM has no deadline timer");
        return;
    }
    set_apic(fd, SPURIOUS_VECTOR, 0x1ff);
    set_apic(fd, LVT_TIMER, 0x4_0030);
    let none = guest.save();
    let set = |value| {
        let msr = MsrV1 {
            index: MSR_IA32_TSC_DEADLINE,
            value,
        };
        msrs::write(fd, 0, &[msr]).unwrap();
    };
    set(u64::MAX >> 1);
    let far = guest.save();
    for _ in 0..3 {
        guest.rewind(&none);
        assert_eq!(deadline(fd), Some(0));
        guest.rewind(&far);
        assert_eq!(deadline(fd), Some(u64::MAX >> 1));
    }
}

#[test]
fn what_vcpus_cannot_take_over_is_told_before() {
    if kvm_is_missing() {
        return;
    }
    let guest = Guest::new(2);
    guest.scribble();
    let state = guest.save();
    guest.check(&state).unwrap();
    let refused = |change: &dyn Fn(&mut KvmStateV1), what: &str| {
        let mut other = state.clone();
        change(&mut other);
        let error = guest.check(&other).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    };
    refused(&|state| _ = state.vcpus.pop(), "2 vCPUs, the state 1");
    let leaf = |state: &mut KvmStateV1, leaf| {
        let cpuid = &mut state.vcpus[1].cpuid;
        cpuid
            .iter()
            .position(|entry| entry.function == leaf)
            .unwrap()
    };
    refused(
        &|state| {
            let at = leaf(state, 1);
            state.vcpus[1].cpuid[at].eax ^= 1;
        },
        "vCPU 1: its CPUID is another one",
    );
    refused(
        &|state| {
            let msrs = &mut state.vcpus[0].msrs;
            msrs.retain(|msr| msr.index != 0xc000_0082);
        },
        "no MSR 0xc0000082",
    );
    if let Some(khz) = state.vcpus[1].tsc.khz {
        refused(
            &|state| state.vcpus[1].tsc.khz = Some(khz * 2),
            "another frequency",
        );
    }
    refused(&|state| state.vm.pic_slave.chip_id = 0, "state of number 0");
    // Nothing was changed.
    assert_eq!(differences(&guest.save(), &state), [""; 0]);
}

#[test]
fn bits_that_follow_from_registers_do_not_count() {
    let entry = |function, index, ebx, ecx, edx| kvm_cpuid_entry2 {
        function,
        index,
        ebx,
        ecx,
        edx,
        ..Default::default()
    };
    let same = |one, other| fixed_part(&one) == fixed_part(&other);
    assert!(same(entry(1, 0, 7, 1 << 27, 1 << 9), entry(1, 0, 7, 0, 0)));
    assert!(!same(entry(1, 0, 7, 0, 0), entry(1, 0, 8, 0, 0)));
    assert!(!same(entry(1, 0, 7, 1 << 26, 0), entry(1, 0, 7, 0, 0)));
    assert!(same(entry(7, 0, 1, 1 << 4, 3), entry(7, 0, 1, 0, 3)));
    assert!(same(entry(0xd, 0, 576, 0, 0), entry(0xd, 0, 832, 0, 0)));
    assert!(!same(entry(0xd, 2, 576, 0, 0), entry(0xd, 2, 832, 0, 0)));
}
