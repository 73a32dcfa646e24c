use std::path::Path;

use nvvmm_snapshot::{CreateOptions, NewMap, NewSnapshot, Pool, SnapshotKind};

use super::*;

fn disk(path: &str, read_only: bool) -> DiskSpec {
    DiskSpec {
        source: DiskSource::File(path.into()),
        read_only,
        ..DiskSpec::default()
    }
}

fn machine() -> VmSpec {
    VmSpec::builder("/sender/kernel")
        .initramfs(Some("/sender/initrd".into()))
        .cmdline("sender")
        .disks([disk("/etc/shadow", false), disk("/b", true)])
        .build()
}

/// An entry of a snapshot, taken here or marked as foreign.
fn entry(foreign: bool) -> SnapshotEntry {
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let options = CreateOptions {
        size_bytes: 8 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    let holder = pool.hold("vm").unwrap();
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name: "base",
        parent: None,
        base: None,
        maps: vec![NewMap::memory(4096, &[])],
        state: b"",
        frames_new: 0,
    };
    if foreign {
        holder.mark_foreign();
    }
    holder
        .commit_snapshot(new, holder.reserve(0).unwrap())
        .unwrap();
    pool.find("base").unwrap()
}

fn given() -> RestoreOptions {
    RestoreOptions {
        disks: Some(vec![disk("/mine/a", false), disk("/mine/b", true)]),
        ..RestoreOptions::from("base")
    }
}

#[test]
fn the_paths_of_a_snapshot_that_was_taken_here_are_used() {
    let spec = machine_of(machine(), &entry(false), &"base".into()).unwrap();
    assert_eq!(spec, machine());
}

#[test]
fn a_foreign_snapshot_with_disks_is_refused_without_others() {
    let error = machine_of(machine(), &entry(true), &"base".into()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.message.contains("/etc/shadow, /b (read-only)"));
    let remedy = error.remedy.unwrap();
    for part in ["--disk FILE", "2 disks", "nvvmm adopt base"] {
        assert!(remedy.contains(part), "{remedy}");
    }
}

#[test]
fn nothing_of_the_sender_is_left_in_the_machine_of_a_foreign_snapshot() {
    let spec = machine_of(machine(), &entry(true), &given()).unwrap();
    let disks: Vec<&Path> = spec.disks().filter_map(DiskSpec::path).collect();
    assert_eq!(disks, [Path::new("/mine/a"), Path::new("/mine/b")]);
    assert_eq!((spec.kernel, spec.initramfs), (None, None));
    assert_eq!(spec.cmdline, "");
}

#[test]
fn a_kernel_that_is_given_is_all_that_a_reboot_loads() {
    for foreign in [false, true] {
        let restore = RestoreOptions {
            boot: Some(BootChoice {
                kernel: "/mine/kernel".into(),
                ..BootChoice::default()
            }),
            ..given()
        };
        let spec = machine_of(machine(), &entry(foreign), &restore).unwrap();
        assert_eq!(spec.kernel.as_deref(), Some(Path::new("/mine/kernel")));
        assert_eq!((spec.initramfs, spec.cmdline.as_str()), (None, ""));
    }
}

#[test]
fn another_number_of_disks_is_refused() {
    let restore = RestoreOptions {
        disks: Some(vec![disk("/mine/a", false)]),
        ..RestoreOptions::from("base")
    };
    let error = machine_of(machine(), &entry(true), &restore).unwrap_err();
    assert!(
        error
            .message
            .contains("has 2 disks, but --disk was given 1 time")
    );
}
