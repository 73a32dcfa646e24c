//! Raw system calls, and all `unsafe` of this crate.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

/// The kernel takes no more than this many vectors in one call (UIO_MAXIOV).
const IOV_MAX: usize = 1024;

/// The same memory without bitmaps. Whoever has it written marks the original slices dirty.
pub(crate) fn without_bitmaps<'a, B: BitmapSlice>(
    slices: &[VolatileSlice<'a, B>],
) -> Vec<VolatileSlice<'a>> {
    let bare = slices.iter().map(|slice| {
        // SAFETY: pointer and length are those of a slice, whose memory is valid for volatile
        // access as long as `'a` lasts, and the new one does not outlive that.
        unsafe { VolatileSlice::new(slice.ptr_guard_mut().as_ptr(), slice.len()) }
    });
    bare.collect()
}

/// Fills all of `slices`, in order, from `file` at `offset_bytes`. Does not use or move the file
/// position.
///
/// # Errors
/// The read failed, or the file ended before the slices were full. Part of them may have been
/// written.
pub(crate) fn read_exact_at<B: BitmapSlice>(
    file: &File,
    slices: &[VolatileSlice<'_, B>],
    offset_bytes: u64,
) -> io::Result<()> {
    let guards: Vec<_> = slices.iter().map(VolatileSlice::ptr_guard_mut).collect();
    let iovecs = guards
        .iter()
        .map(|guard| libc::iovec {
            iov_base: guard.as_ptr().cast(),
            iov_len: guard.len(),
        })
        .collect();
    let result = transfer(iovecs, offset_bytes, |iovecs, offset| {
        // SAFETY: every vector is the memory of one of `slices`, valid for writes of its length for
        // as long as the guards live, which outlive this call. The guest may write it at
        // the same time; so may the kernel, which treats it as bytes. `transfer` passes at
        // most IOV_MAX vectors, so the count fits.
        unsafe {
            libc::preadv(
                file.as_raw_fd(),
                iovecs.as_ptr(),
                iovecs.len() as libc::c_int,
                offset,
            )
        }
    });
    for slice in slices {
        slice.bitmap().mark_dirty(0, slice.len());
    }
    result
}

/// Writes all of `slices`, in order, to `file` at `offset_bytes`. Does not use or move the file
/// position.
///
/// # Errors
/// The write failed; part of it may be in the file.
pub(crate) fn write_all_at<B: BitmapSlice>(
    file: &File,
    slices: &[VolatileSlice<'_, B>],
    offset_bytes: u64,
) -> io::Result<()> {
    let guards: Vec<_> = slices.iter().map(VolatileSlice::ptr_guard).collect();
    let iovecs = guards
        .iter()
        .map(|guard| libc::iovec {
            iov_base: guard.as_ptr().cast_mut().cast(),
            iov_len: guard.len(),
        })
        .collect();
    transfer(iovecs, offset_bytes, |iovecs, offset| {
        // SAFETY: every vector is the memory of one of `slices`, valid for reads of its length for
        // as long as the guards live, which outlive this call; pwritev does not write
        // through iov_base. The count fits, as above.
        unsafe {
            libc::pwritev(
                file.as_raw_fd(),
                iovecs.as_ptr(),
                iovecs.len() as libc::c_int,
                offset,
            )
        }
    })
}

/// Calls `call` until all of `iovecs` are done, going on where a short transfer stopped.
fn transfer(
    mut iovecs: Vec<libc::iovec>,
    offset_bytes: u64,
    mut call: impl FnMut(&[libc::iovec], libc::off_t) -> isize,
) -> io::Result<()> {
    let mut offset = libc::off_t::try_from(offset_bytes)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut rest = &mut iovecs[..];
    while !rest.is_empty() {
        let batch = rest.len().min(IOV_MAX);
        let done = call(&rest[..batch], offset);
        if done < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if done == 0 && rest.iter().any(|iovec| iovec.iov_len > 0) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        offset += done as libc::off_t;
        rest = advance(rest, done as usize);
    }
    Ok(())
}

/// Drops the first `done` bytes from `iovecs`, and vectors with nothing left.
fn advance(iovecs: &mut [libc::iovec], mut done: usize) -> &mut [libc::iovec] {
    let mut finished = 0;
    for iovec in iovecs.iter_mut() {
        if done < iovec.iov_len {
            iovec.iov_base = iovec.iov_base.cast::<u8>().wrapping_add(done).cast();
            iovec.iov_len -= done;
            break;
        }
        done -= iovec.iov_len;
        finished += 1;
    }
    &mut iovecs[finished..]
}

/// Fills `bytes` from the kernel's random number generator.
///
/// # Errors
/// The kernel refused (seccomp), which does not pass by itself.
pub(crate) fn fill_random(mut bytes: &mut [u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        // SAFETY: the pointer and length are those of a live, exclusively borrowed slice.
        let done = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
        if done < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        bytes = &mut bytes[done as usize..];
    }
    Ok(())
}

/// Takes an advisory lock on the whole of an open file without waiting, shared or exclusive. It
/// goes away with the last descriptor of this opening, however the process ends.
///
/// # Errors
/// `WouldBlock` when another opening holds a lock that excludes this one.
pub(crate) fn try_lock_file(file: &File, exclusive: bool) -> io::Result<()> {
    let operation = if exclusive {
        libc::LOCK_EX
    } else {
        libc::LOCK_SH
    };
    // SAFETY: takes a descriptor, which is open for as long as `file` is borrowed, and flags.
    if unsafe { libc::flock(file.as_raw_fd(), operation | libc::LOCK_NB) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Part of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileRange {
    pub(crate) offset_bytes: u64,
    pub(crate) len_bytes: u64,
}

/// Gives the space of a range back; the range reads as zeros then. Gives false, and nothing has
/// changed for certain, where the file system or device cannot do that.
///
/// # Errors
/// The host failed.
pub(crate) fn punch_hole(file: &File, range: FileRange) -> io::Result<bool> {
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    allocate(file, mode, range)
}

/// Makes a range read as zeros, and keeps space for it. Gives false, and nothing has changed for
/// certain, where the file system or device cannot do that.
///
/// # Errors
/// The host failed, or has no space.
pub(crate) fn zero_range(file: &File, range: FileRange) -> io::Result<bool> {
    let mode = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
    allocate(file, mode, range)
}

fn allocate(file: &File, mode: libc::c_int, range: FileRange) -> io::Result<bool> {
    let number = |bytes| {
        libc::off_t::try_from(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
    };
    let (offset, len) = (number(range.offset_bytes)?, number(range.len_bytes)?);
    if len == 0 {
        return Ok(true);
    }
    loop {
        // SAFETY: takes numbers, and a descriptor that is open for as long as `file` is borrowed.
        if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) } == 0 {
            return Ok(true);
        }
        let error = io::Error::last_os_error();
        return match error.raw_os_error() {
            Some(libc::EINTR) => continue,
            // EINVAL: a block device with larger sectors.
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL | libc::ENODEV) => Ok(false),
            _ => Err(error),
        };
    }
}

/// Reads an extended attribute of an open file.
///
/// # Errors
/// There is no such attribute, its value is longer than `bytes_max`, or the file system keeps none.
pub(crate) fn attribute(file: &File, name: &CStr, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut value = vec![0; bytes_max];
    // SAFETY: the name is a live C string; pointer and length are those of a live, exclusively
    // borrowed buffer; the descriptor is open for as long as `file` is borrowed.
    let read = unsafe {
        libc::fgetxattr(
            file.as_raw_fd(),
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            value.len(),
        )
    };
    if read < 0 {
        return Err(io::Error::last_os_error());
    }
    value.truncate(read as usize);
    Ok(value)
}

/// Sets an extended attribute of an open file.
///
/// # Errors
/// The file system keeps none or has no room, or the file is not this user's to write.
pub(crate) fn set_attribute(file: &File, name: &CStr, value: &[u8]) -> io::Result<()> {
    // SAFETY: the name is a live C string; pointer and length are those of a live slice, which is
    // only read; the descriptor is open for as long as `file` is borrowed.
    let set = unsafe {
        libc::fsetxattr(
            file.as_raw_fd(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// A timer. Its descriptor is readable from the time that was set until the timer is stopped or set
/// anew.
#[derive(Debug)]
pub(crate) struct Timer(OwnedFd);

impl Timer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// The process has too many open files.
    pub(crate) fn new() -> io::Result<Self> {
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: takes numbers.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just made this descriptor, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Has it fire once, after this time, which is not zero.
    ///
    /// # Errors
    /// The kernel refused (seccomp).
    pub(crate) fn set(&self, after: Duration) -> io::Result<()> {
        let never = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let value = libc::itimerspec {
            it_interval: never,
            it_value: libc::timespec {
                tv_sec: after.as_secs().min(i32::MAX as u64) as libc::time_t,
                tv_nsec: after.subsec_nanos().into(),
            },
        };
        // SAFETY: the descriptor is open as long as this lives, the value is live and only read,
        // and the old value is not asked for.
        let set = unsafe { libc::timerfd_settime(self.fd(), 0, &value, std::ptr::null_mut()) };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Has it not fire, and makes its descriptor unreadable.
    pub(crate) fn stop(&self) {
        if let Err(error) = self.set(Duration::ZERO) {
            tracing::error!(%error, "a timer cannot be stopped");
        }
    }
}

/// A second descriptor of an open file, closed when another program is executed.
///
/// # Errors
/// Nothing is open at `number`, or the process has too many open files.
pub(crate) fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers; one at which nothing is open is refused.
    let fd = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Asks for the MTU of an interface (`linux/sockios.h`).
const SIOCGIFMTU: libc::Ioctl = 0x8921;

/// Request of a TAP device: `struct ifreq` with flags, or with the MTU, behind the name.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    value: [u8; 24],
}

/// Name and flags (`IFF_*`) of a TAP device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TapFlags {
    pub(crate) name: Vec<u8>,
    pub(crate) flags: u16,
}

impl TapFlags {
    fn request(&self) -> io::Result<InterfaceRequest> {
        let mut request = InterfaceRequest::default();
        // The last byte ends the name.
        let room = request.name.len() - 1;
        if self.name.is_empty() || self.name.len() > room {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        request.name[..self.name.len()].copy_from_slice(&self.name);
        request.value[..2].copy_from_slice(&self.flags.to_ne_bytes());
        Ok(request)
    }

    fn of(request: &InterfaceRequest) -> Self {
        let name = request.name.split(|byte| *byte == 0).next();
        Self {
            name: name.unwrap_or_default().to_vec(),
            flags: u16::from_ne_bytes([request.value[0], request.value[1]]),
        }
    }
}

fn interface_ioctl(
    fd: RawFd,
    command: libc::Ioctl,
    request: &mut InterfaceRequest,
) -> io::Result<()> {
    // SAFETY: the commands that are given here read and write a `struct ifreq`, which has the
    // length and the alignment of the live, exclusively borrowed `request`.
    if unsafe { libc::ioctl(fd, command, std::ptr::from_mut(request)) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Makes an opening of `/dev/net/tun` a queue of a TAP device.
///
/// # Errors
/// The name is no name, or the kernel refuses it.
pub(crate) fn attach_tap(tun: &File, tap: &TapFlags) -> io::Result<()> {
    interface_ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &mut tap.request()?)
}

/// Name and flags of the TAP device that `file` is a queue of.
///
/// # Errors
/// The file is no queue of a TAP device.
pub(crate) fn tap_flags(file: &File) -> io::Result<TapFlags> {
    let mut request = InterfaceRequest::default();
    interface_ioctl(file.as_raw_fd(), libc::TUNGETIFF, &mut request)?;
    Ok(TapFlags::of(&request))
}

/// The MTU of an interface in the network namespace of `socket`, in bytes.
///
/// # Errors
/// There is no such interface.
pub(crate) fn interface_mtu(socket: &impl AsRawFd, tap: &TapFlags) -> io::Result<u32> {
    let mut request = tap.request()?;
    interface_ioctl(socket.as_raw_fd(), SIOCGIFMTU, &mut request)?;
    let [a, b, c, d, ..] = request.value;
    Ok(u32::from_ne_bytes([a, b, c, d]))
}

/// Has a queue of a TAP device be used, or not.
///
/// # Errors
/// The kernel refuses it.
pub(crate) fn use_tap_queue(queue: &File, used: bool) -> io::Result<()> {
    let flags = match used {
        true => libc::IFF_ATTACH_QUEUE,
        false => libc::IFF_DETACH_QUEUE,
    };
    let mut request = InterfaceRequest::default();
    request.value[..2].copy_from_slice(&(flags as u16).to_ne_bytes());
    interface_ioctl(queue.as_raw_fd(), libc::TUNSETQUEUE, &mut request)
}

/// Sets the length of the header before each packet of a TAP device, in bytes.
///
/// # Errors
/// The kernel refuses it.
pub(crate) fn set_tap_header_bytes(tap: &File, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: the command reads an int, which is live; the descriptor is open.
    let set = unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const bytes) };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Tells a TAP device what its packets may lack (`TUN_F_*`).
///
/// # Errors
/// The kernel does not know one of these.
pub(crate) fn set_tap_offloads(tap: &File, offloads: libc::c_uint) -> io::Result<()> {
    let offloads = libc::c_ulong::from(offloads);
    // SAFETY: the command takes a number; the descriptor is open.
    if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// True when one of `events` (POLLIN, POLLOUT), an error or a hang-up comes on `fd` within
/// `timeout`.
///
/// # Errors
/// The descriptor cannot be polled.
pub(crate) fn poll_ready(fd: RawFd, events: libc::c_short, timeout: Duration) -> io::Result<bool> {
    let timeout_ms = libc::c_int::try_from(timeout.as_millis()).unwrap_or(libc::c_int::MAX);
    loop {
        let mut entry = libc::pollfd {
            fd,
            events,
            revents: 0,
        };
        // SAFETY: the pointer is to one live entry and the count is 1; a bad descriptor is reported
        // in `revents`.
        let ready = unsafe { libc::poll(&mut entry, 1, timeout_ms) };
        if ready >= 0 {
            return Ok(ready > 0);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
#[path = "sys_test.rs"]
mod sys_test;
