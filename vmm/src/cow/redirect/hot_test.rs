use super::engine_test::Vm;
use crate::cow::{
    mount_test::Mount,
    test_guest::{MIB, PoolFile, assert_clean, assert_hold_their_own, pool_of},
    *,
};

/// True if frames are copied ahead here.
fn is_on(vm: &Vm) -> bool {
    let on = vm.engine.prediction.copies_hot();
    if !on {
        eprintln!("SKIPPED: NVVMM_TEST_WITHOUT");
    }
    on
}

/// A guest that writes every `step`th of 16 MiB's frames in each epoch: faults, frames written and
/// frames copied ahead in the `measured` last ones.
fn stable_working_set(vm: &mut Vm, step: usize, epochs: u64, measured: u64) -> (u64, u64, u64) {
    let frames = || (0..4096).step_by(step);
    let written = frames().count() as u64;
    let mut before = vm.engine.counters();
    for epoch in 0..epochs {
        if epoch == epochs - measured {
            before = vm.engine.counters();
        }
        vm.fill(frames(), epoch * 10_000);
        vm.snapshot(&format!("s{epoch}")).unwrap();
        vm.engine.copy_hot().unwrap();
        vm.assert_filled(frames(), epoch * 10_000);
    }
    let after = vm.engine.counters();
    (
        after.write_faults - before.write_faults,
        written * measured,
        after.frames_copied_hot - before.frames_copied_hot,
    )
}

#[test]
fn a_stable_working_set_takes_fewer_than_one_fault_in_fifty_writes() {
    for step in [1, 3] {
        let place = PoolFile::new("hot");
        let pool = pool_of(&place, 512 * MIB);
        let mut vm = Vm::start(&pool, 32 * MIB, None);
        if !is_on(&vm) {
            return;
        }
        vm.fill(0..8192, 500_000);
        let (faults, writes, ahead) = stable_working_set(&mut vm, step, 24, 20);
        assert!(ahead > 0);
        assert!(
            faults * 50 < writes,
            "step {step}: {faults} faults in {writes} writes"
        );
        assert_hold_their_own(&pool, &[&vm]);
        assert_clean(&pool);
    }
}

#[test]
fn a_stable_working_set_of_whole_chunks_is_copied_ahead() {
    let Some(mount) = Mount::hugetlbfs("hot", 280) else {
        return;
    };
    let place = PoolFile::on(mount.path(), "hot");
    let pool = pool_of(&place, 280 * MIB);
    let mut vm = Vm::start(&pool, 32 * MIB, None);
    if !is_on(&vm) {
        return;
    }
    let (faults, _, ahead) = stable_working_set(&mut vm, 64, 12, 8);
    let chunks = 8;
    assert!(ahead > 0);
    assert!(
        faults <= 3 * chunks,
        "{faults} faults in 8 epochs of {chunks} chunks"
    );
    assert_clean(&pool);
}

#[test]
fn a_first_fault_takes_all_of_its_chunk_along_that_is_hot() {
    let place = PoolFile::new("hot-fault");
    let pool = pool_of(&place, 256 * MIB);
    let mut vm = Vm::start(&pool, 32 * MIB, None);
    if !is_on(&vm) {
        return;
    }
    vm.fill(0..8192, 1000);
    let frames = || (0..512).step_by(64);
    for epoch in 0..3 {
        vm.snapshot(&format!("s{epoch}")).unwrap();
        vm.fill(frames(), epoch * 10_000);
    }
    vm.snapshot("last").unwrap();
    let before = vm.engine.counters();
    vm.fill(frames(), 77_000);
    let after = vm.engine.counters();
    assert_eq!(after.write_faults - before.write_faults, 1);
    vm.snapshot("again").unwrap();
    let copy = Vm::start(&pool, 32 * MIB, Some("again"));
    copy.assert_filled(frames(), 77_000);
    assert_clean(&pool);
}

#[test]
fn a_full_pool_ends_copies_ahead_and_nothing_else() {
    let place = PoolFile::new("hot-full");
    let pool = pool_of(&place, 34 * MIB);
    let mut vm = Vm::start(&pool, 16 * MIB, None);
    for epoch in 0..6 {
        vm.fill(0..1500, epoch * 10_000);
        if vm.snapshot(&format!("s{epoch}")).is_err() {
            break;
        }
        vm.engine.copy_hot().unwrap();
        if epoch > 0 {
            pool.remove(&format!("s{}", epoch - 1)).unwrap();
        }
        vm.assert_filled(0..1500, epoch * 10_000);
    }
    assert_clean(&pool);
}
