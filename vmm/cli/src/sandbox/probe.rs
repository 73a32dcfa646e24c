//! Probes of the sandbox, from inside of it: a thread of a VM process tries one thing that no VM
//! needs, where its guest would be entered, tells on stderr what came of it, and ends the process.
//!
//! Only builds with debug assertions have this. `tests/kvm/sandbox.rs` sets the variable.

use std::ffi::CString;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nvvmm::threads::ThreadKind;

use super::sys::{call, write_stderr};

/// `KIND:PROBE:ARGUMENT`: the kind of thread that tries, and what.
const VARIABLE: &str = "NVVMM_TEST_INSIDE";
/// Exit code of a process in which a probe was carried out.
const PROBED: i32 = 99;
/// True once a thread makes the probe: a VM has several vCPU threads, and a mount made twice would
/// lie over the first one.
static TRIED: AtomicBool = AtomicBool::new(false);

/// Makes the probe of the environment, if it is for a thread of this kind.
pub fn run_if_asked(kind: ThreadKind) {
    let Ok(text) = std::env::var(VARIABLE) else {
        return;
    };
    let mut parts = text.splitn(3, ':');
    if parts.next() != Some(kind.name()) || TRIED.swap(true, Ordering::Relaxed) {
        return;
    }
    let (probe, argument) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let done = attempt(probe, argument);
    let outcome = match done {
        0.. => "SUCCEEDED".to_owned(),
        error => format!(
            "refused: {}",
            std::io::Error::from_raw_os_error(-error as i32)
        ),
    };
    write_stderr(format!("probe {text}: {outcome}\n").as_bytes());
    std::process::exit(PROBED);
}

/// The result of a system call: an error's number below 0.
fn attempt(probe: &str, argument: &str) -> i64 {
    let path = CString::new(argument).expect("an argument without NUL");
    let path = path.as_ptr() as usize;
    let number = argument.parse::<usize>().unwrap_or(0);
    match probe {
        "open" => open(path, libc::O_RDONLY),
        "create" => open(path, libc::O_WRONLY | libc::O_CREAT),
        "unlink" => call(libc::SYS_unlink, [path, 0, 0, 0, 0, 0]),
        "execve" => {
            let none = [0usize; 1];
            let arguments = [path, 0];
            let (list, none) = (arguments.as_ptr() as usize, none.as_ptr() as usize);
            call(libc::SYS_execve, [path, list, none, 0, 0, 0])
        }
        "fork" => match call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0, 0]) {
            0 => call(libc::SYS_exit_group, [0; 6]),
            done => done,
        },
        "ptrace" => call(
            libc::SYS_ptrace,
            [libc::PTRACE_ATTACH as usize, number, 0, 0, 0, 0],
        ),
        "read-process" => {
            let mut byte = [0u8; 1];
            let local = [byte.as_mut_ptr() as usize, 1usize];
            let at = local.as_ptr() as usize;
            call(libc::SYS_process_vm_readv, [number, at, 1, at, 1, 0])
        }
        "pidfd" => call(libc::SYS_pidfd_open, [number, 0, 0, 0, 0, 0]),
        "kill" => call(libc::SYS_kill, [number, 0, 0, 0, 0, 0]),
        "connect-tcp" => connect_tcp(number as u16),
        "connect-unix" => connect_unix(argument),
        "mount" => {
            let kind = c"tmpfs".as_ptr() as usize;
            call(libc::SYS_mount, [kind, path, kind, 0, 0, 0])
        }
        "unshare" => call(
            libc::SYS_unshare,
            [libc::CLONE_NEWNS as usize, 0, 0, 0, 0, 0],
        ),
        "bpf" => {
            // BPF_MAP_CREATE of an array with one word.
            let attributes = [2u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let at = attributes.as_ptr() as usize;
            call(libc::SYS_bpf, [0, at, size_of_val(&attributes), 0, 0, 0])
        }
        "keyctl" => {
            // KEYCTL_JOIN_SESSION_KEYRING, without a name.
            call(libc::SYS_keyctl, [1, 0, 0, 0, 0, 0])
        }
        "mmap-exec" => call(
            libc::SYS_mmap,
            [
                0,
                4096,
                (libc::PROT_READ | libc::PROT_EXEC) as usize,
                (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize,
                usize::MAX,
                0,
            ],
        ),
        "own-handler" => {
            // SIG_DFL for SIGSYS, with the kernel's structure and a mask of 8 bytes.
            let action = [0u64; 4];
            let at = action.as_ptr() as usize;
            call(
                libc::SYS_rt_sigaction,
                [libc::SIGSYS as usize, at, 0, 8, 0, 0],
            )
        }
        other => panic!("there is no probe {other:?}"),
    }
}

fn open(path: usize, flags: i32) -> i64 {
    let directory = libc::AT_FDCWD as isize as usize;
    call(
        libc::SYS_openat,
        [directory, path, flags as usize, 0o600, 0, 0],
    )
}

fn connect(socket: i64, address: &[u8]) -> i64 {
    if socket < 0 {
        return socket;
    }
    let at = address.as_ptr() as usize;
    let socket = socket as RawFd as usize;
    call(libc::SYS_connect, [socket, at, address.len(), 0, 0, 0])
}

fn socket(family: i32) -> i64 {
    call(
        libc::SYS_socket,
        [family as usize, libc::SOCK_STREAM as usize, 0, 0, 0, 0],
    )
}

fn connect_tcp(port: u16) -> i64 {
    let mut address = [0u8; 16];
    address[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    address[2..4].copy_from_slice(&port.to_be_bytes());
    address[4..8].copy_from_slice(&[127, 0, 0, 1]);
    connect(socket(libc::AF_INET), &address)
}

fn connect_unix(path: &str) -> i64 {
    let mut address = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
    address.extend_from_slice(path.as_bytes());
    address.push(0);
    connect(socket(libc::AF_UNIX), &address)
}
