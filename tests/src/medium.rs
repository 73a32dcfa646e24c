//! The medium that tests make their pools on.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// How VMs are kept from writing to a snapshot's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// Guest RAM maps blocks. A write to one that a snapshot has takes a fresh one, and waits when
    /// there is none.
    Redirect,
    /// Guest RAM is memory of the VM's own. A snapshot copies what was written to fresh blocks.
    Private,
}

/// What `scripts/on-medium.sh` prepared, or shared memory.
#[derive(Debug, Clone)]
pub struct Medium {
    name: String,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    Directory(PathBuf),
    /// A device holds one pool at a time.
    Device(PathBuf),
}

impl Medium {
    /// The last one that `NVVMM_TEST_PLACES` names; without it /dev/shm.
    pub fn chosen() -> Self {
        Self::all().pop().expect("there is always one")
    }

    /// All media of `NVVMM_TEST_PLACES` (`MEDIUM=DIRECTORY` or `MEDIUM=DEVICE`, with spaces), which
    /// scripts/on-medium.sh sets; without it /dev/shm.
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

    /// The name it has in scripts/on-medium.sh.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is persistent memory, which tests have on an emulated host only, where all takes
    /// its time.
    pub fn is_persistent_memory(&self) -> bool {
        self.is_device() || self.name.starts_with("fsdax")
    }

    /// Whether a pool is a device, which there is one of and which has its own size.
    pub fn is_device(&self) -> bool {
        matches!(self.place, Place::Device(_))
    }

    /// Whether a pool can be written to with write(2), as tests do that damage one.
    pub fn takes_writes(&self) -> bool {
        !self.is_device() && self.name != "hugetlbfs"
    }

    /// Whether its pages are chunks, so that a chunk is mapped, armed and copied as a whole.
    pub fn maps_whole_chunks(&self) -> bool {
        self.name == "hugetlbfs"
    }

    /// Bytes that the medium gives and takes back as a whole.
    pub fn granule_bytes(&self) -> u64 {
        match self.name.as_str() {
            "hugetlbfs" | "tmpfs-huge" => 2 << 20,
            _ => 4096,
        }
    }

    /// Where a pool can be made that no other test uses.
    pub(crate) fn pool_path(&self) -> PathBuf {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.lasting_path(&format!("nvvmm-test-{}-{number}", std::process::id()))
    }

    /// Where the pool of that name is.
    pub(crate) fn lasting_path(&self, name: &str) -> PathBuf {
        match &self.place {
            Place::Device(device) => device.clone(),
            Place::Directory(directory) => directory.join(format!("{name}.pool")),
        }
    }

    /// A file beside the pools, for what else is to be on the medium; none on a device.
    pub fn file_beside_pools(&self, name: &str) -> Option<PathBuf> {
        match &self.place {
            Place::Device(_) => None,
            Place::Directory(directory) => Some(directory.join(name)),
        }
    }

    /// Bytes that a pool takes of the medium, as its file system counts them. None where the medium
    /// has set aside all of the pool from the start, or is all of it.
    pub(crate) fn taken_bytes(&self, pool: &Path) -> Option<u64> {
        self.name
            .starts_with("tmpfs")
            .then(|| std::fs::metadata(pool).expect("the pool exists").blocks() * 512)
    }
}
