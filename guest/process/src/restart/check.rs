//! Refuses, by name, what this system lacks for an image, before anything is made.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::groups;
use super::numbers::{self, InUse};
use super::options::RestartOptions;
use super::paths;
use crate::error::{Error, ProcessPart, Refusal};
use crate::image::{Image, MappedFile, Process, Special, What};
use crate::observe;

/// Checks that this system has all that the image needs, as far as can be seen in advance.
pub fn check(image: &Image, options: &RestartOptions) -> Result<(), Error> {
    let mut refusals = Vec::new();
    numbers::wait_for_parents(image);
    let in_use = InUse::look();
    kernel(image, &mut refusals)?;
    let identities = Identities::of(image)?;
    for (index, process) in image.processes.iter().enumerate() {
        numbers(process, &in_use, &mut refusals);
        capabilities(process, &mut refusals)?;
        mapped(process, identities, &mut refusals);
        open(image, process, options, identities, &mut refusals);
        if let Some(confined) = image.confined.get(index)
            && !path(&confined.root).is_dir()
        {
            let reason = format!(
                "had the root directory {}, which is not there",
                path(&confined.root).display()
            );
            refusals.push(refuse(process, ProcessPart::Process, reason));
        }
        if !path(&process.directory).is_dir() {
            let reason = format!(
                "had the working directory {}, which is not there",
                path(&process.directory).display()
            );
            refusals.push(refuse(process, ProcessPart::Process, reason));
        }
    }
    for child in &image.ended {
        if let Some(how) = in_use.of(child.pid) {
            let parent = image.processes[child.parent as usize].pid;
            refusals.push(numbers::refusal(parent, child.pid, &how));
        }
    }
    for leader in groups::gone_leaders(image) {
        if let Some(how) = in_use.of(leader.pid) {
            let reason = format!(
                "leads a session with the process group {}: {how}",
                leader.pid
            );
            let process = &image.processes[leader.parent as usize];
            refusals.push(refuse(process, ProcessPart::Process, reason));
        }
    }
    if refusals.is_empty() {
        Ok(())
    } else {
        Err(Error::Refused(refusals))
    }
}

/// The meaning of numbers of devices and inodes. They are valid for one boot: after it, or in
/// another VM, a file system in memory gives other numbers to the same files.
#[derive(Clone, Copy, Debug)]
pub struct Identities {
    of_this_boot: bool,
}

impl Identities {
    /// Those in an image.
    pub fn of(image: &Image) -> Result<Self, Error> {
        Ok(Self {
            of_this_boot: observe::boot()? == image.boot,
        })
    }

    /// True if a file that has the numbers `now` can be the file that had the numbers `then`.
    pub fn same(self, now: (u64, u64), then: (u64, u64)) -> bool {
        !self.of_this_boot || now == then
    }

    fn same_file(self, now: &MappedFile, then: &MappedFile) -> bool {
        self.same(now.identity, then.identity)
            && (now.size_bytes, now.modified) == (then.size_bytes, then.modified)
    }
}

fn refuse(process: &Process, place: ProcessPart, reason: impl Into<String>) -> Refusal {
    Refusal::new(process.pid, place, reason)
}

/// A path of an image.
pub fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(bytes))
}

fn kernel(image: &Image, refusals: &mut Vec<Refusal>) -> Result<(), Error> {
    let here = observe::kernel()?;
    if *here != image.kernel {
        let reason = if here.release == image.kernel.release {
            "has the vDSO of another build of this kernel".into()
        } else {
            format!(
                "ran on the kernel {}, this is {}",
                image.kernel.release, here.release
            )
        };
        refusals.push(refuse(&image.processes[0], ProcessPart::Process, reason));
    }
    Ok(())
}

fn numbers(process: &Process, in_use: &InUse, refusals: &mut Vec<Refusal>) {
    for thread in &process.threads {
        if let Some(how) = in_use.of(thread.tid) {
            refusals.push(numbers::refusal(process.pid, thread.tid, &how));
        }
    }
}

fn capabilities(process: &Process, refusals: &mut Vec<Refusal>) -> Result<(), Error> {
    let own = std::process::id() as i32;
    let mine = observe::status(own, own)?.ids.capabilities;
    for thread in &process.threads {
        let [inheritable, permitted, effective, bounding, ambient] =
            thread.credentials.ids.capabilities;
        let lacking =
            (inheritable | permitted | effective | ambient) & !mine[1] | bounding & !mine[3];
        if lacking != 0 {
            let reason = format!("had capabilities that nvvmm lacks here ({lacking:#x})");
            refusals.push(refuse(process, ProcessPart::Thread(thread.tid), reason));
        }
    }
    Ok(())
}

fn mapped(process: &Process, identities: Identities, refusals: &mut Vec<Refusal>) {
    for file in process.mapped_files.iter().chain([&process.executable]) {
        if !now(&file.path).is_some_and(|found| identities.same_file(&found, file)) {
            let reason = format!(
                "had {} mapped, which was changed, replaced or deleted since",
                path(&file.path).display()
            );
            let refusal = refuse(process, ProcessPart::Process, reason);
            if !refusals.contains(&refusal) {
                refusals.push(refusal);
            }
        }
    }
}

/// The file that has this name now.
fn now(name: &[u8]) -> Option<MappedFile> {
    let found = std::fs::metadata(path(name)).ok()?;
    Some(MappedFile {
        path: name.to_vec(),
        identity: (found.dev(), found.ino()),
        size_bytes: found.size(),
        modified: (found.mtime(), found.mtime_nsec()),
    })
}

fn open(
    image: &Image,
    process: &Process,
    options: &RestartOptions,
    identities: Identities,
    refusals: &mut Vec<Refusal>,
) {
    for descriptor in &process.descriptors {
        let reason = match &image.files[descriptor.file as usize].what {
            What::File {
                path: name,
                identity,
                size_bytes,
            } => {
                let shown = path(name).display().to_string();
                match std::fs::metadata(path(name)) {
                    Ok(found) if !identities.same((found.dev(), found.ino()), *identity) => {
                        format!("was {shown}, which was replaced since")
                    }
                    Ok(found) if found.size() < *size_bytes => {
                        format!("was {shown}, which is shorter now")
                    }
                    Ok(_) => continue,
                    Err(_) => format!("was {shown}, which is not there"),
                }
            }
            What::Device { path: name, device } => match std::fs::metadata(path(name)) {
                Ok(found) if found.rdev() == *device => continue,
                _ => format!(
                    "was the device {}, which is not there",
                    path(name).display()
                ),
            },
            What::Stdio { stream, .. } if options.stdio[*stream as usize].is_none() => {
                "was external, and no replacement was given".into()
            }
            What::NamedPipe { path: name, .. } => match std::fs::metadata(path(name)) {
                Ok(found) if found.mode() & libc::S_IFMT == libc::S_IFIFO => continue,
                _ => format!(
                    "was the named pipe {}, which is not there",
                    path(name).display()
                ),
            },
            What::Special(Special::Watches(watches)) => {
                let mut watches = watches.watches.iter();
                match watches.find(|watch| !path(&watch.path).exists()) {
                    Some(watch) => format!(
                        "was an inotify that watches {}, which is not there",
                        path(&watch.path).display()
                    ),
                    None => continue,
                }
            }
            What::Socket(socket) => match paths::path_refusal(socket) {
                Some(reason) => reason,
                None => continue,
            },
            What::Terminal { terminal, .. } => {
                let terminal = &image.terminals[*terminal as usize];
                match terminal.path().exists() {
                    true => format!(
                        "was the terminal {}, whose number somebody else has now",
                        terminal.path().display()
                    ),
                    false => continue,
                }
            }
            What::Stdio { .. }
            | What::PipeEnd { .. }
            | What::Special(_)
            | What::PollSet { .. }
            | What::SocketEnd { .. }
            | What::Held { .. }
            | What::ProcessFile { .. } => continue,
        };
        refusals.push(refuse(
            process,
            ProcessPart::Descriptor(descriptor.fd),
            reason,
        ));
    }
}
