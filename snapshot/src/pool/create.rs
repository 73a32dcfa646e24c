//! Making and opening pools.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::device::is_device;
use super::place;
use crate::catalog::{CatalogMemory, WriteCounters, read_current};
use crate::catalog_lock::CatalogLock;
use crate::chunk_digests::KnownDigests;
use crate::clock::unix_ns;
use crate::dead_heads::cut_off_unflushed;
use crate::error::{Error, Result};
use crate::fault::{FaultPoint, Resource, ask_for, fault_point};
use crate::file_lock::{self, LockMode, LockPlace, SpareFiles};
use crate::handle::Pool;
use crate::layout::runtime::{
    BOOT_ID_OFFSET, CLEAN, CLEAN_OFFSET, COMMITTED_OFFSET, DIRTY, DIRTY_OFFSET, committed_word,
};
use crate::layout::superblock::SuperblockV2;
use crate::layout::{
    CHUNK_TABLE_BLOCK, Layout, SIZE_BYTES_MIN, SPARE_FIRST_BLOCK, SUPERBLOCK_BLOCKS,
};
use crate::lock_wait::LockWaits;
use crate::number::{BLOCK_SIZE_BYTES, BlockNo};
use crate::random::random_uuid;
use crate::recovery::{end_dead_release, rebuild, reclaim_dead_holders};
use crate::region::{
    Detected, MappedRegion, Medium, Region, available_bytes, detect, durability_limit, unfit_kind,
};
use crate::store::BlockStore;
use crate::wording::SizeText;

/// Options of a new pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateOptions {
    /// Its size: a multiple of 2 MiB, from 8 MiB to 16 TiB.
    pub size_bytes: u64,
    /// Allows it to be larger than what its medium can keep.
    pub overcommit: bool,
}

impl CreateOptions {
    /// A pool that its medium can keep.
    pub fn of_size(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            overcommit: false,
        }
    }
}

impl Pool {
    /// Makes a pool in a new file or on a DAX device that holds none, and opens it.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::NoDevice`], [`Error::NoDirectory`], [`Error::NoPlace`],
    /// [`Error::HoldsPool`], [`Error::InUse`], [`Error::InvalidSize`],
    /// [`Error::NoSpaceOnMedium`], [`Error::NotAPool`], [`Error::Io`]. No file is left then.
    pub fn create(path: &Path, options: &CreateOptions) -> Result<Arc<Pool>> {
        place::check(path)?;
        if is_device(path) {
            return Pool::create_on_device(path, options);
        }
        let layout = Layout::for_size(options.size_bytes)?;
        if path.symlink_metadata().is_ok() {
            return Err(Error::Exists {
                path: path.to_owned(),
            });
        }
        // Under another name until it is complete: nobody finds half a pool.
        let unfinished = unfinished_path(path)?;
        let file = open_options()
            .create_new(true)
            .mode(0o600)
            .open(&unfinished)
            .map_err(Error::io(format!("creating the pool {}", path.display())))?;
        let made = fill(file, &layout, options).and_then(|()| {
            renameat2(
                AT_FDCWD,
                &unfinished,
                AT_FDCWD,
                path,
                RenameFlags::RENAME_NOREPLACE,
            )
            .map_err(|errno| match errno {
                Errno::EEXIST => Error::Exists {
                    path: path.to_owned(),
                },
                errno => Error::io(format!("naming the new pool {}", path.display()))(errno),
            })
        });
        if let Err(error) = made {
            if let Err(remains) = std::fs::remove_file(&unfinished) {
                tracing::warn!(
                    %remains,
                    file = %unfinished.display(),
                    "could not remove an unfinished pool"
                );
            }
            return Err(error);
        }
        Pool::open(path)
    }

    /// Opens a pool, and takes back what dead processes left in it.
    ///
    /// # Errors
    /// [`Error::NotAPool`], [`Error::Version`], [`Error::Damaged`], [`Error::PoolLocked`],
    /// [`Error::Io`].
    pub fn open(path: &Path) -> Result<Arc<Pool>> {
        let (file, Detected { medium, len_bytes }, first) = open_locked(path)?;
        let probe = MappedRegion::map(duplicate(&file)?, SIZE_BYTES_MIN, medium, true)?;
        let superblock = read_current(&probe, path)?.superblock;
        drop(probe);
        let size_bytes = superblock.size_bytes.get();
        if len_bytes < size_bytes {
            return Err(Error::damaged(format!(
                "it was cut off: {} of {} are left",
                SizeText::left(len_bytes),
                SizeText::of(size_bytes)
            )));
        }
        let region = MappedRegion::map(
            duplicate(&file)?,
            size_bytes,
            medium,
            superblock.overcommit(),
        )?;
        Pool::open_as(first, Box::new(region), file, path, medium)
    }

    /// Opens a pool on any region. Locks are taken on `file`.
    #[cfg(test)]
    pub(crate) fn open_on(
        region: Box<dyn Region>,
        file: File,
        path: &Path,
        medium: Medium,
    ) -> Result<Arc<Pool>> {
        let first = lock_open(&file, path)?;
        Pool::open_as(first, region, file, path, medium)
    }

    /// Opens a pool whose file has the lock of an opener: of the `first` one, or of a further one.
    fn open_as(
        first: bool,
        region: Box<dyn Region>,
        file: File,
        path: &Path,
        medium: Medium,
    ) -> Result<Arc<Pool>> {
        let superblock = read_current(&*region, path)?.superblock;
        region.extend(superblock.size_bytes.get(), superblock.overcommit())?;
        let mut pool = Pool {
            path: path.to_owned(),
            durability: durability_limit(&file, medium)?,
            file,
            medium,
            uuid: superblock.uuid,
            overcommit: AtomicBool::new(superblock.overcommit()),
            store: BlockStore::new(region, &superblock)?,
            catalog: Mutex::new(CatalogMemory::default()),
            waits: LockWaits::default(),
            cleaner: Mutex::new(()),
            cleaner_waits: LockWaits::default(),
            writes: WriteCounters::default(),
            chunk_digests: KnownDigests::default(),
            next_chunk: AtomicU32::new(0),
            spare_files: SpareFiles::default(),
            in_order: AtomicBool::new(false),
        };
        if pool.recover(first)? {
            pool.store.cleans_later = true;
            pool.store.keeps_disks = true;
        }
        pool.in_order.store(true, Ordering::Relaxed);
        Ok(Arc::new(pool))
    }

    /// Puts the pool in order. True when it is one of the newest format version from now on.
    fn recover(&self, first: bool) -> Result<bool> {
        let region = &self.store.region;
        let boot_id = boot_id();
        let mut lock = CatalogLock::take_unrecovered(self)?;
        let mut last_boot = [0; 16];
        region.read(BOOT_ID_OFFSET, &mut last_boot)?;
        if first && (last_boot != boot_id || boot_id == [0; 16]) {
            cut_off_unflushed(&mut lock)?;
        }
        let in_order = region.load_u32(CLEAN_OFFSET)? == CLEAN && last_boot == boot_id;
        if (first && !in_order) || region.load_u32(DIRTY_OFFSET)? == DIRTY {
            tracing::info!(
                pool = %self.path.display(),
                "the pool was not closed in order: recovering"
            );
            rebuild(&mut lock)?;
        }
        end_dead_release(&lock)?;
        self.cut_off_unfinished_growth(&lock)?;
        self.store.provide_spare();
        reclaim_dead_holders(&mut lock)?;
        lock.sweep_orphans(|_, _| false)?;
        let newest = self.store.keeps_disks || (first && self.upgrade(&mut lock));
        fault_point(FaultPoint::OpenRecovered);
        region.write(BOOT_ID_OFFSET, &boot_id)?;
        region.store_u32(CLEAN_OFFSET, 0)?;
        region.flush(BOOT_ID_OFFSET, 24)?;
        region.fence()?;
        drop(lock);
        // Nobody else has it: that cannot fail, nor wait.
        if first && !file_lock::try_lock(&self.file, LockPlace::Open, LockMode::Shared)? {
            return Err(Error::InUse {
                path: self.path.clone(),
            });
        }
        Ok(newest)
    }

    /// Makes the pool one of the newest format version, which nobody else has open. True when it
    /// is.
    fn upgrade(&self, lock: &mut CatalogLock<'_>) -> bool {
        #[cfg(test)]
        if STAYS_OLD.get() {
            return false;
        }
        let upgraded = lock.upgrade();
        if let Err(error) = &upgraded {
            tracing::warn!(
                %error,
                pool = %self.path.display(),
                "the pool stays one of an old format version"
            );
        }
        upgraded.is_ok()
    }
}

#[cfg(test)]
thread_local! {
    /// Has this thread open pools of old versions as if an old program had them open, too.
    pub(crate) static STAYS_OLD: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

fn fill(file: File, layout: &Layout, options: &CreateOptions) -> Result<()> {
    let medium = detect(&file)?.map_or(Medium::File, |detected| detected.medium);
    if !options.overcommit {
        let available_bytes = available_bytes(&file, medium)?;
        if available_bytes < options.size_bytes {
            let (medium, needed_bytes) = (medium.name(), options.size_bytes);
            return Err(Error::NoSpaceOnMedium {
                medium,
                needed_bytes,
                available_bytes,
            });
        }
    }
    file.set_len(options.size_bytes)
        .map_err(Error::io("giving the new pool its size"))?;
    let region = MappedRegion::map(file, options.size_bytes, medium, options.overcommit)?;
    if !options.overcommit {
        region.set_aside(0..options.size_bytes)?;
    }
    format(&region, layout, random_uuid()?, options.overcommit)
}

/// Writes an empty pool to a region of zeros.
pub(crate) fn format(
    region: &dyn Region,
    layout: &Layout,
    uuid: [u8; 16],
    overcommit: bool,
) -> Result<()> {
    let superblocks = SUPERBLOCK_BLOCKS.len() as u64 * BLOCK_SIZE_BYTES;
    region.provide(0, BlockNo::new(CHUNK_TABLE_BLOCK).byte_offset())?;
    for segment in layout.segments() {
        let (start, len) = segment.chunk_table();
        region.provide(start, len)?;
    }
    // The spare blocks' counts; those of data chunks follow with the leases.
    let spare = BlockNo::new(SPARE_FIRST_BLOCK).chunk();
    region.provide(layout.block_table_offset(spare)?, BLOCK_SIZE_BYTES)?;
    region.write(BOOT_ID_OFFSET, &boot_id())?;
    region.write(COMMITTED_OFFSET, &committed_word(1).to_le_bytes())?;
    region.flush(BOOT_ID_OFFSET, BLOCK_SIZE_BYTES)?;
    region.fence()?;
    let mut superblock = SuperblockV2::new(layout, uuid, unix_ns(), overcommit);
    for (block, generation) in SUPERBLOCK_BLOCKS.iter().zip(1u64..) {
        superblock.generation = generation.into();
        region.write(BlockNo::new(*block).byte_offset(), &superblock.seal())?;
    }
    region.flush(0, superblocks)?;
    region.fence()?;
    region.store_u32(CLEAN_OFFSET, CLEAN)?;
    region.flush(CLEAN_OFFSET, 4)?;
    region.fence()
}

/// Takes the lock of those who have the pool open. True for the first of them, who has it alone
/// until the pool is recovered.
fn lock_open(file: &File, path: &Path) -> Result<bool> {
    // Whoever has it alone also has the catalog lock, but for moments.
    LockWaits::default().until(LockPlace::Catalog, file, path, || {
        if file_lock::try_lock(file, LockPlace::Open, LockMode::Exclusive)? {
            return Ok(Some(true));
        }
        let shared = file_lock::try_lock(file, LockPlace::Open, LockMode::Shared)?;
        Ok(shared.then_some(false))
    })
}

/// Opens the file of a pool with the lock of an opener ([`lock_open`]). While it is held, nobody
/// deletes the pool.
fn open_locked(path: &Path) -> Result<(File, Detected, bool)> {
    loop {
        let (file, detected) = open_medium(path)?;
        let first = lock_open(&file, path)?;
        if is_at(&file, path)? {
            return Ok((file, detected, first));
        }
        // It was deleted after it was opened: another one may be there by now.
    }
}

/// True if the path names this file still.
pub(super) fn is_at(file: &File, path: &Path) -> Result<bool> {
    let looking = || Error::io(format!("looking at the pool {}", path.display()));
    let own = file.metadata().map_err(looking())?;
    match path.metadata() {
        Ok(there) => Ok((there.dev(), there.ino()) == (own.dev(), own.ino())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(looking()(error)),
    }
}

/// Opens what a pool may be in, and finds out what it is.
pub(super) fn open_medium(path: &Path) -> Result<(File, Detected)> {
    let not_a_pool = |why: String| Error::NotAPool {
        path: path.to_owned(),
        why,
    };
    if let Ok(found) = path.metadata()
        && let Some(kind) = unfit_kind(&found)
    {
        return Err(not_a_pool(format!("it is {kind}")));
    }
    let file = ask_for(Resource::Descriptor)
        .and_then(|()| open_options().open(path))
        .map_err(Error::io(format!("opening the pool {}", path.display())))?;
    fault_point(FaultPoint::MediumOpened);
    let detected = detect(&file)?
        .ok_or_else(|| not_a_pool("it is neither a file nor a DAX device".to_owned()))?;
    if detected.len_bytes < SIZE_BYTES_MIN {
        let len_bytes = detected.len_bytes;
        return Err(not_a_pool(format!(
            "it has {}, and the smallest pool has 8 MiB",
            SizeText::left(len_bytes)
        )));
    }
    Ok((file, detected))
}

fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

fn duplicate(file: &File) -> Result<File> {
    ask_for(Resource::Descriptor)
        .and_then(|()| file.try_clone())
        .map_err(Error::io("duplicating the pool's descriptor"))
}

fn unfinished_path(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().ok_or_else(|| Error::Io {
        op: format!("'{}' names no file to create a pool in", path.display()),
        source: std::io::ErrorKind::InvalidInput.into(),
    })?;
    let mut unfinished = std::ffi::OsString::from(".");
    unfinished.push(name);
    unfinished.push(format!(".{}-{}", std::process::id(), unix_ns()));
    Ok(path.with_file_name(unfinished))
}

/// Identifies this run of the host: after another one, what was not flushed may be gone.
fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    // Where there is none, all zeros: then every first opener recovers.
    u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes()
}
