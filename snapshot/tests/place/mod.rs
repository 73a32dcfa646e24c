//! Places for the pools of tests: on what scripts/on-medium.sh prepared, else in shared memory.

#![allow(dead_code)] // Each test program uses what it needs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nvvmm_snapshot::{CreateOptions, Medium, Pool};

/// A device has room for one pool at a time.
static DEVICE: Mutex<()> = Mutex::new(());

/// Name and path of the medium: the last one of `NVVMM_TEST_PLACES`.
fn chosen() -> (String, String) {
    let places = std::env::var("NVVMM_TEST_PLACES").unwrap_or_else(|_| "tmpfs=/dev/shm".to_owned());
    let last = places.split_whitespace().last();
    let (name, path) = last
        .and_then(|place| place.split_once('='))
        .expect("NVVMM_TEST_PLACES is MEDIUM=PATH, with spaces");
    (name.to_owned(), path.to_owned())
}

/// Tells whether the medium is a device, which has room for one pool.
pub fn is_device() -> bool {
    chosen().0 == "devdax"
}

/// A place for one pool, which goes with it.
pub struct PoolPlace {
    path: PathBuf,
    medium: Medium,
    /// The medium takes back each block that is freed.
    pub takes_back_blocks: bool,
    directory: Option<tempfile::TempDir>,
    _device: Option<MutexGuard<'static, ()>>,
}

impl PoolPlace {
    pub fn new() -> PoolPlace {
        let (name, path) = chosen();
        let medium = match name.as_str() {
            "tmpfs" | "tmpfs-huge" => Medium::Tmpfs,
            "hugetlbfs" => Medium::Hugetlbfs,
            "file" => Medium::File,
            "fsdax-ext4" | "fsdax-xfs" => Medium::Fsdax,
            "devdax" => Medium::Devdax,
            other => panic!("the medium {other} is not known"),
        };
        if medium == Medium::Devdax {
            let place = PoolPlace {
                path: path.into(),
                medium,
                takes_back_blocks: false,
                directory: None,
                _device: Some(DEVICE.lock().unwrap_or_else(PoisonError::into_inner)),
            };
            place.clear_device();
            return place;
        }
        PoolPlace::below(path.as_ref(), medium, name == "tmpfs")
    }

    /// A place in shared memory, for a second pool beside one on a device.
    pub fn in_memory() -> PoolPlace {
        PoolPlace::below("/dev/shm".as_ref(), Medium::Tmpfs, true)
    }

    fn below(parent: &std::ffi::OsStr, medium: Medium, takes_back_blocks: bool) -> PoolPlace {
        let directory = tempfile::tempdir_in(parent).unwrap();
        PoolPlace {
            path: directory.path().join("pool"),
            medium,
            takes_back_blocks,
            directory: Some(directory),
            _device: None,
        }
    }

    /// True when a pool here can be damaged with write(2).
    pub fn takes_writes(&self) -> bool {
        self.directory.is_some() && self.medium != Medium::Hugetlbfs
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn medium(&self) -> Medium {
        self.medium
    }

    /// Makes the pool, of which the medium keeps all that it promises.
    pub fn create(&self, size_bytes: u64) -> Arc<Pool> {
        self.create_with(size_bytes, false)
    }

    pub fn create_with(&self, size_bytes: u64, overcommit: bool) -> Arc<Pool> {
        let options = CreateOptions {
            size_bytes,
            overcommit,
        };
        let pool = Pool::create(&self.path, &options).unwrap();
        assert_eq!(pool.medium(), self.medium);
        pool
    }

    /// Removes what an earlier test left, or this one: a file goes with its directory.
    fn clear_device(&self) {
        if self.medium == Medium::Devdax
            && let Err(error) = Pool::delete(&self.path)
            && !matches!(error, nvvmm_snapshot::Error::NotAPool { .. })
        {
            eprintln!("{error}");
        }
    }
}

impl Drop for PoolPlace {
    fn drop(&mut self) {
        self.clear_device();
    }
}
