//! System calls about other processes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::check;
use crate::arch;

/// A flag of clone3(2); libc has it in a type that is too narrow.
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// The name of a process that only stands and waits, once it is ready.
pub const WITNESS_NAME: &std::ffi::CStr = c"nvvmm-witness";
/// The type of an open file's owner that is a thread.
pub const OWNER_THREAD: i32 = 0;
/// The type of an open file's owner that is a process group.
pub const OWNER_GROUP: i32 = 2;
const KCMP_FILE: i32 = 0;
const KCMP_VM: i32 = 1;
const KCMP_FILES: i32 = 2;
const KCMP_FS: i32 = 3;

/// A resource that a thread may share with another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileTable {
    /// Its memory.
    Memory,
    /// Its file descriptors.
    Descriptors,
    /// Working directory, root and umask.
    Directories,
}

/// The scheduling of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// SCHED_OTHER and so on, with SCHED_RESET_ON_FORK.
    pub policy: i32,
    /// Priority in a real-time policy; otherwise 0.
    pub priority: i32,
}

/// Starts a process, with this pid if one is given. It waits for ever and has no signal handlers.
/// The caller is to seize it.
pub fn clone_stub(pid: Option<i32>) -> io::Result<i32> {
    let set_tid = [pid.unwrap_or_default()];
    // SAFETY: clone_args is plain numbers: all zero is one.
    let mut request: libc::clone_args = unsafe { std::mem::zeroed() };
    request.flags = CLONE_CLEAR_SIGHAND;
    request.exit_signal = libc::SIGCHLD as u64;
    if pid.is_some() {
        request.set_tid = set_tid.as_ptr() as u64;
        request.set_tid_size = 1;
    }
    // SAFETY: without CLONE_VM this is a fork: the child has memory of its own, and does nothing in
    // it but to call pause(2) for ever, so no lock that another thread held matters. set_tid
    // lives through the call.
    unsafe {
        let child = libc::syscall(libc::SYS_clone3, &raw mut request, size_of_val(&request));
        if child == 0 {
            loop {
                libc::syscall(arch::SYS_PAUSE);
            }
        }
        check(child).map(|pid| pid as i32)
    }
}

/// Starts a process of this user and group that has no privileges and no open files, and waits for
/// ever. It ends with this process.
pub fn clone_witness(user: u32, group: u32) -> io::Result<i32> {
    // SAFETY: clone_args is plain numbers: all zero is one.
    let mut request: libc::clone_args = unsafe { std::mem::zeroed() };
    request.flags = CLONE_CLEAR_SIGHAND;
    request.exit_signal = libc::SIGCHLD as u64;
    // struct __user_cap_header_struct, and two of __user_cap_data_struct: no capabilities.
    let (header, none) = ([CAPABILITY_VERSION, 0], [0u32; 6]);
    // SAFETY: without CLONE_VM this is a fork: the child has memory of its own, and makes nothing
    // but system calls with numbers and with its copies of header and none.
    unsafe {
        let child = libc::syscall(libc::SYS_clone3, &raw mut request, size_of_val(&request));
        if child == 0 {
            libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
            libc::syscall(libc::SYS_setresgid, group, group, group);
            libc::syscall(libc::SYS_setresuid, user, user, user);
            libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr());
            libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // Last: it says that all of this is done.
            libc::syscall(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 1);
            libc::syscall(libc::SYS_prctl, libc::PR_SET_NAME, WITNESS_NAME.as_ptr());
            loop {
                libc::syscall(arch::SYS_PAUSE);
            }
        }
        check(child).map(|pid| pid as i32)
    }
}

/// True if this kernel can confine processes by Landlock.
pub fn has_landlock() -> bool {
    const VERSION: u32 = 1;
    // SAFETY: the call takes numbers only, and makes nothing.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0usize, 0usize, VERSION) > 0 }
}

/// True if a thread of this machine can have the L1 cache flushed for it.
pub fn can_flush_l1d() -> bool {
    const PR_GET_SPECULATION_CTRL: i32 = 52;
    const PR_SPEC_L1D_FLUSH: usize = 2;
    const PR_SPEC_PRCTL: i32 = 1;
    // SAFETY: the call takes numbers only.
    let answer = unsafe {
        libc::prctl(
            PR_GET_SPECULATION_CTRL,
            PR_SPEC_L1D_FLUSH,
            0usize,
            0usize,
            0usize,
        )
    };
    answer > 0 && answer & PR_SPEC_PRCTL != 0
}

/// The cookie of core scheduling of a thread; 0: none, or the kernel has no such thing.
pub fn core_cookie(tid: i32) -> u64 {
    const PR_SCHED_CORE: i32 = 62;
    let mut cookie = 0u64;
    // SAFETY: the kernel writes the eight bytes of cookie.
    let asked =
        unsafe { libc::prctl(PR_SCHED_CORE, 0usize, tid as usize, 0usize, &raw mut cookie) };
    if asked == 0 { cookie } else { 0 }
}

/// Reads who gets the signals of an open file: the type and the number, if it is anybody, and the
/// signal in place of SIGIO.
pub fn file_owner(file: BorrowedFd) -> io::Result<(Option<(i32, i32)>, i32)> {
    const F_GETSIG: i32 = 11;
    const F_GETOWN_EX: i32 = 16;
    // struct f_owner_ex.
    let mut owner = [0i32; 2];
    // SAFETY: the kernel writes the two numbers of owner.
    check(unsafe { libc::fcntl(file.as_raw_fd(), F_GETOWN_EX, owner.as_mut_ptr()) }.into())?;
    // SAFETY: the call takes numbers only.
    let signal = check(unsafe { libc::fcntl(file.as_raw_fd(), F_GETSIG) }.into())?;
    let owner = (owner[1] != 0).then_some((owner[0], owner[1]));
    Ok((owner, signal as i32))
}

/// Locks a range of a file, for the open file (F_OFD_SETLK): EAGAIN if somebody else has it.
pub fn lock_range(file: BorrowedFd, exclusive: bool, start: u64, len_bytes: u64) -> io::Result<()> {
    // SAFETY: flock is plain numbers: all zero is one.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = if exclusive {
        libc::F_WRLCK
    } else {
        libc::F_RDLCK
    } as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    (lock.l_start, lock.l_len) = (start as i64, len_bytes as i64);
    // SAFETY: the kernel reads lock.
    let set = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    check(set.into()).map(drop)
}

/// Locks a file as a whole, for the open file (flock(2)): EAGAIN if somebody else has it.
pub fn lock_whole(file: BorrowedFd, exclusive: bool) -> io::Result<()> {
    let how = if exclusive {
        libc::LOCK_EX
    } else {
        libc::LOCK_SH
    };
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::flock(file.as_raw_fd(), how | libc::LOCK_NB) }.into()).map(drop)
}

/// Sends a signal to a process.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// A descriptor for a process.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only; what it returns is a fresh descriptor.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

/// A copy of a descriptor of another process: the same open file.
pub fn pidfd_getfd(process: BorrowedFd, fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only; what it returns is a fresh descriptor.
    unsafe {
        let fd = check(libc::syscall(
            libc::SYS_pidfd_getfd,
            process.as_raw_fd(),
            fd,
            0,
        ))?;
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

fn kcmp(a: i32, b: i32, kind: i32, x: u64, y: u64) -> io::Result<bool> {
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_kcmp, a, b, kind, x, y) }).map(|order| order == 0)
}

/// True if two descriptors, each of a process, are one open file.
pub fn same_open_file(a: (i32, i32), b: (i32, i32)) -> io::Result<bool> {
    kcmp(a.0, b.0, KCMP_FILE, a.1 as u64, b.1 as u64)
}

/// True if two threads share this resource.
pub fn share_table(a: i32, b: i32, table: FileTable) -> io::Result<bool> {
    let kind = match table {
        FileTable::Memory => KCMP_VM,
        FileTable::Descriptors => KCMP_FILES,
        FileTable::Directories => KCMP_FS,
    };
    kcmp(a, b, kind, 0, 0)
}

/// A thread's list of robust futexes: address and length.
pub fn robust_list(tid: i32) -> io::Result<(u64, u64)> {
    let (mut head, mut len) = (0u64, 0u64);
    // SAFETY: the kernel writes a pointer and a size_t to where head and len are.
    check(unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) })?;
    Ok((head, len))
}

/// The CPUs a thread may run on, as the kernel's bit mask.
pub fn affinity(tid: i32) -> io::Result<Vec<u8>> {
    let mut mask = vec![0u8; 1024];
    // SAFETY: the kernel writes at most the length of mask.
    let len = check(unsafe {
        libc::syscall(
            libc::SYS_sched_getaffinity,
            tid,
            mask.len(),
            mask.as_mut_ptr(),
        )
    })?;
    mask.truncate(len as usize);
    Ok(mask)
}

/// Sets the CPUs a thread may run on; EINVAL when this machine has none of them.
pub fn set_affinity(tid: i32, mask: &[u8]) -> io::Result<()> {
    // SAFETY: the kernel reads the length of mask.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, tid, mask.len(), mask.as_ptr()) })
        .map(drop)
}

/// Reads the scheduling of a thread.
pub fn schedule(tid: i32) -> io::Result<Schedule> {
    let mut param = libc::sched_param { sched_priority: 0 };
    // SAFETY: param is a valid place for the kernel to write to.
    unsafe {
        let policy = check(libc::syscall(libc::SYS_sched_getscheduler, tid))? as i32;
        check(libc::syscall(libc::SYS_sched_getparam, tid, &raw mut param))?;
        Ok(Schedule {
            policy,
            priority: param.sched_priority,
        })
    }
}

/// Sets the scheduling of a thread.
pub fn set_schedule(tid: i32, schedule: Schedule) -> io::Result<()> {
    let param = libc::sched_param {
        sched_priority: schedule.priority,
    };
    // SAFETY: the kernel reads param.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_setscheduler,
            tid,
            schedule.policy,
            &raw const param,
        )
    })
    .map(drop)
}

/// A thread's nice value, -20 to 19.
pub fn nice(tid: i32) -> io::Result<i32> {
    // SAFETY: the call takes numbers only. The raw call returns 20 - nice, which is never negative.
    check(unsafe { libc::syscall(libc::SYS_getpriority, libc::PRIO_PROCESS, tid) })
        .map(|value| 20 - value as i32)
}

/// Sets a thread's nice value.
pub fn set_nice(tid: i32, nice: i32) -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    check(unsafe { libc::syscall(libc::SYS_setpriority, libc::PRIO_PROCESS, tid, nice) }).map(drop)
}

/// A resource limit of a process: soft, hard.
pub fn limit(pid: i32, resource: u32) -> io::Result<(u64, u64)> {
    let mut found = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: no new limit is given; found is a valid place for the old one.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, 0usize, &raw mut found) })?;
    Ok((found.rlim_cur, found.rlim_max))
}

/// Sets a resource limit of a process.
pub fn set_limit(pid: i32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let new = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the kernel reads new and writes nothing.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, pid, resource, &raw const new, 0usize) })
        .map(drop)
}
