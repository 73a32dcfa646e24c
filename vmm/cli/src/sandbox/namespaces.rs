//! Namespaces of the VM process's own, with an empty root.
//!
//! There is no PID namespace: it would need one more process for each VM, and the pool's holder
//! slots, the records of VMs and the locks of others name a VM process by its number. The filters
//! forbid what it would hide: signals, ptrace, pidfds, and the memory of other processes.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{chdir, getegid, geteuid, pivot_root};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

const OWN: CloneFlags = CloneFlags::CLONE_NEWNS
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWNET);

/// The user namespace in `/proc/self/ns`, which gives the right to join the others.
const USER: &str = "user";
/// All others of [`OWN`].
const OTHERS: [&str; 4] = ["net", "ipc", "uts", "mnt"];
/// A directory of each host, where the empty root lies for a moment.
const PLACE: &str = "/proc";
/// Time that the maker of namespaces has. It waits for nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// Namespaces that a process of the same user makes for this one, while this one opens its files.
#[derive(Debug)]
pub struct Ordered {
    stream: UnixStream,
}

impl Ordered {
    /// Those that [`make`] sends into the other end of `stream`.
    pub fn from_stream(stream: UnixStream) -> Self {
        Self { stream }
    }

    fn receive(&self) -> io::Result<Vec<File>> {
        self.stream.set_read_timeout(Some(PATIENCE))?;
        let mut namespaces = Vec::new();
        let mut byte = [0; 1];
        loop {
            let received = self.stream.recv_with_fd(&mut byte);
            match received.map_err(|e| io::Error::from_raw_os_error(e.errno()))? {
                (_, Some(namespace)) => namespaces.push(namespace),
                _ if namespaces.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => return Ok(namespaces),
            }
        }
    }
}

/// Moves this process, which has one thread, into namespaces whose root is empty and read-only: the
/// ordered ones, or others if those were not made. False where the kernel does not allow it; then
/// Landlock and seccomp hold alone.
pub fn enter(ordered: Option<Ordered>, place: &Path) -> bool {
    if let Some(ordered) = ordered {
        match ordered.receive().and_then(|namespaces| join(&namespaces)) {
            Ok(()) => return true,
            Err(error) => tracing::debug!(%error, "the ordered namespaces did not come"),
        }
    }
    match own_namespaces().and_then(|_| empty_root(place)) {
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

fn join(namespaces: &[File]) -> io::Result<()> {
    for namespace in namespaces {
        setns(namespace, CloneFlags::empty())?;
    }
    Ok(())
}

/// Makes namespaces with an empty root, and sends them into `stream` for another process of this
/// user; sends nothing when it cannot. They go with the last descriptor and process in them. This
/// process must have one thread, and is in them afterwards.
pub fn make(stream: &UnixStream) {
    let made = own_namespaces()
        .map_err(io::Error::from)
        .and_then(|user| {
            let names = user.then_some(USER).into_iter().chain(OTHERS);
            names.map(open_own).collect()
        })
        .and_then(|namespaces: Vec<OwnedFd>| {
            empty_root(Path::new(PLACE))?;
            Ok(namespaces)
        });
    for namespace in made.iter().flatten() {
        if stream
            .send_with_fd(&[0][..], namespace.as_raw_fd())
            .is_err()
        {
            return;
        }
    }
}

fn open_own(name: &str) -> io::Result<OwnedFd> {
    File::open(format!("/proc/self/ns/{name}")).map(OwnedFd::from)
}

/// Moves this process into namespaces of its own. True if a user namespace is among them.
fn own_namespaces() -> nix::Result<bool> {
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
            fs::write("/proc/self/gid_map", format!("{group} {group} 1")).map_err(errno)?;
            Ok(true)
        }
        // Root needs no user namespace for the others.
        Err(_) if user.is_root() => unshare(OWN).map(|()| false),
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
