//! userfaultfd: faults and writes of a range are held until this process has dealt with them.
//!
//! Source: ioctl_userfaultfd(2) and the kernel's Documentation/admin-guide/mm/userfaultfd.rst.

use std::{
    fs::{File, OpenOptions},
    io,
    mem::{self, MaybeUninit},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    sync::OnceLock,
};

use linux_raw_sys::{
    general::{
        UFFD_API, UFFD_EVENT_PAGEFAULT, UFFD_FEATURE_PAGEFAULT_FLAG_WP,
        UFFD_FEATURE_WP_HUGETLBFS_SHMEM, UFFD_PAGEFAULT_FLAG_WP, UFFD_PAGEFAULT_FLAG_WRITE,
        UFFDIO_REGISTER_MODE_MISSING, UFFDIO_REGISTER_MODE_WP, uffd_msg, uffdio_api, uffdio_copy,
        uffdio_range, uffdio_register, uffdio_writeprotect, uffdio_zeropage,
    },
    ioctl::{
        UFFDIO_API, UFFDIO_COPY, UFFDIO_REGISTER, UFFDIO_WAKE, UFFDIO_WRITEPROTECT, UFFDIO_ZEROPAGE,
    },
};

use nvvmm_snapshot::{Resource, ask_for};

use super::{PAGE_SIZE_BYTES, check};
use crate::stats::{Counter, KernelCalls};

/// `_IO(0xAA, 0)` on /dev/userfaultfd; not in linux-raw-sys.
const USERFAULTFD_IOC_NEW: libc::c_ulong = 0xAA00;
/// `UFFDIO_WRITEPROTECT_MODE_WP`; not in linux-raw-sys.
const WRITEPROTECT_MODE_WP: u64 = 1;
/// Messages taken by one read.
const BATCH: usize = 16;

/// Reasons why userfaultfd cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UffdError {
    /// Neither the device nor the system call may be used.
    #[error("no permission for userfaultfd")]
    NoPermission,
    /// The kernel cannot hold writes to shared memory.
    #[error("this kernel cannot write-protect shared memory through userfaultfd")]
    KernelTooOld,
    /// Anything else.
    #[error("userfaultfd: {op}: {source}")]
    Os {
        /// The step that failed.
        op: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// One held access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Host virtual address that was touched, rounded down to its page.
    pub address: usize,
    /// The access is a write.
    pub write: bool,
    /// The page is there, but write-protected.
    pub write_protected: bool,
}

/// An open userfaultfd that handles faults of user and kernel mode (KVM, device I/O) alike.
#[derive(Debug)]
pub struct Uffd {
    fd: OwnedFd,
    protects: Counter,
    registers: Counter,
    wakes: Counter,
    fills: Counter,
}

impl Uffd {
    /// Opens one with write-protection for shared memory (Linux 5.19).
    pub fn open() -> Result<Self, UffdError> {
        ask_for(Resource::Descriptor).map_err(|source| UffdError::Os { op: "open", source })?;
        let fd = Self::open_device().or_else(|_| Self::open_syscall())?;
        let features = u64::from(UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
        let mut api = uffdio_api {
            api: u64::from(UFFD_API),
            features,
            ioctls: 0,
        };
        // SAFETY: UFFDIO_API reads and writes one uffdio_api, which lives across the call.
        match check(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API.into(), &mut api) }) {
            Ok(()) => Ok(Self {
                fd,
                protects: Counter::default(),
                registers: Counter::default(),
                wakes: Counter::default(),
                fills: Counter::default(),
            }),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Err(UffdError::KernelTooOld),
            Err(source) => Err(UffdError::Os {
                op: "agree on features",
                source,
            }),
        }
    }

    /// Opens the device once for all userfaultfds of this process to come, for a process that opens
    /// no file later.
    ///
    /// # Errors
    /// What open(2) says.
    pub fn keep_device() -> io::Result<()> {
        if DEVICE.get().is_none() {
            let _ = DEVICE.set(open_device_file()?);
        }
        Ok(())
    }

    fn open_device() -> Result<OwnedFd, UffdError> {
        let os = |source| UffdError::Os {
            op: "open /dev/userfaultfd",
            source,
        };
        let opened;
        let device = match DEVICE.get() {
            Some(device) => device,
            None => {
                opened = open_device_file().map_err(os)?;
                &opened
            }
        };
        // SAFETY: the ioctl takes flags by value and makes a new descriptor.
        let fd = unsafe {
            libc::ioctl(
                device.as_raw_fd(),
                USERFAULTFD_IOC_NEW,
                libc::O_CLOEXEC | libc::O_NONBLOCK,
            )
        };
        check(fd).map_err(os)?;
        // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    fn open_syscall() -> Result<OwnedFd, UffdError> {
        // SAFETY: userfaultfd(2) takes flags by value and makes a new descriptor.
        let fd =
            unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK) };
        let fd = fd as libc::c_int;
        match check(fd) {
            // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
            Ok(()) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            Err(e) => match e.raw_os_error() {
                Some(libc::EPERM) => Err(UffdError::NoPermission),
                Some(libc::ENOSYS) => Err(UffdError::KernelTooOld),
                _ => Err(UffdError::Os {
                    op: "userfaultfd(2)",
                    source: e,
                }),
            },
        }
    }

    /// Calls made so far, whatever the kernel answered; of mmap(2) it knows none.
    pub fn calls(&self) -> KernelCalls {
        KernelCalls {
            protect: self.protects.get(),
            register: self.registers.get(),
            wake: self.wakes.get(),
            fill: self.fills.get(),
            mmap: 0,
        }
    }

    /// Holds the first touch of every page of the range that has none (anonymous memory).
    pub fn register_missing(&self, start: usize, size_bytes: usize) -> io::Result<()> {
        self.register(start, size_bytes, UFFDIO_REGISTER_MODE_MISSING)
    }

    /// Makes the range fit for [`Uffd::protect`].
    pub fn register_write_protect(&self, start: usize, size_bytes: usize) -> io::Result<()> {
        self.register(start, size_bytes, UFFDIO_REGISTER_MODE_WP)
    }

    fn register(&self, start: usize, size_bytes: usize, mode: u32) -> io::Result<()> {
        self.registers.one();
        ask_for(Resource::Memory)?;
        let mut request = uffdio_register {
            range: range(start, size_bytes),
            mode: u64::from(mode),
            ioctls: 0,
        };
        // SAFETY: UFFDIO_REGISTER reads and writes one uffdio_register, which lives across the
        // call. Registering changes who answers faults in the range, not its content.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_REGISTER.into(), &mut request) })
    }

    /// Arms (`true`) or disarms the range. Before Linux 6.x it must lie within one mapping.
    /// Disarming wakes whoever waits for a page of it.
    pub fn protect(&self, start: usize, size_bytes: usize, armed: bool) -> io::Result<()> {
        self.protects.one();
        ask_for(Resource::Memory)?;
        let mode = if armed { WRITEPROTECT_MODE_WP } else { 0 };
        let mut request = uffdio_writeprotect {
            range: range(start, size_bytes),
            mode,
        };
        // SAFETY: UFFDIO_WRITEPROTECT reads one uffdio_writeprotect; it changes protection, not
        // content.
        check(unsafe {
            libc::ioctl(
                self.fd.as_raw_fd(),
                UFFDIO_WRITEPROTECT.into(),
                &mut request,
            )
        })
    }

    /// Fills the pages at `start`, which have none yet, with `bytes` (whole pages) and wakes who
    /// waits for them. A page appears as a whole, and one that is there already stays as it is.
    pub fn copy(&self, start: usize, bytes: &[u8]) -> io::Result<()> {
        page_wise(bytes.len(), |done| {
            self.fills.one();
            let mut request = uffdio_copy {
                dst: (start + done) as u64,
                src: bytes[done..].as_ptr() as u64,
                len: (bytes.len() - done) as u64,
                mode: 0,
                copy: 0,
            };
            // SAFETY: UFFDIO_COPY reads `len` bytes at `src`, which are those of the slice from
            // `done` on, and fills pages of a registered range that have none: no
            // memory that anybody has seen changes.
            let result = check(unsafe {
                libc::ioctl(self.fd.as_raw_fd(), UFFDIO_COPY.into(), &mut request)
            });
            (result, request.copy)
        })
    }

    /// Fills the pages of the range that have none yet with zeroes and wakes who waits for them.
    pub fn zero(&self, start: usize, size_bytes: usize) -> io::Result<()> {
        page_wise(size_bytes, |done| {
            self.fills.one();
            let mut request = uffdio_zeropage {
                range: range(start + done, size_bytes - done),
                mode: 0,
                zeropage: 0,
            };
            // SAFETY: UFFDIO_ZEROPAGE fills pages of a registered range that have none: no memory
            // that anybody has seen changes.
            let result = check(unsafe {
                libc::ioctl(self.fd.as_raw_fd(), UFFDIO_ZEROPAGE.into(), &mut request)
            });
            (result, request.zeropage)
        })
    }

    /// Lets whoever waits for a page of the range try again.
    pub fn wake(&self, start: usize, size_bytes: usize) -> io::Result<()> {
        self.wakes.one();
        self.wake_if_any(start, size_bytes)
    }

    /// The same where perhaps nobody waits. It is not counted, as no answer is.
    pub fn wake_if_any(&self, start: usize, size_bytes: usize) -> io::Result<()> {
        let mut request = range(start, size_bytes);
        // SAFETY: UFFDIO_WAKE reads one uffdio_range.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_WAKE.into(), &mut request) })
    }

    /// Takes the accesses that are held now; none when nobody waits.
    pub fn read(&self, faults: &mut Vec<Fault>) -> io::Result<()> {
        faults.clear();
        let mut messages = [const { MaybeUninit::<uffd_msg>::uninit() }; BATCH];
        // SAFETY: the buffer is writable for its whole size.
        let bytes = unsafe {
            libc::read(
                self.fd.as_raw_fd(),
                messages.as_mut_ptr().cast(),
                mem::size_of_val(&messages),
            )
        };
        if bytes < 0 {
            let error = io::Error::last_os_error();
            let nothing = matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
            );
            return if nothing { Ok(()) } else { Err(error) };
        }
        let count = bytes as usize / mem::size_of::<uffd_msg>();
        for message in &messages[..count] {
            // SAFETY: the kernel fills whole messages, `count` of them.
            let message = unsafe { message.assume_init_ref() };
            if u32::from(message.event) != UFFD_EVENT_PAGEFAULT {
                continue;
            }
            // SAFETY: the event is a page fault, so this is the live member of the union.
            let fault = unsafe { message.arg.pagefault };
            faults.push(Fault {
                address: fault.address as usize & !(PAGE_SIZE_BYTES - 1),
                write: fault.flags & u64::from(UFFD_PAGEFAULT_FLAG_WRITE) != 0,
                write_protected: fault.flags & u64::from(UFFD_PAGEFAULT_FLAG_WP) != 0,
            });
        }
        Ok(())
    }
}

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

static DEVICE: OnceLock<File> = OnceLock::new();

fn open_device_file() -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/userfaultfd")
}

/// Repeats `fill`, which says how many bytes it got on from `done`, or why it did not, until
/// `size_bytes` are filled.
fn page_wise(
    size_bytes: usize,
    mut fill: impl FnMut(usize) -> (io::Result<()>, i64),
) -> io::Result<()> {
    let mut done = 0;
    while done < size_bytes {
        let (result, filled) = fill(done);
        match result {
            Ok(()) => done += filled.max(0) as usize,
            // Part of it was filled.
            Err(_) if filled > 0 => done += filled as usize,
            Err(error) => match error.raw_os_error() {
                // The page is there.
                Some(libc::EEXIST) => done += PAGE_SIZE_BYTES,
                // Mappings of this process changed meanwhile.
                Some(libc::EAGAIN) => {}
                _ => return Err(error),
            },
        }
    }
    Ok(())
}

fn range(start: usize, size_bytes: usize) -> uffdio_range {
    uffdio_range {
        start: start as u64,
        len: size_bytes as u64,
    }
}
