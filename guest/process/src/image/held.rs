//! Files whose content is in an image, since version 4.

use serde::{Deserialize, Serialize};

use super::PageRun;
use crate::error::Pid;

/// A file that only processes of the image have, and that nobody else can open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldFile {
    /// Its kind.
    pub kind: HeldKind,
    /// Its length.
    pub size_bytes: u64,
    /// Its permissions.
    pub mode: u32,
    /// Its user and group.
    pub owner: (u32, u32),
    /// Its content: the address of a page is its place in the file. The rest is zero.
    pub pages: Vec<PageRun>,
}

/// Further state of a segment of System V shared memory, since version 5. Its permissions and owner
/// are those of its [`HeldFile`]; in an older image they are wider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentMark {
    /// Index in the image's held files.
    pub held: u32,
    /// The process that made it.
    pub creator: Pid,
    /// Time of its making, or of the last change of its owner or permissions, in seconds.
    pub changed_s: i64,
    /// SHM_LOCK.
    pub locked: bool,
}

/// The kind of a file whose content is in an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeldKind {
    /// Memory without a name that processes share (MAP_SHARED with MAP_ANONYMOUS).
    #[default]
    Anonymous,
    /// memfd_create(2).
    Memory {
        /// Its name.
        name: Vec<u8>,
        /// Its seals (F_ADD_SEALS).
        seals: u32,
    },
    /// System V shared memory.
    Segment {
        /// Its number.
        id: i32,
        /// Its key.
        key: i32,
        /// True if it goes away with its last user (IPC_RMID).
        removed: bool,
    },
    /// A file that was deleted or replaced.
    Deleted {
        /// The directory in which it was.
        directory: Vec<u8>,
    },
}
