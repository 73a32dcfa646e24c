//! Disks of the pool behind a device.

use nvvmm_snapshot::{CreateOptions, NewMap, NewSnapshot, SnapshotKind};

use super::*;
use crate::disk::{self, DiskUser, DisksFrom, OpenDisk, OpenDisks};
use nvvmm_devices::virtio::DiskSpec;

const DISK: u64 = 4 << 20;

fn pool() -> (tempfile::TempDir, Arc<Pool>) {
    let directory = tempfile::tempdir().unwrap();
    let options = CreateOptions {
        size_bytes: 32 << 20,
        overcommit: false,
    };
    let pool = Pool::create(&directory.path().join("pool"), &options).unwrap();
    (directory, pool)
}

fn user<'a>(pool: &'a Arc<Pool>, vm: &'a str, from: DisksFrom<'a>) -> DiskUser<'a> {
    DiskUser {
        pool: Some(pool),
        vm,
        from,
    }
}

fn of_snapshot(snapshot: &str) -> DisksFrom<'_> {
    DisksFrom::Snapshot {
        snapshot,
        ephemeral: false,
    }
}

fn write(disk: &OpenDisk, offset: u64, bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 3;
    let (left, right) = bytes.split_at_mut(middle);
    let slices = [VolatileSlice::from(left), VolatileSlice::from(right)];
    disk.backend().write_at(&slices, offset).unwrap();
}

fn read(disk: &OpenDisk, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    let (left, right) = bytes.split_at_mut(len / 4);
    let slices = [VolatileSlice::from(left), VolatileSlice::from(right)];
    disk.backend().read_at(&slices, offset).unwrap();
    bytes
}

fn snapshot(pool: &Arc<Pool>, name: &str, disks: &OpenDisks) {
    let holder = pool.hold("taker").unwrap();
    let new = NewSnapshot {
        kind: SnapshotKind::Vm,
        name,
        parent: None,
        base: None,
        maps: vec![NewMap::memory(2 << 20, &[])],
        state: b"state",
        frames_new: 0,
    };
    let reservation = holder.reserve(1).unwrap();
    let cuts = disk::cut(disks.as_slice()).unwrap();
    holder
        .commit_with_disks(new, cuts, &[], reservation)
        .unwrap();
}

fn names(pool: &Pool) -> Vec<String> {
    pool.disks()
        .unwrap()
        .into_iter()
        .map(|disk| disk.name)
        .collect()
}

#[test]
fn requests_of_several_slices_are_carried_out_in_pieces() {
    let (_directory, pool) = pool();
    pool.create_disk("root", DISK).unwrap();
    let spec = [DiskSpec::of_pool("root")];
    let disks = OpenDisks::open(spec.iter(), &user(&pool, "vm", DisksFrom::Newest)).unwrap();
    let root = &disks.as_slice()[0];
    assert!(root.is_of(&spec[0]));
    let bytes: Vec<u8> = (0..3 << 20).map(|at: usize| (at / 5) as u8).collect();
    write(root, 512, &bytes);
    assert!(read(root, 512, bytes.len()) == bytes);
    root.backend().discard(4096, 1 << 20).unwrap();
    root.backend()
        .write_zeroes(2 << 20, 100 * 512, false)
        .unwrap();
    root.backend().flush().unwrap();
    assert!(read(root, 4096, 1 << 20).iter().all(|byte| *byte == 0));
    assert!(read(root, 2 << 20, 100 * 512).iter().all(|byte| *byte == 0));
    assert!(read(root, 512, 3584) == bytes[..3584]);
    assert!(!root.measure().unwrap());
    root.pool_disk().unwrap().resize(2 * DISK).unwrap();
    assert_eq!(root.backend().size_bytes(), DISK);
    assert!(root.measure().unwrap());
    assert_eq!(root.backend().size_bytes(), 2 * DISK);
}

#[test]
fn a_disk_belongs_to_one_vm_and_comes_back_with_what_was_written() {
    let (_directory, pool) = pool();
    pool.create_disk("root", DISK).unwrap();
    let spec = [DiskSpec::of_pool("root")];
    let user = user(&pool, "vm", DisksFrom::Newest);
    let disks = OpenDisks::open(spec.iter(), &user).unwrap();
    write(&disks.as_slice()[0], 0, &[1; 1024]);
    let refused = OpenDisks::open(spec.iter(), &user).err();
    assert!(
        matches!(
            &refused,
            Some(disk::DiskOpenError::Pool(Error::DiskInUse { .. }))
        ),
        "{refused:?}"
    );
    drop(disks);
    let disks = OpenDisks::open(spec.iter(), &user).unwrap();
    assert!(read(&disks.as_slice()[0], 0, 1024) == [1; 1024]);
}

#[test]
fn copies_go_on_from_the_snapshot_and_stay_if_they_were_written() {
    let (_directory, pool) = pool();
    pool.create_disk("root", DISK).unwrap();
    pool.create_disk("tools", DISK).unwrap();
    let tools = DiskSpec {
        read_only: true,
        ..DiskSpec::of_pool("tools")
    };
    let spec = [DiskSpec::of_pool("root"), tools];
    let disks = OpenDisks::open(spec.iter(), &user(&pool, "vm", DisksFrom::Newest)).unwrap();
    write(&disks.as_slice()[0], 0, &[1; 4096]);
    snapshot(&pool, "s", &disks);
    write(&disks.as_slice()[0], 0, &[2; 4096]);

    let open = |vm| OpenDisks::open(spec.iter(), &user(&pool, vm, of_snapshot("s"))).unwrap();
    let (one, two) = (open("one"), open("two"));
    assert_eq!(one.snapshot(), Some(pool.find("s").unwrap().id));
    assert_eq!(disks.snapshot(), None);
    let all = [
        "one.root",
        "one.tools",
        "root",
        "tools",
        "two.root",
        "two.tools",
    ];
    assert_eq!(names(&pool), all);
    assert!(read(&one.as_slice()[0], 0, 4096) == [1; 4096]);
    write(&one.as_slice()[0], 4096, &[3; 512]);
    let kept = |disks: &OpenDisks| disks.as_slice()[0].pool_disk().unwrap().is_kept_copy();
    assert!(kept(&one) && !kept(&two));
    drop((one, two));
    assert_eq!(names(&pool), ["one.root", "root", "tools"]);

    // The name is taken: the next one has a number. A snapshot has the disks by their first names.
    let again = open("one");
    assert_eq!(
        again.as_slice()[0].pool_disk().unwrap().pool_name(),
        "one.root-2"
    );
    write(&again.as_slice()[0], 0, &[4; 4096]);
    snapshot(&pool, "later", &again);
    disk::note_saved(again.as_slice());
    drop(again);
    assert_eq!(names(&pool), ["one.root", "root", "tools"]);
    let last = OpenDisks::open(spec.iter(), &user(&pool, "last", of_snapshot("later"))).unwrap();
    assert!(read(&last.as_slice()[0], 0, 4096) == [4; 4096]);

    // The first one goes back, with its memory.
    let id = pool.find("s").unwrap().id;
    disk::rewind(disks.as_slice(), id).unwrap();
    assert!(read(&disks.as_slice()[0], 0, 4096) == [1; 4096]);
    let refused = disk::rewind(last.as_slice(), id);
    assert!(refused.is_ok(), "{refused:?}");
}

#[test]
fn ephemeral_copies_and_those_of_a_vm_that_cannot_start_leave_nothing() {
    let (_directory, pool) = pool();
    pool.create_disk("root", DISK).unwrap();
    let spec = [DiskSpec::of_pool("root")];
    let disks = OpenDisks::open(spec.iter(), &user(&pool, "vm", DisksFrom::Newest)).unwrap();
    snapshot(&pool, "s", &disks);
    let ephemeral = DisksFrom::Snapshot {
        snapshot: "s",
        ephemeral: true,
    };
    let copy = OpenDisks::open(spec.iter(), &user(&pool, "copy", ephemeral)).unwrap();
    write(&copy.as_slice()[0], 0, &[9; 4096]);
    drop(copy);
    assert_eq!(names(&pool), ["root"]);

    let with_another = [DiskSpec::of_pool("root"), DiskSpec::of_pool("data")];
    let user = user(&pool, "copy", of_snapshot("s"));
    let refused = OpenDisks::open(with_another.iter(), &user).err();
    assert!(
        matches!(
            &refused,
            Some(disk::DiskOpenError::Pool(Error::NoDisk { .. }))
        ),
        "{refused:?}"
    );
    assert_eq!(names(&pool), ["root"]);
}
