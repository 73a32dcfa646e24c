//! The open disks of a VM: image files of the host, and disks of the pool.
//!
//! Each is opened once, and stays open as long as the VM lives, whatever machines follow each other
//! in it. The disks of the pool have a holder of their own: a machine that is built anew finds them
//! as the one before has left them, and nobody else can take them meanwhile.

mod pool_disk;
mod space;

use std::sync::Arc;

use nvvmm_devices::virtio::{BlockError, ContentStamp, DiskBackend, DiskSource, DiskSpec, RawDisk};
use nvvmm_snapshot::{DiskCut, DiskHead, Holder, Pool, SnapshotId};

pub use pool_disk::PoolDisk;
pub use space::{SpaceListener, Wanting};

use pool_disk::{Content, PoolDiskFile};

/// Names that are tried for the disk of a copy, when others have those before.
const NAMES_TRIED: u32 = 1000;

/// Reasons why disks cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum DiskOpenError {
    /// An image file cannot.
    #[error(transparent)]
    Image(#[from] BlockError),
    /// A disk of the pool cannot.
    #[error(transparent)]
    Pool(#[from] nvvmm_snapshot::Error),
}

/// The place that the content of the pool's disks is taken from.
#[derive(Clone, Copy, Debug)]
pub enum DisksFrom<'a> {
    /// The disks themselves, as they are now: for a VM that boots.
    Newest,
    /// A snapshot: the VM gets copies of its own, which begin with the VM's name.
    Snapshot {
        /// Name of the snapshot.
        snapshot: &'a str,
        /// The copies are removed when the VM ends, whatever was written to them.
        ephemeral: bool,
    },
}

/// The VM that disks are opened for.
#[derive(Clone, Copy, Debug)]
pub struct DiskUser<'a> {
    /// The pool of its memory and disks. A VM without one has no disks of a pool.
    pub pool: Option<&'a Arc<Pool>>,
    /// Its name.
    pub vm: &'a str,
    /// The place that the content of its pool's disks is taken from.
    pub from: DisksFrom<'a>,
}

impl DiskUser<'_> {
    /// A VM whose disks are image files.
    pub const OF_FILES: DiskUser<'static> = DiskUser {
        pool: None,
        vm: "vm",
        from: DisksFrom::Newest,
    };
}

/// An open disk of one machine.
pub enum OpenDisk {
    /// An image file or block device of the host.
    File(RawDisk),
    /// A disk of the pool.
    Pool(PoolDisk),
}

impl OpenDisk {
    /// The same open disk for another machine, which takes the place of the one that has it.
    ///
    /// # Errors
    /// The image has an impossible size by now.
    pub fn reuse(&self) -> Result<Self, BlockError> {
        Ok(match self {
            Self::File(disk) => Self::File(disk.reuse()?),
            Self::Pool(disk) => Self::Pool(disk.reuse()),
        })
    }

    /// The disk as storage of a device.
    pub fn into_backend(self) -> Arc<dyn DiskBackend> {
        match self {
            Self::File(disk) => Arc::new(disk),
            Self::Pool(disk) => Arc::new(disk),
        }
    }

    /// The disk.
    pub fn backend(&self) -> &dyn DiskBackend {
        match self {
            Self::File(disk) => disk,
            Self::Pool(disk) => disk,
        }
    }

    /// The image, unless it is a disk of the pool.
    pub fn file(&self) -> Option<&RawDisk> {
        match self {
            Self::File(disk) => Some(disk),
            Self::Pool(_) => None,
        }
    }

    /// The disk of the pool, if it is one.
    pub fn pool_disk(&self) -> Option<&PoolDisk> {
        match self {
            Self::File(_) => None,
            Self::Pool(disk) => Some(disk),
        }
    }

    /// The content of an image for a snapshot: the next write is told from those before. `None` for
    /// one of which nothing can be told, and for a disk of the pool, which the snapshot has.
    pub fn note_content(&self) -> Option<ContentStamp> {
        self.file().and_then(RawDisk::note_content)
    }

    /// Finds the size anew. True when it has changed.
    ///
    /// # Errors
    /// An image has a size that no disk can have.
    pub fn measure(&self) -> Result<bool, BlockError> {
        let before = self.backend().size_bytes();
        let now = match self {
            Self::File(disk) => disk.measure()?,
            Self::Pool(disk) => disk.measure(),
        };
        Ok(now != before)
    }

    /// This is the disk that `spec` declares, opened.
    pub fn is_of(&self, spec: &DiskSpec) -> bool {
        let is_same = match (self, &spec.source) {
            (Self::File(disk), DiskSource::File(path)) => disk.path() == path,
            (Self::Pool(disk), DiskSource::Pool(name)) => disk.drive() == name,
            _ => false,
        };
        is_same && self.backend().is_read_only() == spec.read_only
    }
}

/// All open disks of a VM. When this is dropped they are anybody's again, and copies that nobody
/// wrote to are removed.
pub struct OpenDisks {
    disks: Vec<OpenDisk>,
    /// The holder of the pool's disks; none if there are none.
    holder: Option<Arc<Holder>>,
    /// The snapshot that all of them are copies of.
    snapshot: Option<SnapshotId>,
}

impl OpenDisks {
    /// Opens disks for a VM.
    ///
    /// # Errors
    /// One of them cannot be opened; nothing is left then.
    pub fn open<'a>(
        specs: impl Iterator<Item = &'a DiskSpec>,
        user: &DiskUser<'_>,
    ) -> Result<Self, DiskOpenError> {
        let mut opened = Self {
            disks: Vec::new(),
            holder: None,
            snapshot: None,
        };
        for spec in specs {
            let disk = match &spec.source {
                DiskSource::File(path) => OpenDisk::File(RawDisk::open(path, spec.read_only)?),
                DiskSource::Pool(drive) => {
                    let holder = opened.holder(user)?;
                    opened.check_snapshot(user)?;
                    let file = open_in_pool(&holder, (user, drive), spec.read_only)?;
                    OpenDisk::Pool(PoolDisk::of(Arc::new(file)))
                }
            };
            opened.disks.push(disk);
        }
        if opened.holder.is_some() {
            opened.check_snapshot(user)?;
        }
        Ok(opened)
    }

    /// Finds out which snapshot has the name that copies are made of: the same one before the first
    /// copy and after the last.
    fn check_snapshot(&mut self, user: &DiskUser<'_>) -> Result<(), nvvmm_snapshot::Error> {
        let (Some(pool), DisksFrom::Snapshot { snapshot, .. }) = (user.pool, user.from) else {
            return Ok(());
        };
        let found = pool.find(snapshot)?.id;
        match *self.snapshot.get_or_insert(found) == found {
            true => Ok(()),
            false => Err(nvvmm_snapshot::Error::NotFound {
                name: snapshot.to_owned(),
                pool: pool.path().to_owned(),
                near: Vec::new(),
            }),
        }
    }

    /// The snapshot that the disks of the pool are copies of, if they are.
    pub fn snapshot(&self) -> Option<SnapshotId> {
        self.snapshot
    }

    fn holder(&mut self, user: &DiskUser<'_>) -> Result<Arc<Holder>, nvvmm_snapshot::Error> {
        if let Some(holder) = &self.holder {
            return Ok(Arc::clone(holder));
        }
        let pool = user.pool.ok_or(nvvmm_snapshot::Error::NoDisksYet)?;
        let holder = Arc::new(pool.hold(user.vm)?);
        Ok(Arc::clone(self.holder.insert(holder)))
    }

    /// The disks, in the order of the spec.
    pub fn as_slice(&self) -> &[OpenDisk] {
        &self.disks
    }

    /// True when what is taken of a VM with these disks is foreign.
    pub fn are_foreign(&self) -> bool {
        self.holder
            .as_ref()
            .is_some_and(|holder| holder.is_foreign())
    }
}

/// Has the disks of the pool among these be as they were at a snapshot that somebody pins, by one
/// commit. Nothing may use them meanwhile.
///
/// # Errors
/// The snapshot has other disks, or the pool is full. Nothing has changed then.
pub fn rewind(disks: &[OpenDisk], snapshot: SnapshotId) -> Result<(), nvvmm_snapshot::Error> {
    let mut heads: Vec<(&DiskHead, &str)> = Vec::new();
    for disk in disks.iter().filter_map(OpenDisk::pool_disk) {
        match &disk.file().content {
            Content::Written(head) => heads.push((head, disk.drive())),
            Content::Read(reader) => reader.check_is_in(snapshot, disk.drive())?,
        }
    }
    DiskHead::rewind_all(&heads, snapshot)
}

/// Notes that a snapshot has all of the pool's disks among these, and that the VM goes on from it
/// some time: its copies are not needed any more.
pub fn note_saved(disks: &[OpenDisk]) {
    let disks = disks.iter().filter_map(OpenDisk::pool_disk);
    disks.for_each(PoolDisk::note_saved);
}

/// True if there is a disk of the pool among these.
pub fn any_of_pool(disks: &[OpenDisk]) -> bool {
    disks.iter().any(|disk| disk.pool_disk().is_some())
}

/// Blocks of metadata that a snapshot takes for the disks of the pool among these at most: if they
/// are cut now, and if the guest writes before.
pub fn commit_blocks(disks: &[OpenDisk]) -> (u32, u32) {
    let disks = disks.iter().filter_map(OpenDisk::pool_disk);
    disks.fold((0, 0), |(now, at_most), disk| {
        let of_disk = disk.commit_blocks();
        (now + of_disk.0, at_most + of_disk.1)
    })
}

/// The disks of the pool among these at this moment, for a snapshot.
///
/// # Errors
/// A disk was given back.
pub fn cut(disks: &[OpenDisk]) -> Result<Vec<DiskCut>, nvvmm_snapshot::Error> {
    let disks = disks.iter().filter_map(OpenDisk::pool_disk);
    disks.map(PoolDisk::cut).collect()
}

impl Drop for OpenDisks {
    fn drop(&mut self) {
        for disk in self.disks.iter().filter_map(OpenDisk::pool_disk) {
            disk.file().end();
        }
    }
}

/// Opens one disk of the pool.
fn open_in_pool(
    holder: &Arc<Holder>,
    (user, drive): (&DiskUser<'_>, &str),
    read_only: bool,
) -> Result<PoolDiskFile, nvvmm_snapshot::Error> {
    let pool = holder.pool();
    let (name, copy) = match user.from {
        DisksFrom::Newest => (drive.to_owned(), None),
        DisksFrom::Snapshot {
            snapshot,
            ephemeral,
        } => (
            copy_of(pool, (snapshot, drive), user.vm)?,
            Some(pool_disk::Copy { ephemeral }),
        ),
    };
    let content = match read_only {
        true => { holder.attach_disk_read_only(&name) }.map(|disk| Content::Read(Box::new(disk))),
        false => holder.attach_disk(&name).map(Content::Written),
    };
    match content {
        Ok(content) => Ok(PoolDiskFile::new(holder, (name, drive), copy, content)),
        Err(error) => {
            if copy.is_some() {
                pool_disk::remove(pool, &name);
            }
            Err(error)
        }
    }
}

/// Makes a copy of a snapshot's disk for a VM. Gives its name: that of the VM, that of the drive,
/// and a number if there is such a disk.
fn copy_of(
    pool: &Arc<Pool>,
    (snapshot, drive): (&str, &str),
    vm: &str,
) -> Result<String, nvvmm_snapshot::Error> {
    let mut name = format!("{vm}.{drive}");
    for number in 2.. {
        match pool.copy_disk_of(snapshot, drive, &name) {
            Err(nvvmm_snapshot::Error::DiskNameTaken { .. }) if number <= NAMES_TRIED => {
                name = format!("{vm}.{drive}-{number}");
            }
            made => return made.map(|disk| disk.name),
        }
    }
    unreachable!("the last number returns")
}
