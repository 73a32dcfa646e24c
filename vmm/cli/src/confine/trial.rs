//! Attempts at what a confined command must not do, for tests. Release builds lack this.

use std::fs::{self, File};
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::kill;
use nix::unistd::{Pid, getppid};

use crate::sys::call;

/// Variable that names the attempt.
const VARIABLE: &str = "NVVMM_TEST_TRY";

/// Makes the attempt that the environment names, says how it ended, and lets the command go on.
pub fn try_what_is_asked() {
    let Ok(what) = std::env::var(VARIABLE) else {
        return;
    };
    match attempt(&what) {
        Ok(()) => eprintln!("{VARIABLE}: {what} was done"),
        Err(error) => eprintln!("{VARIABLE}: {what} was refused: {error}"),
    }
}

fn attempt(what: &str) -> io::Result<()> {
    let parent = getppid().as_raw() as usize;
    let raw = |number, arguments| call(number, arguments).map(drop);
    match what {
        "read" => File::open("/etc/passwd").map(drop),
        "list" => fs::read_dir("/").map(drop),
        "create" => File::create(format!("/tmp/nvvmm-trial-{}", std::process::id())).map(drop),
        "remove" => fs::remove_file(std::env::var("NVVMM_TEST_TRY_FILE").unwrap_or_default()),
        "rename" => {
            let file = std::env::var("NVVMM_TEST_TRY_FILE").unwrap_or_default();
            fs::rename(&file, format!("{file}.renamed"))
        }
        "exec" => Err(Command::new("/bin/true").exec()),
        "spawn" => Command::new("/bin/true").status().map(drop),
        "tcp" => TcpStream::connect("127.0.0.1:1").map(drop),
        "unix" => UnixStream::connect("/nonexistent").map(drop),
        "kill" => kill(Pid::from_raw(parent as i32), None).map_err(Into::into),
        "signal" => kill(Pid::from_raw(-1), None).map_err(Into::into),
        // PTRACE_SEIZE
        "ptrace" => raw(libc::SYS_ptrace, [0x4206, parent, 0, 0]),
        "read-memory" => raw(libc::SYS_process_vm_readv, [parent, 0, 0, 0]),
        "mount" => raw(libc::SYS_mount, [0, 0, 0, 0]),
        "unshare" => raw(libc::SYS_unshare, [libc::CLONE_NEWUSER as usize, 0, 0, 0]),
        "bpf" => raw(libc::SYS_bpf, [0, 0, 0, 0]),
        "keyctl" => raw(libc::SYS_keyctl, [0, 0, 0, 0]),
        "userfaultfd" => raw(libc::SYS_userfaultfd, [0, 0, 0, 0]),
        "io-uring" => raw(libc::SYS_io_uring_setup, [0, 0, 0, 0]),
        "setuid" => raw(libc::SYS_setuid, [65534, 0, 0, 0]),
        "type" => raw(libc::SYS_ioctl, [0, libc::TIOCSTI as usize, 0, 0]),
        other => panic!("there is no attempt '{other}'"),
    }
}
