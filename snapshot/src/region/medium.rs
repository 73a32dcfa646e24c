//! The kinds of media that a pool can be on, and what follows from them.

use serde::Serialize;

use crate::number::{BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES};

/// The kind of medium under a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Medium {
    /// Memory of the host, given in 4 KiB pages (tmpfs, memfd).
    Tmpfs,
    /// Memory of the host, given in 2 MiB pages.
    Hugetlbfs,
    /// A file in persistent memory, mapped without a page cache (a file system mounted with `dax`).
    Fsdax,
    /// Persistent memory as a character device (`/dev/daxX.Y`), mapped 2 MiB at a time; it cannot
    /// be read or written otherwise.
    Devdax,
    /// A file on any other file system.
    File,
}

/// The engine that keeps a running VM from writing to the blocks of its snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// Guest RAM maps the blocks themselves; userfaultfd stops the first write to each.
    Userfaultfd,
    /// Guest RAM is memory private to the VM that shows the blocks; what the guest changed is
    /// copied to new blocks with the next snapshot.
    Private,
}

impl Medium {
    /// All there are.
    pub const ALL: [Medium; 5] = [
        Medium::Tmpfs,
        Medium::Hugetlbfs,
        Medium::Fsdax,
        Medium::Devdax,
        Medium::File,
    ];

    /// Short name.
    pub fn name(self) -> &'static str {
        match self {
            Medium::Tmpfs => "tmpfs",
            Medium::Hugetlbfs => "hugetlbfs",
            Medium::Fsdax => "fsdax",
            Medium::Devdax => "devdax",
            Medium::File => "file",
        }
    }

    /// The copy-on-write engine that VMs on this medium get.
    pub fn cow_engine(self) -> EngineKind {
        match self {
            Medium::Tmpfs | Medium::Hugetlbfs => EngineKind::Userfaultfd,
            Medium::Fsdax | Medium::Devdax | Medium::File => EngineKind::Private,
        }
    }

    /// Why VMs get that engine, as a sentence for people.
    pub fn cow_engine_reason(self) -> &'static str {
        match self {
            Medium::Tmpfs => "userfaultfd can write-protect shared memory",
            Medium::Hugetlbfs => "userfaultfd can write-protect shared huge pages, each as a whole",
            Medium::Fsdax => "userfaultfd cannot write-protect mappings of DAX files",
            Medium::Devdax => "userfaultfd cannot write-protect mappings of DAX devices",
            Medium::File => "userfaultfd cannot write-protect mappings of files on disk",
        }
    }

    /// True when the medium is memory of the host, which a restart of the host empties.
    pub fn is_host_memory(self) -> bool {
        matches!(self, Medium::Tmpfs | Medium::Hugetlbfs)
    }

    /// Bytes of a page of the medium: what can be mapped, and the least that it can take back.
    pub fn page_bytes(self) -> u64 {
        match self {
            Medium::Tmpfs | Medium::Fsdax | Medium::File => BLOCK_SIZE_BYTES,
            Medium::Hugetlbfs | Medium::Devdax => CHUNK_SIZE_BYTES,
        }
    }
}

impl std::fmt::Display for Medium {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.pad(self.name())
    }
}

impl EngineKind {
    /// Short name.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Userfaultfd => "userfaultfd",
            EngineKind::Private => "private",
        }
    }
}
