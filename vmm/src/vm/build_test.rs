use nvvmm_snapshot::{Pool, SnapshotEntry};

use super::*;

fn entry(pool: &Arc<Pool>, memory_bytes: u64) -> SnapshotEntry {
    let vm = pool.hold("vm").unwrap();
    let new = nvvmm_snapshot::NewSnapshot {
        name: "base",
        parent: None,
        memory_bytes,
        base: None,
        changes: &[],
        state: b"",
        frames_new: 0,
    };
    vm.commit_snapshot(new, vm.reserve(0).unwrap()).unwrap();
    pool.find("base").unwrap()
}

#[test]
fn a_snapshot_whose_memory_is_not_its_machines_is_refused() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = nvvmm_snapshot::CreateOptions {
        size_bytes: 8 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    let entry = entry(&pool, 4 << 20);
    let mut spec = VmSpec {
        kernel: "/kernel".into(),
        initramfs: None,
        cmdline: String::new(),
        vcpus: 1,
        memory_bytes: 4 << 20,
        disks: Vec::new(),
        vsock: false,
    };
    check_memory(&spec, &entry).unwrap();
    for memory_bytes in [2 << 20, 6 << 20] {
        spec.memory_bytes = memory_bytes;
        let error = check_memory(&spec, &entry).unwrap_err();
        assert_eq!(error.kind, ErrorKind::PoolDamaged);
        assert!(error.message.contains(&memory_bytes.to_string()), "{error}");
    }
}
