//! The medium that tests make their pools on.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Ways to keep VMs from writing to the blocks of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Guest RAM maps the blocks. A write to a block of a snapshot goes to a fresh block, and waits
    /// while the pool has none.
    Redirect,
    /// Guest RAM is private memory of the VM. A snapshot copies the written frames to fresh blocks.
    Private,
}

/// A medium that `scripts/on-medium.sh` prepared, or /dev/shm.
#[derive(Debug, Clone)]
pub struct Medium {
    name: String,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Directory(PathBuf),
    /// A device, which holds one pool at a time.
    Device(PathBuf),
}

impl Medium {
    /// The last medium in `NVVMM_TEST_PLACES`; /dev/shm if the variable is not set.
    pub fn chosen() -> Self {
        Self::all().pop().expect("there is always one")
    }

    /// All media in `NVVMM_TEST_PLACES`, which scripts/on-medium.sh sets; /dev/shm if it is not
    /// set. An entry is `MEDIUM=DIRECTORY` or `MEDIUM=DEVICE`; spaces stand between entries.
    pub fn all() -> Vec<Self> {
        let places =
            std::env::var("NVVMM_TEST_PLACES").unwrap_or_else(|_| "tmpfs=/dev/shm".to_owned());
        let media = places.split_whitespace().map(|place| {
            let (name, path) = place
                .split_once('=')
                .unwrap_or_else(|| panic!("NVVMM_TEST_PLACES has no = in {place}"));
            let place = if path.starts_with("/dev/dax") {
                Place::Device(path.into())
            } else {
                Place::Directory(path.into())
            };
            Self {
                name: name.to_owned(),
                place,
            }
        });
        media.collect()
    }

    /// Name of the medium in scripts/on-medium.sh.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True for persistent memory. Tests have it on an emulated host only, where everything is
    /// slow.
    pub fn is_persistent_memory(&self) -> bool {
        self.is_device() || self.name.starts_with("fsdax")
    }

    /// True if the pool is a device. There is one device, and it has a fixed size.
    pub fn is_device(&self) -> bool {
        matches!(self.place, Place::Device(_))
    }

    /// True if write(2) can write to a pool. Tests that damage a pool use it.
    pub fn takes_writes(&self) -> bool {
        !self.is_device() && self.name != "hugetlbfs"
    }

    /// True if the medium's pages are chunks: a chunk is then mapped, armed and copied as a whole.
    pub fn maps_whole_chunks(&self) -> bool {
        self.name == "hugetlbfs"
    }

    /// Size in bytes of the units in which the medium gives space and takes it back.
    pub fn granule_bytes(&self) -> u64 {
        match self.name.as_str() {
            "hugetlbfs" | "tmpfs-huge" => 2 << 20,
            _ => 4096,
        }
    }

    /// Path for a new pool that no other test uses.
    pub(crate) fn pool_path(&self) -> PathBuf {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.lasting_path(&format!("nvvmm-test-{}-{number}", std::process::id()))
    }

    /// Path of the pool with this name.
    pub(crate) fn lasting_path(&self, name: &str) -> PathBuf {
        match &self.place {
            Place::Device(device) => device.clone(),
            Place::Directory(directory) => directory.join(format!("{name}.pool")),
        }
    }

    /// Path of a file beside the pools, for other data on the medium. None on a device.
    pub fn file_beside_pools(&self, name: &str) -> Option<PathBuf> {
        match &self.place {
            Place::Device(_) => None,
            Place::Directory(directory) => Some(directory.join(name)),
        }
    }

    /// Bytes of the medium that a pool uses, as the file system counts them. None if the medium
    /// reserves the whole pool from the start.
    pub(crate) fn taken_bytes(&self, pool: &Path) -> Option<u64> {
        self.name
            .starts_with("tmpfs")
            .then(|| std::fs::metadata(pool).expect("the pool exists").blocks() * 512)
    }
}
