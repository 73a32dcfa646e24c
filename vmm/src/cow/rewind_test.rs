//! Rewinds in place, with both engines. The stress test has more of them.

use nvvmm_snapshot::Pool;

use super::*;
use crate::cow::{
    PrivateEngine, RedirectEngine,
    mount_test::Mount,
    test_guest::{
        FRAME, MIB, Playable, PoolFile, Vm, assert_clean, assert_hold_their_own, consuming, pool_of,
    },
};

const BYTES: u64 = 24 * MIB;
const FRAMES: u64 = BYTES / FRAME;

/// Frames that a snapshot of this number has written: dense ones, scattered ones, and one in a
/// chunk of its own. The last chunks are never touched before a later snapshot.
fn frames_of(number: u64) -> impl Iterator<Item = u64> {
    let dense = 100 * number..100 * number + 700;
    let scattered = (0..40).map(move |at| 2048 + 37 * at + number);
    dense.chain(scattered).chain([(6 + number) * 512 + 3])
}

fn assert_is<E: Playable>(vm: &Vm<E>, expected: &[u64], name: &str) {
    for (frame, value) in (0..).zip(expected) {
        assert_eq!(vm.read(frame), *value, "{name}: frame {frame}");
    }
}

/// A VM with three snapshots, and what each holds.
fn with_snapshots<E: Playable>(pool: &std::sync::Arc<Pool>) -> (Vm<E>, Vec<Vec<u64>>) {
    let mut vm = Vm::<E>::start(pool, BYTES, None);
    let mut memory = vec![0; FRAMES as usize];
    let mut snapshots = Vec::new();
    for number in 0..3 {
        for frame in frames_of(number) {
            memory[frame as usize] = 1_000_000 * (number + 1) + frame;
            vm.write(frame, memory[frame as usize]);
        }
        vm.snapshot(&format!("s{number}")).unwrap();
        snapshots.push(memory.clone());
    }
    (vm, snapshots)
}

fn goes_back_and_forth<E: Playable>(place: &PoolFile) {
    let pool = pool_of(place, 256 * MIB);
    let (mut vm, snapshots) = with_snapshots::<E>(&pool);
    let copy = Vm::<E>::start(&pool, BYTES, Some("s1"));
    for (round, to) in [2, 0, 1, 2, 2, 0, 0, 1].into_iter().enumerate() {
        // Reads, too: of memory that this snapshot has, and of memory that it has not.
        (0..FRAMES).step_by(11).for_each(|frame| _ = vm.read(frame));
        for frame in frames_of(round as u64 % 5) {
            vm.write(frame, 7);
        }
        vm.rewind(&format!("s{to}")).unwrap();
        if round % 2 == 0 {
            vm.engine.free_replaced();
        }
        assert_eq!(vm.engine.counters_now(&vm.log).unwrap().frames_own, 0);
        assert_is(&vm, &snapshots[to], &format!("round {round}, s{to}"));
    }
    // Snapshots go on from there.
    vm.write(5, 5);
    vm.snapshot("later").unwrap();
    let mut expected = snapshots[1].clone();
    expected[5] = 5;
    assert_is(&vm, &expected, "the VM");
    assert_is(&copy, &snapshots[1], "a copy");
    for (name, memory) in ["s0", "s1", "s2", "later"]
        .iter()
        .zip(snapshots.iter().chain([&expected]))
    {
        assert_is(&Vm::<E>::start(&pool, BYTES, Some(name)), memory, name);
    }
    vm.engine.free_replaced();
    assert_hold_their_own(&pool, &[&vm, &copy]);
    assert_clean(&pool);
}

fn a_restored_and_a_consumed_one_go_back<E: Playable>(place: &PoolFile) {
    let pool = pool_of(place, 256 * MIB);
    drop(with_snapshots::<E>(&pool));
    let mut restored = Vm::<E>::start(&pool, BYTES, Some("s2"));
    let expected = |vm: &Vm<E>| (0..FRAMES).map(|frame| vm.read(frame)).collect::<Vec<_>>();
    let (first, last) = {
        let s0 = Vm::<E>::start(&pool, BYTES, Some("s0"));
        (expected(&s0), expected(&restored))
    };
    for _ in 0..3 {
        frames_of(4).for_each(|frame| restored.write(frame, 9));
        restored.rewind("s2").unwrap();
        assert_is(&restored, &last, "s2");
        restored.rewind("s0").unwrap();
        assert_is(&restored, &first, "s0");
    }
    // What is untouched is as in the last snapshot, also when that has gone.
    restored.rewind("s2").unwrap();
    restored.write(0, 1);
    restored.snapshot("next").unwrap();
    pool.remove("s2").unwrap();
    let mut expected = last.clone();
    expected[0] = 1;
    assert_is(&restored, &expected, "after s2 has gone");
    drop(restored);
    let mut consumer = consuming::<E>(&pool, BYTES, "next");
    frames_of(4).for_each(|frame| consumer.write(frame, 9));
    consumer.rewind("s0").unwrap();
    assert_is(&consumer, &first, "of a consumed snapshot");
    consumer.engine.free_replaced();
    assert_hold_their_own(&pool, &[&consumer]);
    assert_clean(&pool);
}

#[test]
fn memory_is_exact_with_the_redirect_engine() {
    goes_back_and_forth::<RedirectEngine>(&PoolFile::new("rewind-redirect"));
    a_restored_and_a_consumed_one_go_back::<RedirectEngine>(&PoolFile::new("rewind-restored"));
}

#[test]
fn memory_is_exact_with_the_private_engine() {
    goes_back_and_forth::<PrivateEngine>(&PoolFile::new("rewind-private"));
    a_restored_and_a_consumed_one_go_back::<PrivateEngine>(&PoolFile::new("rewind-private-r"));
}

#[test]
fn memory_is_exact_on_huge_pages() {
    let Some(mount) = Mount::hugetlbfs("rewind-huge", 256) else {
        return;
    };
    goes_back_and_forth::<RedirectEngine>(&PoolFile::on(mount.path(), "rewind-huge"));
    a_restored_and_a_consumed_one_go_back::<RedirectEngine>(&PoolFile::on(mount.path(), "huge-r"));
}

#[test]
fn neighbours_that_one_mapping_holds_become_one() {
    let mut all = Stretches::default();
    let stretch = |bytes: Range<usize>, pool_offset| Stretch { bytes, pool_offset };
    for (bytes, at) in [
        (0..4, Some(40)),
        (4..8, Some(44)),
        (8..12, Some(40)),
        (12..16, None),
        (16..20, None),
        (24..28, None),
    ] {
        all.add(stretch(bytes, at));
    }
    let found: Vec<_> = all.iter().cloned().collect();
    assert_eq!(
        found,
        [
            stretch(0..8, Some(40)),
            stretch(8..12, Some(40)),
            stretch(12..20, None),
            stretch(24..28, None)
        ]
    );
    assert_eq!(all.ranges(true), std::slice::from_ref(&(0..12)));
    assert_eq!(all.ranges(false), [12..20, 24..28]);
}
