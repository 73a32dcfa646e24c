//! System calls that each kind of thread needs. `docs/inside/sandbox.md` shows the same table.
//!
//! The lists come from traces of the tests (`strace -f`), and from what the standard library and
//! glibc do in a thread that allocates, logs, waits, panics or ends.

use libc::*;
use nvvmm::threads::ThreadKind;

/// A system call, and the arguments with which it is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its number.
    pub number: i64,
    /// Its name, for the documents' table.
    #[cfg_attr(not(test), expect(dead_code, reason = "only a test makes the table"))]
    pub name: &'static str,
    /// Arguments with which it is allowed.
    pub when: When,
}

/// A condition on an argument, counted from 0.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// Any argument.
    Always,
    /// The lower half of this argument is one of these.
    OneOf(u8, &'static [u64]),
    /// The lower half of this argument is not this value.
    Not(u8, u64),
    /// The lower half of this argument, under this mask, is one of these.
    Masked(u8, u64, &'static [u64]),
    /// This argument is the number of this process.
    OwnProcess(u8),
}

use When::{Masked, Not, OneOf, OwnProcess};

/// `SYS_read` or `SYS_read: condition`.
macro_rules! calls {
    ($($number:ident $(: $when:expr)?),* $(,)?) => {
        &[$(Call {
            number: $number,
            name: stringify!($number),
            when: calls!(@ $($when)?),
        }),*]
    };
    (@) => { When::Always };
    (@ $when:expr) => { $when };
}

/// Memory that is mapped is never executable.
const NO_EXEC: When = Masked(2, PROT_EXEC as u64, &[0]);
/// The handler that tells of forbidden calls stays.
const NOT_SIGSYS: When = Not(0, SIGSYS as u64);
/// Type and number of an ioctl's command, without the size of its argument.
const COMMAND: u64 = 0xffff;
/// The type of an ioctl's command.
const TYPE: u64 = 0xff00;

const KVM_RUN: u64 = 0xae80;
/// The address of a failure, for its message.
const KVM_GET_REGS: u64 = 0xae81;
/// Tells the guest that it stood still.
const KVM_KVMCLOCK_CTRL: u64 = 0xaead;
const KVM: u64 = 0xae00;
const USERFAULTFD: u64 = 0xaa00;
/// `UFFDIO_*`: register, unregister, wake, copy, zero page, write-protect.
const UFFDIO: &[u64] = &[0xaa00, 0xaa01, 0xaa02, 0xaa03, 0xaa04, 0xaa06];
/// Settings of the terminal, and bytes that wait in a pipe or a stream.
const TERMINAL: &[u64] = &[
    TCGETS, TCSETS, TCSETSW, TCSETSF, TIOCGWINSZ, FIONREAD, FIONBIO,
];

/// Settings of a TAP device that is open: offloads, and queues in use.
const TAP: &[u64] = &[TUNSETOFFLOAD, TUNSETQUEUE];

/// A thread of glibc, with and without the flag that musl adds; nothing else may be cloned.
const THREAD_FLAGS: &[u64] = &[0x3d_0f00, 0x7d_0f00];

/// Calls of every thread: memory, waiting, logs, time, and its end.
pub const EVERY: &[Call] = calls![
    SYS_read,
    SYS_write,
    SYS_writev,
    SYS_pread64,
    SYS_ftruncate,
    SYS_close,
    SYS_futex,
    SYS_poll,
    SYS_ppoll,
    SYS_mmap: NO_EXEC,
    SYS_mprotect: NO_EXEC,
    SYS_munmap,
    SYS_mremap,
    SYS_madvise,
    SYS_brk,
    SYS_rt_sigaction: NOT_SIGSYS,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sigaltstack,
    SYS_restart_syscall,
    SYS_sendto,
    SYS_sched_yield,
    SYS_sched_getaffinity,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_getrandom,
    SYS_getpid,
    SYS_gettid,
    SYS_tgkill: OwnProcess(0),
    SYS_prctl: OneOf(0, &[PR_SET_NAME as u64, PR_GET_NAME as u64, PR_SET_NO_NEW_PRIVS as u64]),
    SYS_seccomp: OneOf(0, &[SECCOMP_SET_MODE_FILTER as u64]),
    SYS_set_robust_list,
    SYS_rseq,
    SYS_exit,
    SYS_exit_group,
];

/// Calls of builds with debug assertions: the end of the process at a fault point, and what the
/// standard library asserts of each descriptor that it closes.
static DEBUGGING: &[Call] = if cfg!(debug_assertions) {
    calls![
        SYS_kill: OwnProcess(0),
        SYS_fcntl: OneOf(1, &[F_GETFD as u64]),
    ]
} else {
    &[]
};

/// Calls on the pool's file: locks, space, durability, and reading without filling holes.
const POOL: &[Call] = calls![
    SYS_fcntl: OneOf(1, FCNTL),
    SYS_fstat,
    SYS_fstatfs,
    SYS_lseek,
    SYS_pwrite64,
    SYS_fallocate,
    SYS_fadvise64,
    SYS_fsync,
    SYS_fdatasync,
];

const FCNTL: &[u64] = &[
    F_DUPFD_CLOEXEC as u64,
    F_GETFD as u64,
    F_SETFD as u64,
    F_GETFL as u64,
    F_SETFL as u64,
    F_OFD_GETLK as u64,
    F_OFD_SETLK as u64,
    F_OFD_SETLKW as u64,
];

/// Calls on streams that are connected already. Nothing can be connected, bound or listened at.
const STREAMS: &[Call] = calls![
    SYS_accept4,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_sendmsg,
    SYS_shutdown,
    SYS_getpeername,
    SYS_getsockopt,
    SYS_setsockopt,
];

/// Calls that begin a thread.
const SPAWN: &[Call] = calls![SYS_clone: OneOf(0, THREAD_FLAGS)];

const VCPU: &[Call] = calls![
    SYS_ioctl: Masked(1, COMMAND, &[KVM_RUN, KVM_GET_REGS, KVM_KVMCLOCK_CTRL]),
];

const MEMORY: &[Call] = calls![
    SYS_ioctl: Masked(1, COMMAND, UFFDIO),
];

const DEVICES: &[Call] = calls![
    SYS_ioctl: OneOf(1, TERMINAL),
    SYS_ioctl: OneOf(1, TAP),
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_wait,
    SYS_epoll_pwait,
    SYS_eventfd2,
    SYS_preadv,
    SYS_pwritev,
    SYS_fsetxattr,
    SYS_timerfd_settime,
];

const CONTROL: &[Call] = calls![
    SYS_ioctl: OneOf(1, TERMINAL),
    SYS_recvfrom,
    SYS_fcntl: OneOf(1, FCNTL),
];

/// Machines are built and operations carried out with all of KVM and of userfaultfd.
const OPERATIONS: &[Call] = calls![
    SYS_ioctl: Masked(1, TYPE, &[KVM, USERFAULTFD]),
    SYS_ioctl: OneOf(1, TERMINAL),
    SYS_ioctl: OneOf(1, TAP),
    SYS_eventfd2,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_wait,
    SYS_epoll_pwait,
    SYS_pipe2,
    SYS_dup,
    SYS_dup2,
    SYS_flock,
    SYS_fsetxattr,
    SYS_preadv,
    SYS_pwritev,
    SYS_timerfd_create,
    SYS_timerfd_settime,
    SYS_socketpair: OneOf(0, &[AF_UNIX as u64]),
];

/// The lists of a kind of thread. [`ThreadKind::Operations`] has all that the others have: it
/// starts them.
pub fn of(kind: ThreadKind) -> Vec<&'static [Call]> {
    let own: &[&[Call]] = match kind {
        ThreadKind::Vcpu => &[VCPU],
        ThreadKind::Memory => &[POOL, MEMORY],
        ThreadKind::Devices => &[POOL, STREAMS, DEVICES],
        ThreadKind::Control => &[SPAWN, CONTROL],
        ThreadKind::Operations => &[POOL, STREAMS, SPAWN, OPERATIONS],
    };
    [&[EVERY, DEBUGGING, REFUSED_ELSEWHERE, UNKNOWN], own].concat()
}

/// Calls of the helper: requests and answers, connections to unix sockets, and under the registry's
/// locks the removal of files and the note of the VM's end. Any other fails with EPERM.
pub const HELPER: &[Call] = calls![
    SYS_recvmsg,
    SYS_sendmsg,
    SYS_sendto,
    SYS_socket: OneOf(0, &[AF_UNIX as u64]),
    SYS_connect,
    SYS_openat,
    SYS_flock,
    SYS_rename,
    SYS_unlink,
    SYS_read,
    SYS_write,
    SYS_fstat,
    SYS_statx,
    SYS_newfstatat,
    SYS_lseek,
    SYS_poll,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_close,
    SYS_brk,
    SYS_mmap: NO_EXEC,
    SYS_munmap,
    SYS_futex,
    SYS_rt_sigreturn,
    SYS_exit_group,
];

/// Calls that a filter of its own refuses, for all or some arguments; to all others they are
/// allowed.
const REFUSED_ELSEWHERE: &[Call] = calls![
    SYS_open,
    SYS_openat,
    SYS_stat,
    SYS_lstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_access,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_readlink,
    SYS_readlinkat,
    SYS_unlink,
    SYS_unlinkat,
    SYS_getcwd,
];

/// Calls that open, or look at, files by their paths. They fail with EACCES instead of ending the
/// process: libraries try some of them and can do without.
pub const REFUSED: &[Call] = calls![
    SYS_open,
    SYS_openat,
    SYS_stat,
    SYS_lstat,
    SYS_newfstatat: Masked(3, AT_EMPTY_PATH as u64, &[0]),
    SYS_statx: Masked(2, AT_EMPTY_PATH as u64, &[0]),
    SYS_access,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_readlink,
    SYS_readlinkat,
    SYS_unlink,
    SYS_unlinkat,
    SYS_getcwd,
];

/// Calls that fail with ENOSYS. glibc then takes the older clone, whose flags a filter can see.
pub const UNKNOWN: &[Call] = calls![SYS_clone3];

#[cfg(test)]
#[path = "calls_test.rs"]
mod calls_test;
