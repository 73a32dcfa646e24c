//! Files of the host that a machine is made from, opened once.
//!
//! They are opened before the guest runs, and stay open as long as the VM lives. A reboot and a
//! rewind use the open files again: nothing is opened by its path while a guest runs.

use std::{
    fs::{File, FileType, Metadata, OpenOptions},
    io::{self, Seek},
    os::unix::fs::{FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use nvvmm_devices::virtio::{BlockError, NetPort, RawDisk};
use nvvmm_snapshot::{Durability, Pool, SnapshotId};

use super::VmSpec;
use crate::disk::{DiskOpenError, DiskUser, OpenDisk, OpenDisks};
use crate::net::{NetError, OpenNets};

/// Reasons why a file that guests are booted from cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The host refuses to open or read it.
    #[error("cannot read {what} {path}: {source}")]
    Read {
        /// Purpose of the file.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A directory, a pipe, a device or a socket.
    #[error("{what} {path} is {kind}, not a regular file")]
    NotRegular {
        /// Purpose of the file.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Kind of the file, with its article.
        kind: &'static str,
    },
    /// A file without content.
    #[error("{what} {path} is empty")]
    Empty {
        /// Purpose of the file.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The spec names no kernel.
    #[error("the machine has no kernel to boot")]
    NoKernel,
}

impl FileError {
    /// Advice to the user.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::NotRegular { .. } => Some(
                "give a regular file: a VM reads it again when its guest reboots; the content of \
                 a pipe can be written to a file before",
            ),
            Self::Empty { .. } => Some("leave the option out, or give a file with content"),
            _ => None,
        }
    }
}

/// Reasons why the files of a machine cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Kernel or initial RAM disk.
    #[error(transparent)]
    Boot(#[from] FileError),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] BlockError),
    /// A disk of the pool.
    #[error(transparent)]
    PoolDisk(#[from] nvvmm_snapshot::Error),
    /// A network.
    #[error(transparent)]
    Net(#[from] NetError),
}

impl From<DiskOpenError> for OpenError {
    fn from(error: DiskOpenError) -> Self {
        match error {
            DiskOpenError::Image(error) => Self::Disk(error),
            DiskOpenError::Pool(error) => Self::PoolDisk(error),
        }
    }
}

/// An open regular file that guests are booted from.
#[derive(Clone, Debug)]
pub struct BootFile {
    what: &'static str,
    path: PathBuf,
    file: Arc<File>,
}

impl BootFile {
    /// Purpose of a kernel, in messages.
    pub const KERNEL: &'static str = "the kernel";
    /// Purpose of an initial RAM disk, in messages.
    pub const INITRAMFS: &'static str = "the initramfs";

    /// Opens a file. Never waits for the other end of a pipe, and opens no device.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(what: &'static str, path: &Path) -> Result<Self, FileError> {
        let failed = |source| FileError::Read {
            what,
            path: path.to_owned(),
            source,
        };
        let check = |metadata: &Metadata| match kind_unless_regular(metadata.file_type()) {
            Some(kind) => Err(FileError::NotRegular {
                what,
                path: path.to_owned(),
                kind,
            }),
            None => Ok(()),
        };
        // Before: to open a device may start something. After: it may be another file by then.
        check(&std::fs::metadata(path).map_err(failed)?)?;
        let mut options = OpenOptions::new();
        options.read(true);
        options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        let file = options.open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        check(&metadata)?;
        if metadata.len() == 0 && what == Self::INITRAMFS {
            let path = path.to_owned();
            return Err(FileError::Empty { what, path });
        }
        Ok(Self {
            what,
            path: path.to_owned(),
            file: Arc::new(file),
        })
    }

    /// The path that it was opened by, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file at its first byte. All readers of one file share one position: one of them reads
    /// at a time.
    ///
    /// # Errors
    /// [`FileError::Read`]: the process has too many open files.
    pub fn reader(&self) -> Result<File, FileError> {
        let rewound = || {
            let mut file = self.file.try_clone()?;
            file.rewind()?;
            Ok(file)
        };
        rewound().map_err(|source| self.unreadable(source))
    }

    /// The error of a failed read.
    pub fn unreadable(&self, source: io::Error) -> FileError {
        FileError::Read {
            what: self.what,
            path: self.path.clone(),
            source,
        }
    }
}

/// Names the kind of a file that is no regular one.
fn kind_unless_regular(kind: FileType) -> Option<&'static str> {
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() {
        Some("a pipe")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a device")
    }
}

/// Files that a guest boots from.
#[derive(Clone, Debug)]
pub struct BootFiles {
    /// The kernel or program.
    pub kernel: BootFile,
    /// Initial RAM disk for Linux.
    pub initramfs: Option<BootFile>,
}

impl BootFiles {
    /// Opens the kernel and the initial RAM disk that `spec` names.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(spec: &VmSpec) -> Result<Self, FileError> {
        let kernel = spec.kernel.as_deref().ok_or(FileError::NoKernel)?;
        let initramfs = spec.initramfs.as_deref();
        Ok(Self {
            kernel: BootFile::open(BootFile::KERNEL, kernel)?,
            initramfs: initramfs
                .map(|path| BootFile::open(BootFile::INITRAMFS, path))
                .transpose()?,
        })
    }
}

/// The open files of one machine, which each machine that takes its place uses, too.
pub struct OpenedFiles {
    boot: Result<BootFiles, String>,
    disks: OpenDisks,
    nets: OpenNets,
}

impl OpenedFiles {
    /// Opens all files and disks that `spec` names.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(spec: &VmSpec, user: &DiskUser<'_>) -> Result<Self, OpenError> {
        Ok(Self {
            boot: Ok(BootFiles::open(spec)?),
            disks: OpenDisks::open(spec.disks(), user)?,
            nets: OpenNets::open(spec.nets())?,
        })
    }

    /// Opens all files and disks of a machine that is restored. It needs its kernel for a reboot
    /// only: one that cannot be opened is no error yet.
    ///
    /// # Errors
    /// [`OpenError::Disk`], [`OpenError::PoolDisk`], [`OpenError::Net`].
    pub fn open_restored(spec: &VmSpec, user: &DiskUser<'_>) -> Result<Self, OpenError> {
        Ok(Self {
            boot: BootFiles::open(spec).map_err(|error| error.to_string()),
            disks: OpenDisks::open(spec.disks(), user)?,
            nets: OpenNets::open(spec.nets())?,
        })
    }

    /// Files to boot from, or the reason why there are none.
    ///
    /// # Errors
    /// The reason, in words for the user.
    pub fn boot(&self) -> Result<&BootFiles, &str> {
        self.boot.as_ref().map_err(String::as_str)
    }

    /// These are the files that `spec` names, as far as they could be opened.
    pub fn is_of(&self, spec: &VmSpec) -> bool {
        let boot = self.boot.as_ref().ok().map(|boot| {
            let initramfs = boot.initramfs.as_ref().map(BootFile::path);
            (boot.kernel.path(), initramfs)
        });
        let named = (spec.kernel.as_deref()).map(|kernel| (kernel, spec.initramfs.as_deref()));
        let disks = self.open_disks();
        let has_named_disks =
            disks.len() == spec.disks().count() && { disks.iter().zip(spec.disks()) }
                .all(|(disk, named)| disk.is_of(named));
        let has_nets = self.nets.ports().len() == spec.nets().count();
        boot.is_none_or(|boot| named == Some(boot)) && has_named_disks && has_nets
    }

    /// The disks, in the order of the spec, for one machine.
    ///
    /// # Errors
    /// A disk has an impossible size by now.
    pub fn disks(&self) -> Result<Vec<OpenDisk>, BlockError> {
        self.open_disks().iter().map(OpenDisk::reuse).collect()
    }

    /// The open disks, to look at.
    pub fn open_disks(&self) -> &[OpenDisk] {
        self.disks.as_slice()
    }

    /// The networks of the cards, in the order of the spec.
    pub fn nets(&self) -> &[Arc<NetPort>] {
        self.nets.ports()
    }

    /// The snapshot that the disks of the pool are copies of, if they are.
    pub fn disks_snapshot(&self) -> Option<SnapshotId> {
        self.disks.snapshot()
    }

    /// True when what is taken of a machine with these disks is foreign.
    pub fn are_disks_foreign(&self) -> bool {
        self.disks.are_foreign()
    }

    /// Has writes to the disks be told from those before a snapshot in `pool`, as long as that
    /// snapshot can survive.
    pub fn tell_writes_apart(&self, pool: &Pool) {
        if pool.durability().strongest != Durability::Process {
            self.images().for_each(RawDisk::tell_writes_apart_stably);
        }
    }

    /// Notes that the VM has ended, and writes no more.
    pub fn settle(&self) {
        self.images().for_each(RawDisk::settle);
    }

    fn images(&self) -> impl Iterator<Item = &RawDisk> {
        self.open_disks().iter().filter_map(OpenDisk::file)
    }
}

#[cfg(test)]
#[path = "files_test.rs"]
mod files_test;
