//! Files and directories of the file system, and their inode numbers.

use nvvmm_snapshot::{SnapshotId, SnapshotKind};

/// Numbers that each snapshot has: its directory and the files in it.
const NUMBERS: u64 = 4;
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
    Memory = 1,
    /// Decoded state.
    State = 2,
    /// Spec of the VM.
    Spec = 3,
}

impl File {
    const ALL: [File; 3] = [File::Memory, File::State, File::Spec];

    /// Files of a snapshot of this kind.
    pub fn of_kind(kind: SnapshotKind) -> impl Iterator<Item = File> {
        Self::ALL
            .into_iter()
            .filter(move |file| kind == SnapshotKind::Vm || *file != File::Spec)
    }

    /// Name of the file.
    pub fn name(self) -> &'static str {
        match self {
            File::Memory => "memory",
            File::State => "state.json",
            File::Spec => "spec.json",
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
            Node::File(id, file) => of(id, file as u64),
        }
    }

    /// Node with this number.
    pub fn of(number: u64) -> Option<Node> {
        if number == ROOT {
            return Some(Node::Root);
        }
        let id = SnapshotId::new(number / NUMBERS)?;
        let place = number % NUMBERS;
        match File::ALL.into_iter().find(|file| *file as u64 == place) {
            Some(file) => Some(Node::File(id, file)),
            None => Some(Node::Snapshot(id)),
        }
    }
}

#[cfg(test)]
#[path = "tree_test.rs"]
mod tree_test;
