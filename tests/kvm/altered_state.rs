//! A snapshot is refused if its machine state is not one that this program and this host can
//! restore. The message names the reason. The memory of such a snapshot is sound, so no other check
//! finds it.

use nvvmm::{arch::MsrV1, checkpoint::blob::SavedVm, machine::MachineStateV1};
use nvvmm_snapshot::{NewMap, NewSnapshot, Pool, SnapshotKind};
use nvvmm_tests::Host;

/// Commits the snapshot `name`: the memory of the snapshot `s`, and its state as changed by
/// `alter`.
fn commit_altered(host: &Host, name: &str, alter: impl FnOnce(Vec<u8>) -> Vec<u8>) {
    let pool = Pool::open(host.pool()).unwrap();
    let holder = pool.hold("forger").unwrap();
    let (entry, _) = holder.pin("s").unwrap();
    let state = alter(pool.read_state(entry.id).unwrap());
    let reservation = holder.reserve(16).unwrap();
    let snapshot = NewSnapshot {
        kind: SnapshotKind::Vm,
        name,
        parent: Some(entry.id),
        base: Some(entry.id),
        maps: vec![NewMap::memory(entry.memory_bytes, &[])],
        state: &state,
        frames_new: 0,
    };
    holder.commit_snapshot(snapshot, reservation).unwrap();
}

fn with_machine(alter: impl FnOnce(&mut MachineStateV1)) -> impl FnOnce(Vec<u8>) -> Vec<u8> {
    |state| {
        let mut saved = SavedVm::decode(&state).unwrap();
        alter(&mut saved.machine);
        saved.encode().unwrap()
    }
}

fn host_with_snapshot() -> Host {
    let host = Host::new(64);
    let vm = host.boot_bare_metal(16, 1);
    vm.snapshot("s");
    vm.stop();
    host
}

#[test]
fn a_cpu_that_this_host_does_not_have() {
    let host = host_with_snapshot();
    // No CPU so far gives bit 18 of this word a meaning.
    commit_altered(
        &host,
        "newer-cpu",
        with_machine(|machine| {
            let cpuid = &mut machine.kvm.vcpus[0].cpuid;
            let features = cpuid
                .iter_mut()
                .find(|leaf| (leaf.function, leaf.index) == (7, 0));
            features.expect("CPUID has leaf 7").ecx |= 1 << 18;
        }),
    );
    commit_altered(
        &host,
        "other-vendor",
        with_machine(|machine| {
            let cpuid = &mut machine.kvm.vcpus[0].cpuid;
            let vendor = cpuid.iter_mut().find(|leaf| leaf.function == 0).unwrap();
            vendor.ebx = u32::from_le_bytes(*b"Else");
        }),
    );
    commit_altered(&host, "same", |state| state);
    for (snapshot, named) in [("newer-cpu", "ecx bit 18"), ("other-vendor", "Else")] {
        let refused = host
            .run(&["restore", snapshot, "--detach"])
            .refused(7, named);
        assert!(refused.stderr.contains("try:"), "{}", refused.stderr);
    }
    host.restore("same", &[]).stop();
    host.assert_pool_clean();
}

#[test]
fn a_state_that_this_program_cannot_read() {
    let host = host_with_snapshot();
    commit_altered(&host, "truncated", |state| {
        state[..state.len() / 2].to_vec()
    });
    commit_altered(&host, "empty", |_| Vec::new());
    commit_altered(&host, "future", |mut state| {
        state[8] = 99;
        state
    });
    commit_altered(&host, "flipped", |mut state| {
        let last = state.len() - 1;
        state[last] ^= 1;
        state
    });
    // The checksums are right: the device itself refuses the state.
    commit_altered(
        &host,
        "future-device",
        with_machine(|machine| machine.devices[0].version = 99),
    );
    commit_altered(
        &host,
        "more-devices",
        with_machine(|machine| {
            let mut extra = machine.devices[0].clone();
            extra.instance = "com9".to_owned();
            machine.devices.push(extra);
        }),
    );
    for (snapshot, code, named) in [
        ("truncated", 6, "B and should have"),
        ("empty", 6, "not the state of an nvvmm machine"),
        ("future", 6, "format version 99"),
        ("flipped", 6, "checksum"),
        ("future-device", 6, "version 99"),
        ("more-devices", 4, "does not have"),
    ] {
        host.run(&["restore", snapshot, "--detach"])
            .refused(code, named);
    }
    host.assert_pool_clean();
}

/// EFER, which KVM takes from its owner, and which is in the system registers of a saved state.
const NOT_SAVED: u32 = 0xc000_0080;

#[test]
fn an_msr_that_is_not_saved_does_not_reach_kvm() {
    let host = host_with_snapshot();
    for (name, value) in [("used", 0xd01), ("unused", 0)] {
        let added = with_machine(|machine| {
            let index = NOT_SAVED;
            machine.kvm.vcpus[0].msrs.push(MsrV1 { index, value });
        });
        commit_altered(&host, name, added);
    }
    host.run(&["restore", "used", "--detach"])
        .refused(7, "sets MSR 0xc0000080 = 0xd01");
    // A KVM that lists it, and a guest that never used it.
    host.restore("unused", &[]).stop();
    host.assert_pool_clean();
}

#[test]
fn counts_and_numbers_that_cannot_be_do_not_reach_kvm() {
    let host = host_with_snapshot();
    type Change = fn(&mut MachineStateV1);
    let changes: [(&str, Change, &str); 3] = [
        (
            "chip",
            |machine| machine.kvm.vm.pic_slave.chip_id = 2,
            "has the state of number 2",
        ),
        (
            "vcpus",
            |machine| {
                let more = machine.kvm.vcpus[0].clone();
                machine.kvm.vcpus.push(more);
            },
            "the state 2",
        ),
        (
            "cpuid",
            |machine| {
                let cpuid = &mut machine.kvm.vcpus[0].cpuid;
                cpuid.resize(300, cpuid[0]);
            },
            "too many CPUID entries",
        ),
    ];
    for (name, change, named) in changes {
        commit_altered(&host, name, with_machine(change));
        let refused = host.run(&["restore", name, "--detach"]);
        refused.refused(1, named);
    }
    host.assert_pool_clean();
}
