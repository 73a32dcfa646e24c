//! Namespaces of the VM process's own, with an empty root.
//!
//! There is no PID namespace: it would need one more process for each VM, and the pool's holder
//! slots, the records of VMs and the locks of others name a VM process by its number. The filters
//! forbid what it would hide: signals, ptrace, pidfds, and the memory of other processes.

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, getegid, geteuid, pivot_root};

const OWN: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWNET);

/// Moves this process, which has one thread, into namespaces of its own whose root is empty and
/// read-only. False where the kernel does not allow it; then Landlock and seccomp hold alone.
pub fn enter(place: &Path) -> bool {
    match own_namespaces().and_then(|()| empty_root(place)) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(
                %error,
                "the kernel does not allow the VM process namespaces of its own: it goes without"
            );
            false
        }
    }
}

fn own_namespaces() -> nix::Result<()> {
    let (user, group) = (geteuid(), getegid());
    match unshare(CloneFlags::CLONE_NEWUSER | OWN) {
        Ok(()) => {
            // The same numbers inside and outside: owners of files and peers of sockets stay what
            // they are.
            let errno = |e: std::io::Error| {
                nix::Error::from_raw(e.raw_os_error().unwrap_or(nix::libc::EIO))
            };
            fs::write("/proc/self/setgroups", "deny").map_err(errno)?;
            fs::write("/proc/self/uid_map", format!("{user} {user} 1")).map_err(errno)?;
            fs::write("/proc/self/gid_map", format!("{group} {group} 1")).map_err(errno)
        }
        // Root needs no user namespace for the others.
        Err(_) if user.is_root() => unshare(OWN),
        Err(error) => Err(error),
    }
}

/// Puts an empty file system in place of the root, and lets go of the old one. Open files stay.
fn empty_root(place: &Path) -> nix::Result<()> {
    let none = None::<&str>;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(
        Some("nvvmm"),
        place,
        Some("tmpfs"),
        flags,
        Some("size=4k,nr_inodes=1,mode=555"),
    )?;
    chdir(place)?;
    // The old root comes to lie on the new one (pivot_root(2)).
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    chdir("/")?;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(none, "/", none, flags | read_only, none)
}
