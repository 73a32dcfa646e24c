//! Files without a path whose content is memory: memfd, System V shared memory, and what several
//! processes map.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use super::check;

/// Takes the number that the next segment of System V shared memory is to have.
const NEXT_SEGMENT: &str = "/proc/sys/kernel/shm_next_id";
/// `SHM_DEST`: the segment goes away with its last user.
const SEGMENT_REMOVED: u32 = 0o1000;
/// `SHM_LOCKED`: it is never swapped.
const SEGMENT_LOCKED: u32 = 0o2000;
const MADV_POPULATE_READ: i32 = 22;

/// A file, mapped to be read. When dropped, it is unmapped.
#[derive(Debug)]
pub struct View {
    start: *mut libc::c_void,
    len_bytes: usize,
}

impl View {
    /// Maps so many bytes of a file, which may not be 0.
    pub fn new(file: BorrowedFd, len_bytes: u64) -> io::Result<Self> {
        let len_bytes = usize::try_from(len_bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let (protection, flags) = (libc::PROT_READ, libc::MAP_SHARED);
        // SAFETY: a new mapping, at an address that the kernel chooses; nothing of Rust's is in it.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len_bytes,
                protection,
                flags,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start, len_bytes })
    }

    /// Its address.
    pub fn address(&self) -> u64 {
        self.start as u64
    }

    /// Has the kernel map pages that are there, from this byte of the file on.
    pub fn populate(&self, offset: u64, len_bytes: u64) -> io::Result<()> {
        let start = self.start.wrapping_byte_add(offset as usize);
        // SAFETY: the call changes no content, and fails outside of what is mapped.
        check(unsafe { libc::madvise(start, len_bytes as usize, MADV_POPULATE_READ) }.into())
            .map(drop)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's, and nobody has references to it.
        unsafe { libc::munmap(self.start, self.len_bytes) };
    }
}

/// Makes a memfd that can be sealed.
pub fn memory_file(name: &[u8]) -> io::Result<OwnedFd> {
    let name = CString::new(name)?;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name lives through the call; what it returns is a fresh descriptor.
    unsafe {
        let fd = check(libc::memfd_create(name.as_ptr(), flags).into())?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// The file behind memory that several processes map, and that has no name (MAP_ANONYMOUS).
pub fn shared_anonymous(len_bytes: u64) -> io::Result<OwnedFd> {
    let len = usize::try_from(len_bytes).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping, at an address that the kernel chooses; nothing of Rust's is in it.
    let start = unsafe { libc::mmap(ptr::null_mut(), len, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let (from, to) = (start as usize, start as usize + len);
    let link = format!("/proc/self/map_files/{from:x}-{to:x}");
    let opened = std::fs::File::options().read(true).write(true).open(link);
    // SAFETY: the mapping was made here, and nobody has references to it.
    unsafe { libc::munmap(start, len) };
    opened.map(OwnedFd::from)
}

/// The seals of a file; none of a file that can have none.
pub fn seals(file: BorrowedFd) -> u32 {
    // SAFETY: the call takes numbers only.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    seals.max(0) as u32
}

/// Adds seals to a file.
pub fn add_seals(file: BorrowedFd, seals: u32) -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) }.into()).map(drop)
}

/// A segment of System V shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub key: i32,
    pub size_bytes: u64,
    /// True if it goes away with its last user.
    pub removed: bool,
    /// True if it is never swapped (SHM_LOCK).
    pub locked: bool,
    /// Number of mappings.
    pub users: u64,
    /// Its permissions.
    pub mode: u32,
    /// Its user and group.
    pub owner: (u32, u32),
    /// The process that made it.
    pub creator: i32,
    /// Time of its making, or of the last change of its owner or permissions, in seconds.
    pub changed_s: i64,
}

/// The segment with this number.
pub fn segment(id: i32) -> io::Result<Segment> {
    let found = segment_state(id)?;
    Ok(Segment {
        key: found.shm_perm.__key,
        size_bytes: found.shm_segsz as u64,
        removed: u32::from(found.shm_perm.mode) & SEGMENT_REMOVED != 0,
        locked: u32::from(found.shm_perm.mode) & SEGMENT_LOCKED != 0,
        users: found.shm_nattch,
        mode: u32::from(found.shm_perm.mode) & 0o777,
        owner: (found.shm_perm.uid, found.shm_perm.gid),
        creator: found.shm_cpid,
        changed_s: found.shm_ctime,
    })
}

fn segment_state(id: i32) -> io::Result<libc::shmid_ds> {
    // SAFETY: shmid_ds is plain numbers: all zero is one.
    let mut found: libc::shmid_ds = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes to found.
    check(unsafe { libc::shmctl(id, libc::IPC_STAT, &raw mut found) }.into())?;
    Ok(found)
}

/// Makes a segment with this number: an error if the kernel gives it another one.
pub fn make_segment(
    id: i32,
    key: i32,
    size_bytes: u64,
    mode: u32,
    (user, group): (u32, u32),
) -> io::Result<()> {
    std::fs::write(NEXT_SEGMENT, id.to_string())?;
    let flags = libc::IPC_CREAT | libc::IPC_EXCL | (mode & 0o777) as i32;
    // SAFETY: the call takes numbers only.
    let made = unsafe { libc::shmget(key, size_bytes as usize, flags) };
    let made = check(made.into())? as i32;
    if made != id {
        remove_segment(made)?;
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let set = || {
        let mut state = segment_state(id)?;
        (state.shm_perm.uid, state.shm_perm.gid) = (user, group);
        // SAFETY: the kernel reads state.
        check(unsafe { libc::shmctl(id, libc::IPC_SET, &raw mut state) }.into()).map(drop)
    };
    set().inspect_err(|_| drop(remove_segment(id)))
}

/// Has a segment never be swapped.
pub fn lock_segment(id: i32) -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::shmctl(id, libc::SHM_LOCK, ptr::null_mut()) }.into()).map(drop)
}

/// Has a segment go away with its last user.
pub fn remove_segment(id: i32) -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) }.into()).map(drop)
}
