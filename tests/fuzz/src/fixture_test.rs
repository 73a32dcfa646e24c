//! The pools that the targets use take what an ordinary pool takes: a target whose pool refuses
//! everything would find nothing.

use std::ops::ControlFlow;

use nvvmm_snapshot::{NewMap, NewSnapshot, Pool, ReceiveOptions, SendOptions, SnapshotKind};

use crate::pool::image::{Image, MEMORY_BYTES};

#[test]
fn a_changed_pool_takes_commits_disks_and_streams() {
    for image in [Image::example(false), Image::example_with_disks(true)] {
        let (_file, path) = image.file();
        let pool = Pool::open(&path).expect("the example opens");
        let vm = pool.hold("vm").expect("a holder");
        pool.create_disk("new", 1 << 20).expect("a disk");
        let head = vm.attach_disk("new").expect("a head");
        head.write(0, b"content").expect("a write");
        let new = NewSnapshot {
            kind: SnapshotKind::Vm,
            name: "taken",
            parent: None,
            base: None,
            maps: vec![NewMap::memory(MEMORY_BYTES, &[])],
            state: b"state",
            frames_new: 0,
        };
        let reservation = vm.reserve(1).expect("room for a commit");
        let cuts = vec![head.cut().expect("a cut")];
        vm.commit_with_disks(new, cuts, &[], reservation)
            .expect("a commit");
        let mut stream = Vec::new();
        let mut go_on = |_| ControlFlow::Continue(());
        pool.send("taken", &SendOptions::default(), &mut stream, &mut go_on)
            .expect("a stream");
        let options = ReceiveOptions {
            name: Some("arrived"),
            ..ReceiveOptions::default()
        };
        pool.receive(&options, &mut &stream[..], &mut |_| {
            ControlFlow::Continue(())
        })
        .expect("a stream is received");
        assert!(pool.find("arrived").is_ok_and(|entry| !entry.incomplete));
    }
}
