//! Files and directories of the file system, and their inode numbers.

use nvvmm_snapshot::{DISKS_MAX, SnapshotId, SnapshotKind};

/// Numbers that each snapshot has: its directory and the files in it.
const NUMBERS: u64 = 16;
const ROOT: u64 = 1;

/// A directory or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Node {
    /// The directory of all snapshots.
    Root,
    /// A snapshot's directory.
    Snapshot(SnapshotId),
    /// A file in it.
    File(SnapshotId, File),
}

/// A file of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// Memory of the guest or process.
    Memory,
    /// Decoded state.
    State,
    /// Spec of the VM.
    Spec,
    /// One of its disks, by its place.
    Disk(u8),
}

/// Number of the first disk.
const FIRST_DISK: u64 = 4;
const _: () = assert!(FIRST_DISK + DISKS_MAX as u64 <= NUMBERS);

impl File {
    /// Files of a snapshot of this kind with so many disks.
    pub fn of_kind(kind: SnapshotKind, disks: usize) -> impl Iterator<Item = File> {
        let spec = (kind == SnapshotKind::Vm).then_some(File::Spec);
        let disks = (0..disks.min(DISKS_MAX)).map(|place| File::Disk(place as u8));
        [File::Memory, File::State]
            .into_iter()
            .chain(spec)
            .chain(disks)
    }

    /// Its number in the snapshot: of a file, 1 and more.
    pub fn place(self) -> u64 {
        match self {
            File::Memory => 1,
            File::State => 2,
            File::Spec => 3,
            File::Disk(place) => FIRST_DISK + u64::from(place),
        }
    }

    fn at(place: u64) -> Option<File> {
        match place {
            1 => Some(File::Memory),
            2 => Some(File::State),
            3 => Some(File::Spec),
            _ => {
                let disk = place.checked_sub(FIRST_DISK)?;
                let is_disk = disk < DISKS_MAX as u64;
                is_disk.then_some(File::Disk(disk as u8))
            }
        }
    }

    /// Name of the file; `disks` are the names of the snapshot's.
    pub fn name(self, disks: &[String]) -> String {
        match self {
            File::Memory => "memory".to_owned(),
            File::State => "state.json".to_owned(),
            File::Spec => "spec.json".to_owned(),
            File::Disk(place) => {
                let name = disks.get(usize::from(place));
                format!("{}.img", name.map_or("", String::as_str))
            }
        }
    }
}

impl Node {
    /// Inode number. Ids are never used twice, so neither are these. None for an id that no
    /// pool gets to.
    pub fn number(self) -> Option<u64> {
        let of = |id: SnapshotId, place: u64| id.get().checked_mul(NUMBERS)?.checked_add(place);
        match self {
            Node::Root => Some(ROOT),
            Node::Snapshot(id) => of(id, 0),
            Node::File(id, file) => of(id, file.place()),
        }
    }

    /// Node with this number.
    pub fn of(number: u64) -> Option<Node> {
        if number == ROOT {
            return Some(Node::Root);
        }
        let id = SnapshotId::new(number / NUMBERS)?;
        match number % NUMBERS {
            0 => Some(Node::Snapshot(id)),
            place => File::at(place).map(|file| Node::File(id, file)),
        }
    }
}

#[cfg(test)]
#[path = "tree_test.rs"]
mod tree_test;
