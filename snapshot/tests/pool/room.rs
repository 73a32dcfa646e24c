//! Receptions leave room for those who run in the pool.

use nvvmm_snapshot::stream::{ChunkRecord, StreamHeader};
use nvvmm_snapshot::*;

use crate::fixture::*;
use crate::streams::*;

/// A stream of so many chunks that compresses to next to nothing.
fn bomb(chunks: u64) -> Stream {
    let frames = chunks * u64::from(CHUNK_BLOCKS);
    let memory: Memory = (0..frames).map(|frame| (frame, 0x55)).collect();
    Stream {
        header: StreamHeader {
            root: Some(root_of(chunks, STATE, &memory)),
            frames_written: Some(frames),
            identity: Identity::from_bytes([7; 16]).unwrap(),
            base: None,
            parent: None,
            kind: SnapshotKind::Vm,
            name: "bomb".to_owned(),
            memory_bytes: chunks * CHUNK,
            disks: Vec::new(),
            created_unix_ns: 1,
            frames_mapped: frames,
            frames_new: frames,
            state_bytes: STATE.len() as u32,
            spec: String::new(),
        },
        state: STATE.to_vec(),
        chunks: (0..chunks as u32)
            .map(|index| ChunkRecord {
                map: 0,
                index: ChunkIndex::new(index),
                written: FrameSet::FULL,
                emptied: FrameSet::EMPTY,
                content: vec![0x55; CHUNK as usize],
            })
            .collect(),
    }
}

#[test]
fn a_bomb_leaves_running_vms_their_room() {
    let bench = pool_of(64 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    vm.alloc_blocks(3).unwrap();
    let status = pool.status().unwrap();
    let truthful = bomb(64);
    let mut lying = truthful.clone();
    lying.header.frames_written = Some(512);
    let old = truthful.as_version_1(None);
    for (stream, expected) in [
        (&truthful, "16 MiB of them reserved"),
        (&lying, "more than the 512 frames"),
        (&old, "reserved for running VMs"),
    ] {
        let bytes = stream.written();
        assert!(bytes.len() < 256 << 10, "{} bytes", bytes.len());
        let refusal = received(pool, &bytes).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{refusal}");
        let now = pool.status().unwrap();
        assert_eq!(
            (now.free_blocks, now.snapshots, now.snapshot_blocks),
            (status.free_blocks, 0, status.snapshot_blocks),
            "nothing is kept: {refusal}"
        );
        assert_clean(pool);
    }
    // All is there for the VM.
    vm.alloc_blocks(status.free_blocks as u32).unwrap();
}

#[test]
fn while_a_bomb_lands_a_vm_has_its_reserve() {
    let bench = pool_of(64 << 20);
    let pool = &bench.pool;
    let vm = pool.hold("vm").unwrap();
    let bytes = bomb(64).as_version_1(None).written();
    let mut least = u64::MAX;
    let mut on_progress = |_: MoveProgress| {
        least = least.min(pool.status().unwrap().free_blocks);
        std::ops::ControlFlow::Continue(())
    };
    let options = ReceiveOptions::default();
    let refusal = pool.receive(&options, &mut &bytes[..], &mut on_progress);
    assert!(matches!(refusal, Err(Error::NoRoom { .. })), "{refusal:?}");
    // The reserve is a quarter of a pool this small.
    let reserve = pool.status().unwrap().total_blocks / 4;
    assert!(least >= reserve, "{least} of {reserve} blocks");
    vm.alloc_blocks(reserve as u32).unwrap();
}

#[test]
fn a_pool_that_nobody_else_uses_keeps_what_it_had_room_for() {
    let (from, to) = (pool_of(48 << 20), other_pool_of(16 << 20));
    let (from, to) = (&from.pool, &to.pool);
    let memory: Memory = (0..9 * 512)
        .map(|frame| (frame, (frame % 251) as u8 + 1))
        .collect();
    take(from, "a", SnapshotKind::Vm, 9, &memory, None);
    let (stream, _) = sent(from, "a", None);
    let free = to.status().unwrap().free_blocks;
    // What says how much it is does not begin.
    let full = received(to, &stream).unwrap_err();
    assert!(matches!(full, Error::NoRoom { .. }), "{full}");
    assert_eq!(to.status().unwrap().free_blocks, free);
    let old = Stream::read(&stream).as_version_1(None).written();
    let full = received(to, &old).unwrap_err();
    assert!(matches!(full, Error::PoolFull { .. }), "{full}");
    assert_clean(to);
    assert_eq!(to.status().unwrap().incomplete, 1);
    if to.medium() == Medium::Devdax {
        return;
    }
    let more = GrowOptions {
        size_bytes: 40 << 20,
        overcommit: false,
    };
    to.grow(&more).unwrap();
    let landed = received(to, &stream).unwrap();
    assert!(landed.resumed && landed.frames_found >= 512, "{landed:?}");
    assert_eq!(contents(to, "a"), memory);
    assert_clean(to);
}

#[test]
fn a_limit_is_kept() {
    let bench = pool_of(64 << 20);
    let pool = &bench.pool;
    let free = pool.status().unwrap().free_blocks;
    let stream = bomb(4);
    let limited = |stream: &Stream, chunks: u64| {
        let options = ReceiveOptions {
            limit_bytes: Some(chunks * CHUNK),
            ..ReceiveOptions::default()
        };
        pool.receive(&options, &mut &stream.written()[..], &mut go_on)
    };
    for stream in [&stream, &stream.as_version_1(None)] {
        let refusal = limited(stream, 3).unwrap_err();
        assert!(matches!(refusal, Error::OverLimit { .. }), "{refusal}");
        assert_eq!(pool.status().unwrap().free_blocks, free);
        assert!(pool.entries().unwrap().is_empty());
        limited(stream, 4).unwrap();
        pool.remove("bomb").unwrap();
    }
    assert_clean(pool);
}
