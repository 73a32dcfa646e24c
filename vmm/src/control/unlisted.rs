//! VMs whose files were removed under them: somebody cleaned the runtime directory.
//!
//! Their sockets are bound still, at paths that lead nowhere. The kernel lists them
//! (/proc/net/unix), so a command can tell that such a VM runs. It cannot connect to it any more:
//! what is left is a signal to the process, which carries the VM's name ([`process_name`]).

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::registry::check_vm_name;
use crate::sys::peer::{NamedProcess, PeerError};

/// Flag of a socket that takes connections (`__SO_ACCEPTCON`, include/linux/net.h).
const LISTENS: u32 = 1 << 16;
/// Time that a VM process which ends has sockets without files.
const ENDING: Duration = Duration::from_millis(1000);
const ENDING_POLL: Duration = Duration::from_millis(50);
/// Longest name of a process, in bytes (prctl(2), PR_SET_NAME).
const PROCESS_NAME_BYTES_MAX: usize = 15;

/// The name of the process of a VM in `ps` and `top`: `nvvmm:web`, cut off if it is long.
pub fn process_name(vm: &str) -> String {
    let mut name = format!("nvvmm:{vm}");
    name.truncate(PROCESS_NAME_BYTES_MAX);
    name
}

/// Names of VMs that listen at control sockets in `directory`, though there is no such file; only
/// those that `is_meant`.
pub(super) fn vms(directory: &Path, is_meant: impl Fn(&str) -> bool) -> Vec<String> {
    let until = Instant::now() + ENDING;
    loop {
        let mut names = names_now(directory);
        names.retain(|name| is_meant(name));
        // A process that ends or begins is in between for a moment.
        if names.is_empty() || Instant::now() >= until {
            return names;
        }
        std::thread::sleep(ENDING_POLL);
    }
}

fn names_now(directory: &Path) -> Vec<String> {
    // Not text only: anybody may bind a socket at any path.
    let sockets = fs::read("/proc/net/unix").unwrap_or_default();
    let mut names: Vec<String> = sockets
        .split(|byte| *byte == b'\n')
        .filter_map(|line| listening_at(line, directory))
        .filter(|name| !directory.join(format!("{name}.sock")).exists())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The name of the VM of a line of /proc/net/unix, if it listens at a control socket in
/// `directory`: `Num: RefCount Protocol Flags Type St Inode Path`.
fn listening_at(line: &[u8], directory: &Path) -> Option<String> {
    let mut rest = line;
    let mut flags = None;
    for field in 0..7 {
        let end = rest.iter().position(|byte| *byte == b' ')?;
        let text = std::str::from_utf8(&rest[..end]).ok()?;
        if field == 3 {
            flags = u32::from_str_radix(text, 16).ok();
        }
        rest = rest[end..].trim_ascii_start();
    }
    let name = rest.strip_prefix(directory.as_os_str().as_bytes())?;
    let name = name.strip_prefix(b"/")?.strip_suffix(b".sock")?;
    let name = std::str::from_utf8(name).ok()?;
    (flags? & LISTENS != 0 && check_vm_name(name).is_ok()).then(|| name.to_owned())
}

/// The process of a VM, by its name.
///
/// # Errors
/// [`PeerError::Ended`] when there is none of this user, [`PeerError::Ambiguous`] when there are
/// several.
pub(super) fn process_of(vm: &str) -> Result<NamedProcess, PeerError> {
    let name = process_name(vm);
    let is_whole = name.len() == "nvvmm:".len() + vm.len();
    let is_it = |pid: u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = arguments.split(|byte| *byte == 0);
        arguments.any(|argument| {
            argument == vm.as_bytes() || argument.strip_prefix(b"--name=") == Some(vm.as_bytes())
        })
    };
    NamedProcess::called(&name, |pid| is_whole || is_it(pid))
}

#[cfg(test)]
#[path = "unlisted_test.rs"]
mod unlisted_test;
