//! System calls of a confined command.
//!
//! Two filters: a call of [`killing`] kills the process, as no correct program makes it here. All
//! that is not in [`allowed`] fails with ENOSYS, as on an old kernel: libraries then do without.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

/// Reasons why system calls cannot be restricted.
#[derive(Debug)]
pub struct NotRestricted(String);

impl std::fmt::Display for NotRestricted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<BackendError> for NotRestricted {
    fn from(error: BackendError) -> Self {
        Self(error.to_string())
    }
}

impl From<seccompiler::Error> for NotRestricted {
    fn from(error: seccompiler::Error) -> Self {
        Self(error.to_string())
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The networks that a process may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// None.
    None,
    /// Those of others, as their client.
    Clients,
}

/// The files that a process may use, where other rules do not forbid it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// Those that are there.
    Opened,
    /// New ones, too.
    Made,
}

/// Restricts the process with the id `own` from now on, with all its threads.
pub fn restrict(own: u32, network: Network, files: Files) -> Result<(), NotRestricted> {
    let enosys = SeccompAction::Errno(libc::ENOSYS as u32);
    let (kill, allow) = (SeccompAction::KillProcess, SeccompAction::Allow);
    for (rules, otherwise, action) in [
        (killing(own, network)?, allow.clone(), kill),
        (allowed(network, files)?, enosys, allow),
    ] {
        let filter = SeccompFilter::new(rules, otherwise, action, ARCH)?;
        apply_filter_all_threads(&BpfProgram::try_from(filter)?)?;
    }
    Ok(())
}

#[cfg(target_arch = "x86_64")]
const ARCH: TargetArch = TargetArch::x86_64;

/// Programs, other processes, networks, mounts, namespaces, credentials, and interfaces with many
/// flaws of their own.
const KILLING: &[i64] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_tkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setgroups,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capset,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_modify_ldt,
    libc::SYS_personality,
];

/// Calls for open files, for files that Landlock allows, for memory, threads, time and signals of
/// the process itself.
const ALLOWED: &[i64] = &[
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_readv,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_writev,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup2,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_ioctl,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_stat,
    libc::SYS_fstat,
    libc::SYS_lstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_select,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_pipe2,
    // Of the pair of sockets that wakes the thread for signals.
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_msync,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_brk,
    libc::SYS_membarrier,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_getcpu,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrusage,
    libc::SYS_times,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_time,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // Of other processes and without a thread group: see `killing`.
    libc::SYS_kill,
    libc::SYS_tgkill,
    libc::SYS_clone,
    // Of the helper, which has ended.
    libc::SYS_wait4,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Calls of a client of servers on networks. Names are found by UDP, and with a netlink socket.
const CLIENT: &[i64] = &[
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_setsockopt,
    libc::SYS_getsockopt,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
];

/// Calls that make files and give them other names.
const MAKING: &[i64] = &[
    libc::SYS_openat,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
];

fn killing(own: u32, network: Network) -> Result<Rules, BackendError> {
    let mut rules: Rules = KILLING.iter().map(|call| (*call, Vec::new())).collect();
    if network == Network::Clients {
        rules.retain(|call, _| !CLIENT.contains(call));
    }
    let not_own = rule(0, SeccompCmpOp::Ne, own.into())?;
    rules.insert(libc::SYS_kill, vec![not_own.clone()]);
    rules.insert(libc::SYS_tgkill, vec![not_own]);
    // Characters that the shell would read as typed.
    let typed = [libc::TIOCSTI, libc::TIOCLINUX];
    let typing = typed.map(|request| rule(1, SeccompCmpOp::Eq, request));
    rules.insert(
        libc::SYS_ioctl,
        typing.into_iter().collect::<Result<_, _>>()?,
    );
    let a_thread = libc::CLONE_THREAD as u64;
    let a_process = rule(0, SeccompCmpOp::MaskedEq(a_thread), 0)?;
    rules.insert(libc::SYS_clone, vec![a_process]);
    Ok(rules)
}

fn allowed(network: Network, files: Files) -> Result<Rules, BackendError> {
    let mut rules: Rules = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    if network == Network::Clients {
        rules.extend(CLIENT.iter().map(|call| (*call, Vec::new())));
        // No sockets of this host's own programs.
        let families = [libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
        let families = families.map(|family| rule(0, SeccompCmpOp::Eq, family as u64));
        rules.insert(
            libc::SYS_socket,
            families.into_iter().collect::<Result<_, _>>()?,
        );
    }
    // Names of threads and of mappings.
    let naming = [libc::PR_SET_NAME as u64, libc::PR_SET_VMA as u64];
    let naming = naming.map(|option| rule(0, SeccompCmpOp::Eq, option));
    rules.insert(
        libc::SYS_prctl,
        naming.into_iter().collect::<Result<_, _>>()?,
    );
    // Files are opened, not made; openat2 hides its flags.
    let made = (libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY) as u64;
    rules.insert(
        libc::SYS_openat,
        vec![rule(2, SeccompCmpOp::MaskedEq(made), 0)?],
    );
    if files == Files::Made {
        rules.extend(MAKING.iter().map(|call| (*call, Vec::new())));
    }
    // Limits are read, not set.
    let reading = rule(2, SeccompCmpOp::Eq, 0)?;
    rules.insert(libc::SYS_prlimit64, vec![reading]);
    Ok(rules)
}

/// A rule for one argument. Of most arguments the kernel looks at 32 bits only.
fn rule(argument: u8, op: SeccompCmpOp, value: u64) -> Result<SeccompRule, BackendError> {
    let length = match argument {
        2 => SeccompCmpArgLen::Qword,
        _ => SeccompCmpArgLen::Dword,
    };
    SeccompRule::new(vec![SeccompCondition::new(argument, length, op, value)?])
}

#[cfg(test)]
#[path = "calls_test.rs"]
mod calls_test;
