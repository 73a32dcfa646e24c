//! Frames that the guest keeps ready, out of the page tables.

use nvvmm_protocol::Frames;

use super::{test_images::*, *};
use crate::cow::{
    CowEngine, RedirectEngine,
    test_guest::{FRAME, Vm, assert_clean, assert_hold_their_own},
};

/// Frames of the VM that this process has in its page tables.
fn in_page_tables(vm: &Vm<RedirectEngine>) -> usize {
    use std::os::unix::fs::FileExt;
    let pagemap = std::fs::File::open("/proc/self/pagemap").unwrap();
    let mut entries = vec![0; FRAMES as usize * 8];
    let first = vm.engine.ram().reservation().start() as u64 / FRAME;
    pagemap.read_exact_at(&mut entries, first * 8).unwrap();
    let entries = entries.as_chunks().0.iter();
    entries
        .filter(|entry| u64::from_le_bytes(**entry) >> 63 == 1)
        .count()
}

#[test]
fn frames_that_are_not_used_leave_the_page_tables_and_nothing_else() {
    let (_place, pool, mut vm) = redirected("process-idle");
    vm.fill(0..FRAMES, 1000);
    let frames = |gfn, count| Frames { gfn, count };
    assert_eq!(in_page_tables(&vm) as u64, FRAMES);
    set_idle(&[frames(5, 600), frames(FRAMES - 1, 1)], &*vm.engine).unwrap();
    assert_eq!(in_page_tables(&vm) as u64, FRAMES - 601);
    vm.assert_filled(0..FRAMES, 1000);
    // What a snapshot has is armed, and stays so.
    vm.snapshot("all").unwrap();
    set_idle(&[frames(0, FRAMES as u32)], &*vm.engine).unwrap();
    vm.fill(0..FRAMES / 2, 5000);
    set_idle(&[frames(0, FRAMES as u32)], &*vm.engine).unwrap();
    vm.assert_filled(0..FRAMES / 2, 5000);
    vm.assert_filled(FRAMES / 2..FRAMES, 1000);
    let other = Vm::<RedirectEngine>::start(&pool, SIZE, Some("all"));
    other.write(3, 7);
    set_idle(&[frames(0, FRAMES as u32)], &*other.engine).unwrap();
    assert_eq!(other.read(3), 7);
    other.assert_filled(4..FRAMES, 1000);
    for lie in [frames(FRAMES, 1), frames(u64::MAX, 1), frames(0, u32::MAX)] {
        assert!(matches!(
            set_idle(&[lie], &*vm.engine),
            Err(ProcessError::Invalid(_))
        ));
    }
    assert_hold_their_own(&pool, &[&vm, &other]);
    assert_clean(&pool);
}
