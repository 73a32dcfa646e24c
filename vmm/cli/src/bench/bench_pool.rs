//! A pool of the benchmark's own on one medium, and the VMs in it.

use std::{
    fs::{self, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use nix::sys::statvfs::statvfs;
use nvvmm::{
    VmError,
    cow::Techniques,
    ring::Member,
    spec::VmSpec,
    sys::address_range::{AddressRange, Sharing},
    vm::{RestoreOptions, VmSource},
};
use nvvmm_snapshot::{CHUNK_SIZE_BYTES, CreateOptions, EngineKind, Medium, Pool};

use super::{
    guest::Guest,
    host::{HUGE_MEDIA, medium_of, memory_field},
    plan::HOST_BYTES,
};

/// Space of a pool besides the memory of guests: tables, maps, states, unused blocks of VMs.
const POOL_SLACK_BYTES: u64 = 64 << 20;
/// Further space for each byte of guests, as a divisor.
const POOL_SLACK_DIVISOR: u64 = 64;
/// The guest's program, and what it needs besides memory under test.
pub const GUEST_SLACK_BYTES: u64 = 16 << 20;

/// A directory with a pool in it, which goes when this is dropped.
pub struct BenchPool {
    dir: PathBuf,
    /// Medium of the pool, in words.
    pub medium: String,
    pool: Arc<Pool>,
    runtime: tempfile::TempDir,
    kernel: PathBuf,
    vcpus: u8,
    next: AtomicU32,
}

/// Way in which a snapshot is restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreKind {
    /// As `nvvmm restore` does it: memory is mapped at the first touch.
    Lazy,
    /// `--prefault`: page tables are filled first.
    Prefaulted,
    /// `--once`: the snapshot is consumed.
    Once,
}

impl BenchPool {
    /// A new pool in `dir`, with room for `memory_bytes` of guests.
    ///
    /// # Errors
    /// The medium has no room, or the directory cannot be used.
    pub fn make(dir: &Path, memory_bytes: u64, kernel: &Path, vcpus: u8) -> Result<Self, VmError> {
        let runtime = private_directory()?;
        let path = dir.join(format!("nvvmm-bench-{}.pool", std::process::id()));
        let size_bytes = pool_bytes(memory_bytes);
        let pool = Pool::create(
            &path,
            &CreateOptions {
                size_bytes,
                overcommit: false,
            },
        )?;
        Ok(Self {
            dir: dir.to_owned(),
            medium: medium_of(dir),
            pool,
            runtime,
            kernel: kernel.to_owned(),
            vcpus,
            next: AtomicU32::new(0),
        })
    }

    /// Tells if the pool's memory comes in huge pages.
    pub fn has_huge_pages(&self) -> bool {
        HUGE_MEDIA.contains(&self.medium.as_str())
    }

    /// Tells if frames that a guest writes are copied in clusters: neither as whole huge pages, nor
    /// by the host's kernel.
    pub fn copies_clusters(&self) -> bool {
        let medium = self.pool.medium();
        medium.cow_engine() == EngineKind::Userfaultfd && medium.page_bytes() < CHUNK_SIZE_BYTES
    }

    /// The pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// The pool's file.
    pub fn pool_path(&self) -> &Path {
        self.pool.path()
    }

    /// Size of the pool.
    pub fn pool_bytes(&self) -> u64 {
        self.pool.size_bytes()
    }

    /// Bytes of the medium that the pool uses now.
    ///
    /// # Errors
    /// The pool's.
    pub fn medium_bytes(&self) -> Result<u64, VmError> {
        Ok(self.pool.status()?.medium_bytes)
    }

    /// A file beside the pool, on the same medium.
    pub fn file_beside(&self, name: &str) -> PathBuf {
        self.dir
            .join(format!("nvvmm-bench-{}.{name}", std::process::id()))
    }

    /// Tells if files on this medium can be written with write(2).
    pub fn has_write(&self) -> bool {
        self.pool.medium() != Medium::Hugetlbfs
    }

    /// Tells if there is room for a file of this size beside the pool, however much of the pool
    /// is used.
    ///
    /// # Errors
    /// The directory is gone.
    pub fn has_room_beside(&self, size_bytes: u64) -> Result<bool, VmError> {
        let room = room_bytes(&self.dir)?;
        // Huge pages that are set aside are no other memory's, and a pool on them has all of its
        // own.
        let memory = match self.pool.medium() {
            Medium::Hugetlbfs => room,
            _ => memory_field("MemAvailable").saturating_sub(HOST_BYTES),
        };
        Ok(size_bytes.next_multiple_of(CHUNK_SIZE_BYTES) <= room.min(memory))
    }

    /// A file for what is no memory: beside the pool, where that can be written to.
    pub fn small_file(&self, name: &str) -> PathBuf {
        if self.has_write() {
            self.file_beside(name)
        } else {
            self.runtime.path().join(name)
        }
    }

    /// Has memory for so much touched right now ([`warm`]).
    ///
    /// # Errors
    /// There is not so much memory.
    pub fn warm(&self, size_bytes: u64) -> Result<(), VmError> {
        // All huge pages that are set aside are the pool's, and stay warm.
        if self.pool.medium() == Medium::Hugetlbfs {
            return Ok(());
        }
        warm(&self.dir, size_bytes)
    }

    /// Boots a guest with room for `touched_bytes` of memory under test.
    ///
    /// # Errors
    /// Whatever keeps a VM from running.
    pub fn boot(&self, memory_bytes: u64) -> Result<Guest, VmError> {
        self.boot_machine(self.spec(memory_bytes))
    }

    /// Boots a guest on a machine like [`BenchPool::spec`]'s.
    ///
    /// # Errors
    /// Whatever keeps a VM from running.
    pub fn boot_machine(&self, spec: VmSpec) -> Result<Guest, VmError> {
        self.boot_at(self.guest_settings(), spec)
    }

    /// Boots a guest whose memory is copied in another way than usual: with these techniques.
    ///
    /// # Errors
    /// Whatever keeps a VM from running.
    pub fn boot_with(&self, techniques: Techniques, memory_bytes: u64) -> Result<Guest, VmError> {
        let settings = GuestSettings {
            techniques,
            ..self.guest_settings()
        };
        self.boot_at(settings, self.spec(memory_bytes))
    }

    fn boot_at(&self, settings: GuestSettings<'_>, spec: VmSpec) -> Result<Guest, VmError> {
        let source = VmSource::Boot(spec);
        Guest::start(settings, |builder, console| builder.build(&source, console))
    }

    /// Restores a snapshot as one more VM.
    ///
    /// # Errors
    /// Whatever keeps a VM from running.
    pub fn restore(&self, snapshot: &str, kind: RestoreKind) -> Result<Guest, VmError> {
        let source = VmSource::Restore(RestoreOptions {
            prefault: kind == RestoreKind::Prefaulted,
            once: kind == RestoreKind::Once,
            ..RestoreOptions::from(snapshot)
        });
        Guest::start(self.guest_settings(), |builder, console| {
            builder.build(&source, console)
        })
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// The pool's.
    pub fn remove(&self, snapshot: &str) -> Result<(), VmError> {
        self.pool.remove(snapshot)?;
        Ok(())
    }

    /// Reads bytes of a snapshot's memory.
    ///
    /// # Errors
    /// The pool's.
    pub fn read_snapshot(
        &self,
        snapshot: &str,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), VmError> {
        Ok(self.pool.reader(snapshot)?.read(offset, into)?)
    }

    /// Names of the checkpoints that a VM's ring has taken, the oldest first.
    ///
    /// # Errors
    /// The pool's.
    pub fn checkpoints(&self, vm: &str) -> Result<Vec<String>, VmError> {
        let members = Member::all(&self.pool, vm)?.into_iter();
        Ok(members.map(|member| member.name).collect())
    }

    /// Removes all of them.
    ///
    /// # Errors
    /// The pool's.
    pub fn remove_checkpoints(&self, vm: &str) -> Result<(), VmError> {
        let names = self.checkpoints(vm)?;
        names.iter().try_for_each(|name| self.remove(name))
    }

    /// The machine that `nvvmm run` would make.
    pub fn spec(&self, memory_bytes: u64) -> VmSpec {
        VmSpec::builder(&self.kernel)
            .vcpus(self.vcpus)
            .memory_bytes((memory_bytes + GUEST_SLACK_BYTES).next_multiple_of(CHUNK_SIZE_BYTES))
            .agent_devices()
            .build()
    }

    /// Name and directory of sockets for the next guest.
    pub fn guest_settings(&self) -> GuestSettings<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        GuestSettings {
            name: format!("bench-{number}"),
            pool: &self.pool,
            dir: self.runtime.path(),
            techniques: Techniques::default(),
        }
    }
}

/// Settings that a guest is started with.
pub struct GuestSettings<'p> {
    /// The VM's name.
    pub name: String,
    /// Pool of the guest's memory.
    pub pool: &'p Arc<Pool>,
    /// The directory of its sockets.
    pub dir: &'p Path,
    /// Optimisations that the engine uses.
    pub techniques: Techniques,
}

impl Drop for BenchPool {
    fn drop(&mut self) {
        let path = self.pool.path();
        if let Err(error) = fs::remove_file(path) {
            tracing::warn!("the pool {} stays: {error}", path.display());
        }
    }
}

/// The size of a pool with room for `memory_bytes` of guests.
pub fn pool_bytes(memory_bytes: u64) -> u64 {
    (memory_bytes + memory_bytes / POOL_SLACK_DIVISOR + POOL_SLACK_BYTES)
        .next_multiple_of(CHUNK_SIZE_BYTES)
}

/// Guest memory that a pool of `size_bytes` has room for.
pub fn memory_in_pool(size_bytes: u64) -> u64 {
    size_bytes.saturating_sub(POOL_SLACK_BYTES + CHUNK_SIZE_BYTES) / (POOL_SLACK_DIVISOR + 1)
        * POOL_SLACK_DIVISOR
}

/// A directory for sockets, for its owner only.
///
/// # Errors
/// It cannot be made.
pub fn private_directory() -> Result<tempfile::TempDir, VmError> {
    let private = fs::Permissions::from_mode(0o700);
    let made = tempfile::Builder::new().permissions(private).tempdir();
    made.map_err(|e| VmError::io("make a directory for sockets", &e))
}

/// Bytes that can still be put on the medium of a directory.
///
/// # Errors
/// There is no such directory.
pub fn room_bytes(dir: &Path) -> Result<u64, VmError> {
    let room = statvfs(dir).map_err(|e| {
        VmError::io(
            format_args!("find out the space on {}", dir.display()),
            &e.into(),
        )
    })?;
    Ok(room.blocks_available().saturating_mul(room.fragment_size()))
}

/// Has so much of a medium's memory touched, so that what is measured next meets no page that the
/// host has never used: under a hypervisor such a page costs some microseconds, whoever touches it.
/// The pages are free again afterwards. They do not stay warm: a guest kernel with free page
/// reporting gives free memory back to its host after some seconds.
///
/// # Errors
/// There is not so much memory.
pub fn warm(dir: &Path, size_bytes: u64) -> Result<(), VmError> {
    let path = dir.join(format!("nvvmm-bench-{}.warm", std::process::id()));
    let warmed = warm_file(&path, size_bytes);
    let removed = fs::remove_file(&path);
    let warmed = warmed.and(removed).and_then(|()| warm_huge(size_bytes));
    warmed.map_err(|e| {
        VmError::io(
            format_args!("touch {size_bytes} bytes on {}", dir.display()),
            &e,
        )
    })
}

fn warm_file(path: &Path, size_bytes: u64) -> io::Result<()> {
    let addresses = map_new_file(path, size_bytes)?;
    addresses.populate_write(0, addresses.size_bytes())
}

/// Touches memory in pages of 2 MiB, where there are such: the kernel keeps them apart from small
/// ones.
fn warm_huge(size_bytes: u64) -> io::Result<()> {
    let size = usize::try_from(size_bytes.next_multiple_of(CHUNK_SIZE_BYTES));
    let addresses = AddressRange::new(size.map_err(io::Error::other)?, CHUNK_SIZE_BYTES as usize)?;
    addresses.map_anonymous(0, addresses.size_bytes())?;
    addresses.want_huge_pages()?;
    addresses.populate_write(0, addresses.size_bytes())
}

/// Makes a file, as long as so many whole chunks, and maps it.
///
/// # Errors
/// There is such a file, or its medium has no room.
pub fn map_new_file(path: &Path, size_bytes: u64) -> io::Result<AddressRange> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let size_bytes = size_bytes.next_multiple_of(CHUNK_SIZE_BYTES);
    file.set_len(size_bytes)?;
    let size = usize::try_from(size_bytes).map_err(io::Error::other)?;
    let addresses = AddressRange::new(size, CHUNK_SIZE_BYTES as usize)?;
    addresses.map_file(0, size, file.as_fd(), 0, Sharing::Shared)?;
    Ok(addresses)
}
