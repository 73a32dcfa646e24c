//! A guest that looks at its identity finds another one in each copy and after each rewind.

use std::collections::HashSet;

use super::*;
use crate::arch::boot::layout::IDENTITY;

/// Port of the event register.
const EVENTS_PORT: u64 = 0x603;

/// A guest that counts, and has an identity.
fn bench() -> Bench {
    let bench = Bench::new(&COUNT, 1);
    let kernel = bench.spec.kernel.clone().unwrap();
    fs::write(kernel, program(&COUNT, 1)).unwrap();
    bench
}

impl Rig {
    /// Generation identifier; disruption marker and generation counter of the VMClock page.
    fn identity(&self) -> ([u8; 16], u64, u64) {
        let memory = self.ram.memory();
        let number = |at| memory.read_obj(GuestAddress(IDENTITY.clock_page + at));
        let id = memory.read_obj(GuestAddress(IDENTITY.generation_id));
        (id.unwrap(), number(16).unwrap(), number(104).unwrap())
    }

    /// Events that the guest has not read yet. It has read them then.
    fn unread_events(&self) -> u8 {
        let mut event = [0];
        self.machine.shared.ports.read(EVENTS_PORT, &mut event);
        event[0]
    }
}

#[test]
fn a_copy_has_another_identity_and_is_told_but_a_snapshot_changes_nothing() {
    if kvm_is_missing() {
        return;
    }
    let bench = bench();
    let first = bench.boot();
    let own = first.identity();
    assert_ne!(own.0, [0; 16]);
    let state = first.save();
    assert_eq!(first.identity(), own);
    let kinds = { state.devices.iter() }.map(|device| device.kind.as_str());
    assert_eq!(kinds.filter(|kind| *kind == "identity").count(), 1);
    assert_eq!(first.unread_events(), 0);
    let mut seen = HashSet::from([own]);
    let mut rig = first;
    for _ in 0..3 {
        rig = bench.carry_over(rig);
        assert!(seen.insert(rig.identity()), "an identity came again");
        rig.progress(0, 10);
        assert_eq!(rig.unread_events(), 2, "it is told");
        assert_eq!(rig.unread_events(), 0, "once");
    }
}

#[test]
fn each_rewind_to_one_moment_gives_another_identity() {
    if kvm_is_missing() {
        return;
    }
    let rig = bench().boot();
    rig.progress(0, 10);
    let then = rig.moment();
    let mut seen = HashSet::from([rig.identity()]);
    for _ in 0..3 {
        rig.go_back(&then);
        assert!(seen.insert(rig.identity()), "an identity came again");
        rig.go_on();
        rig.progress(0, 10);
        assert_eq!(rig.unread_events(), 2);
        rig.stand_still();
    }
}

#[test]
fn a_guest_without_a_place_for_an_identity_is_left_alone() {
    if kvm_is_missing() {
        return;
    }
    let bench = Bench::new(&COUNT, 1);
    let rig = bench.carry_over(bench.boot());
    assert_eq!(rig.identity(), ([0; 16], 0, 0));
    assert_eq!(rig.unread_events(), 0);
    let state = rig.save();
    assert!(state.devices.iter().all(|device| device.kind != "identity"));

    let with = self::bench();
    let mut doubled = with.boot().save();
    let identity = { doubled.devices.iter() }.find(|device| device.kind == "identity");
    doubled.devices.extend(identity.cloned());
    let refused = with.build().machine.restore(&doubled).unwrap_err();
    assert!(refused.to_string().contains("identity0"), "{refused}");
}
