//! Commands for disks of the pool.

use std::path::Path;
use std::sync::Arc;

use nvvmm_snapshot::{DiskHead, Holder, NewMap, NewSnapshot, Pool, SnapshotKind};

use crate::pools::small_pool;
use crate::world::{Finished, World};

/// A world with a pool of 32 MiB, which the commands use.
pub struct DiskWorld {
    pub world: World,
    pub pool: Arc<Pool>,
}

impl DiskWorld {
    pub fn new() -> Self {
        let world = World::new();
        let pool = small_pool(&world.path("a.pool"));
        Self { world, pool }
    }

    /// Runs `nvvmm disk` to its end.
    pub fn disk(&self, arguments: &[&str]) -> Finished {
        let pool = self.world.path("a.pool");
        let option = ["--pool", pool.to_str().unwrap()];
        self.world
            .nvvmm(&[&["disk"][..], arguments, &option].concat())
    }

    /// Path of a file for a command line.
    pub fn file(&self, name: &str) -> String {
        self.world.path(name).to_str().unwrap().to_owned()
    }

    /// All bytes of a disk.
    pub fn content(&self, name: &str) -> Vec<u8> {
        let holder = self.pool.hold("reader").unwrap();
        let disk = holder.attach_disk_read_only(name).unwrap();
        let mut bytes = vec![1; disk.size_bytes() as usize];
        disk.read(0, &mut bytes).unwrap();
        bytes
    }

    /// The pool is in order, and nobody has a block of it.
    pub fn assert_in_order(&self) {
        let report = self.pool.check().unwrap();
        assert!(report.is_clean(), "{:?}", report.findings);
        assert_eq!(self.pool.status().unwrap().leased_blocks, 0);
    }
}

/// Takes a snapshot of a VM with these disks.
pub fn snapshot_with(holder: &Holder, name: &str, disks: &[&Arc<DiskHead>]) {
    let cuts = disks.iter().map(|disk| disk.cut().unwrap()).collect();
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name,
        parent: None,
        base: None,
        maps: vec![NewMap::memory(2 << 20, &[])],
        state: b"state",
        frames_new: 0,
    };
    let reservation = holder.reserve(16).unwrap();
    let done = holder.commit_with_disks(new, cuts, &[], reservation);
    holder.unpin(done.unwrap().id).unwrap();
}

#[test]
fn a_disk_is_made_listed_resized_renamed_copied_and_removed() {
    let disks = DiskWorld::new();
    assert_eq!(disks.disk(&["ls"]).done(), "no disks\n");
    assert_eq!(
        disks.disk(&["create", "data", "--size", "20G"]).done(),
        "made disk data: 20.0 GiB, 0 B of it in use\n"
    );
    disks
        .disk(&["create", "data", "--size", "1M"])
        .refused_with_remedy(4, "'data'", "nvvmm disk rm data");
    let made = disks.disk(&["create", "odd", "--size", "1536", "--json"]);
    assert_eq!(made.json()["size_bytes"], 1536);
    assert_eq!(
        disks.disk(&["resize", "data", "+4G"]).done(),
        "disk data has 24.0 GiB now\n"
    );
    let larger = disks.disk(&["resize", "odd", "1M", "--json"]).json();
    assert_eq!(larger["size_bytes"], 1 << 20);
    disks
        .disk(&["resize", "data", "1G"])
        .refused(2, "can only be made larger");
    disks
        .disk(&["rename", "odd", "data"])
        .refused_with_remedy(4, "'data'", "another name");
    assert_eq!(
        disks.disk(&["rename", "odd", "even"]).done(),
        "disk odd is even now\n"
    );
    let copied = disks.disk(&["copy", "data", "copy"]);
    assert_eq!(
        copied.done(),
        "copied disk copy: 24.0 GiB, 0 B of it in use\n"
    );
    assert_eq!(disks.disk(&["ls", "-q"]).done(), "copy\ndata\neven\n");
    let listed = disks.disk(&["ls", "--json"]).json();
    assert_eq!(listed.as_array().unwrap().len(), 3);
    assert_eq!(listed[1]["disk"], "data");
    let info = disks.disk(&["info", "even"]);
    assert!(info.done().contains("1.0 MiB"), "{}", info.stdout);
    assert_eq!(
        disks.disk(&["rm", "e*", "-n"]).done(),
        "would remove disk even\n"
    );
    let removed = disks.disk(&["rm", "date", "copy", "even"]);
    assert_eq!(removed.code, 3);
    assert!(removed.stderr.contains("'data'"), "{}", removed.stderr);
    assert_eq!(removed.stdout.lines().count(), 2, "{}", removed.stdout);
    disks.disk(&["rm", "x*"]).refused(3, "no disk matches 'x*'");
    assert_eq!(disks.disk(&["rm", "-f", "x*", "ghost"]).done(), "");
    disks
        .disk(&["info", "other"])
        .refused_with_remedy(3, "'other'", "nvvmm disk ls");
    let removed = disks.disk(&["rm", "data", "--json"]).json();
    assert_eq!(removed[0]["disk"], "data");
    disks.assert_in_order();
}

#[test]
fn a_disk_in_use_stays_as_it_is_and_its_snapshot_can_be_copied() {
    let disks = DiskWorld::new();
    disks.pool.create_disk("data", 1 << 20).unwrap();
    let holder = disks.pool.hold("web").unwrap();
    let head = holder.attach_disk("data").unwrap();
    head.write(0, &[7; 4096]).unwrap();
    for (arguments, remedy) in [
        (&["resize", "data", "2M"][..], "nvvmm shutdown"),
        (&["rename", "data", "other"], "stop that VM"),
        (&["rm", "data"], "stop that VM"),
        (&["copy", "data", "other"], "nvvmm disk copy now:data other"),
    ] {
        let refused = disks.disk(arguments);
        refused.refused_with_remedy(4, "disk 'data' is in use by 'web'", remedy);
    }
    snapshot_with(&holder, "one", &[&head]);
    head.write(0, &[8; 4096]).unwrap();
    disks.disk(&["copy", "one:data", "then"]).done();
    assert_eq!(disks.content("then")[..4096], [7; 4096]);
    assert_eq!(
        disks.disk(&["ls", "--snapshot", "one", "-q"]).done(),
        "data\n"
    );
    let listed = disks.disk(&["ls", "--snapshot", "one", "--json"]).json();
    assert_eq!(
        (&listed[0]["snapshot"], &listed[0]["used_bytes"]),
        (&"one".into(), &4096.into())
    );
    let info = disks.disk(&["info", "one:data", "--json"]).json();
    assert_eq!(info, listed[0]);
    for command in [&["copy", "one:date", "x"][..], &["info", "one:date"]] {
        disks.disk(command).refused_with_remedy(
            3,
            "snapshot 'one' has no disk 'date'",
            "nvvmm disk ls --snapshot one",
        );
    }
    disks
        .disk(&["copy", "two:data", "x"])
        .refused(3, "no snapshot 'two'");
    disks
        .disk(&["copy", "one:data", "then"])
        .refused_with_remedy(4, "'then'", "another name");
    let writer = disks.disk(&["ls", "--json"]).json();
    let writer = writer[0]["writer"].as_str().unwrap().to_owned();
    assert!(writer.starts_with("'web' (process "), "{writer}");
}

#[test]
fn names_of_disks_are_completed() {
    let disks = DiskWorld::new();
    disks.pool.create_disk("data", 1 << 20).unwrap();
    let holder = disks.pool.hold("web").unwrap();
    let head = holder.attach_disk("data").unwrap();
    snapshot_with(&holder, "one", &[&head]);
    let path = disks.file("a.pool");
    assert!(Path::new(&path).exists());
    let completed = |words: &[&str]| {
        let words = [&["--", "nvvmm", "disk"], words].concat();
        let mut command = disks.world.command(&words);
        command
            .env("NVVMM_COMPLETE", "fish")
            .env("NVVMM_POOL", &path);
        let answer = Finished::from(command.output().unwrap());
        answer.done().trim_end().replace('\n', " ")
    };
    assert_eq!(completed(&["rm", ""]), "data");
    assert_eq!(completed(&["copy", "on"]), "one:data");
    assert_eq!(completed(&["info", ""]), "one:data data");
}
