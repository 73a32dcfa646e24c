use super::engine_test::Vm;
use crate::cow::{
    CowEngine,
    test_guest::{MIB, PoolFile, assert_clean, assert_hold_their_own, pool_of},
};

#[test]
fn what_is_armed_ahead_and_written_is_in_the_snapshot_without_a_copy() {
    let place = PoolFile::new("ahead");
    let pool = pool_of(&place, 128 * MIB);
    let mut vm = Vm::start(&pool, 32 * MIB, None);
    vm.fill(0..8192, 1000);
    vm.engine.arm_ahead().unwrap();
    let own = vm.engine.counters().frames_own;
    vm.fill((0..4096).step_by(5), 5000);
    vm.fill(6000..7000, 7000);
    let counters = vm.engine.counters();
    assert_eq!(
        (
            counters.frames_own,
            counters.frames_copied,
            counters.write_faults
        ),
        (own, 0, 0)
    );
    vm.snapshot("first").unwrap();
    vm.fill(0..8192, 9000);
    let copy = Vm::start(&pool, 32 * MIB, Some("first"));
    for frame in 0..8192 {
        let seed = match frame {
            frame if frame < 4096 && frame % 5 == 0 => 5000,
            6000..7000 => 7000,
            _ => 1000,
        };
        assert_eq!(copy.read(frame), seed + frame, "frame {frame}");
    }
    vm.assert_filled(0..8192, 9000);
    assert_hold_their_own(&pool, &[&vm, &copy]);
    assert_clean(&pool);
}

#[test]
fn what_is_armed_ahead_of_nothing_is_the_vms_own() {
    let place = PoolFile::new("ahead-of-nothing");
    let pool = pool_of(&place, 128 * MIB);
    let mut vm = Vm::start(&pool, 32 * MIB, None);
    vm.fill(0..8192, 1000);
    vm.snapshot("base").unwrap();
    vm.fill(0..8192, 2000);
    let before = vm.engine.counters();
    vm.engine.arm_ahead().unwrap();
    vm.engine.arm_ahead().unwrap();
    vm.fill(0..8192, 3000);
    let after = vm.engine.counters();
    assert_eq!(
        (after.frames_own, after.frames_copied),
        (before.frames_own, before.frames_copied)
    );
    vm.assert_filled(0..8192, 3000);
    assert_hold_their_own(&pool, &[&vm]);
    assert_clean(&pool);
}
