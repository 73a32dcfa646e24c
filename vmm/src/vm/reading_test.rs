use nvvmm_snapshot::{Pool, SnapshotEntry, SnapshotKind};

use super::*;

fn entry(pool: &Arc<Pool>, kind: SnapshotKind, memory_bytes: u64) -> SnapshotEntry {
    let vm = pool.hold("vm").unwrap();
    let new = nvvmm_snapshot::NewSnapshot {
        kind,
        name: "base",
        parent: None,
        base: None,
        maps: vec![nvvmm_snapshot::NewMap::memory(memory_bytes, &[])],
        state: b"",
        frames_new: 0,
    };
    vm.commit_snapshot(new, vm.reserve(0).unwrap()).unwrap();
    pool.find("base").unwrap()
}

fn small_pool(directory: &tempfile::TempDir) -> Arc<Pool> {
    let options = nvvmm_snapshot::CreateOptions {
        size_bytes: 8 << 20,
        overcommit: false,
    };
    Pool::create(&directory.path().join("pool"), &options).unwrap()
}

#[test]
fn a_process_image_is_no_vm() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let image = entry(&small_pool(&directory), SnapshotKind::Process, 4096);
    let error = check_kind(&image).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.message.contains("process image"), "{error}");
}

#[test]
fn a_snapshot_whose_memory_is_not_its_machines_is_refused() {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let pool = small_pool(&directory);
    let entry = entry(&pool, SnapshotKind::Vm, 4 << 20);
    let mut spec = VmSpec::builder("/kernel").memory_bytes(4 << 20).build();
    check_memory(&spec, &entry).unwrap();
    for memory_bytes in [2 << 20, 6 << 20] {
        spec.memory_bytes = memory_bytes;
        let error = check_memory(&spec, &entry).unwrap_err();
        assert_eq!(error.kind, ErrorKind::PoolDamaged);
        assert!(error.message.contains(&memory_bytes.to_string()), "{error}");
    }
}
