//! A file system on a disk, with files whose content can be checked.
//!
//! A file is written under another name, flushed, and then renamed: so every file that has its
//! final name is complete on the disk, at any instant at which the disk is copied.

use crate::page::mix;
use crate::sys;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const PLACE: &str = "/mnt";
const HEADER_BYTES: usize = 24;
const MAGIC: u64 = u64::from_le_bytes(*b"nvvmfile");

/// Mounts `device`, which holds an ext4 file system.
pub fn mount(device: &str, read_only: bool) -> io::Result<()> {
    fs::create_dir_all(PLACE)?;
    sys::mount_ext4(&CString::new(device)?, c"/mnt", read_only)
}

/// Unmounts it.
pub fn unmount() -> io::Result<()> {
    sys::unmount(c"/mnt")
}

/// The files of the disk that is mounted.
pub fn files() -> Files {
    Files {
        folder: Path::new(PLACE).join("witness"),
    }
}

/// A folder of files whose content can be checked.
#[derive(Clone)]
pub struct Files {
    folder: PathBuf,
}

/// The result of a verification.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Files with a final name.
    pub files: u64,
    /// Their content together.
    pub content_bytes: u64,
    /// Those that are not what was written, with the reason.
    pub damaged: Vec<String>,
}

impl Files {
    /// Writes `count` files of `size_bytes` each, named by `seed` and number, each flushed before
    /// the next.
    pub fn write(&self, count: u64, size_bytes: usize, seed: u64) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        (0..count).try_for_each(|number| self.write_one(number, size_bytes, seed))
    }

    fn write_one(&self, number: u64, size_bytes: usize, seed: u64) -> io::Result<()> {
        let unfinished = self.folder.join(format!(".unfinished-{number}"));
        let mut file = File::create(&unfinished)?;
        file.write_all(&content(number, size_bytes, seed))?;
        file.sync_all()?;
        fs::rename(&unfinished, self.folder.join(format!("{number:06}")))?;
        File::open(&self.folder)?.sync_all()
    }

    /// Reads every file back and compares it with what it says it is.
    pub fn verify(&self) -> io::Result<Verdict> {
        let mut verdict = Verdict::default();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            verdict.files += 1;
            let mut bytes = Vec::new();
            match File::open(self.folder.join(&name))
                .and_then(|mut file| file.read_to_end(&mut bytes))
            {
                Err(error) => verdict.damaged.push(format!("{name}: {error}")),
                Ok(_) if name.parse().is_ok_and(|number| is_intact(number, &bytes)) => {
                    verdict.content_bytes += bytes.len() as u64
                }
                Ok(_) => verdict
                    .damaged
                    .push(format!("{name}: wrong content in {} bytes", bytes.len())),
            }
        }
        Ok(verdict)
    }
}

/// A header that names number, seed and length, then words that follow from them.
fn content(number: u64, size_bytes: usize, seed: u64) -> Vec<u8> {
    let size_bytes = size_bytes.max(HEADER_BYTES);
    let base = mix(mix(seed) ^ number);
    let body = (0..).map(|word| mix(base ^ word));
    let words = [MAGIC, seed, size_bytes as u64].into_iter().chain(body);
    words.flat_map(u64::to_le_bytes).take(size_bytes).collect()
}

fn is_intact(number: u64, bytes: &[u8]) -> bool {
    let Some(seed) = bytes.get(8..16).and_then(|seed| seed.try_into().ok()) else {
        return false;
    };
    content(number, bytes.len(), u64::from_le_bytes(seed)) == bytes
}

/// Makes the next reads come from the disk.
pub fn forget_cached() -> io::Result<()> {
    sys::sync();
    fs::write("/proc/sys/vm/drop_caches", "3")
}

/// Files that are rewritten in the background, round after round.
#[derive(Clone, Default)]
pub struct DiskChurn {
    running: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    failures: Arc<AtomicU64>,
}

impl DiskChurn {
    /// Starts rewriting four files of 64 KiB.
    pub fn start(&self, files: Files) -> io::Result<()> {
        if self.running.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let churn = self.clone();
        std::thread::Builder::new()
            .name("disk-churn".into())
            .spawn(move || {
                while churn.running.load(Ordering::SeqCst) {
                    let round = churn.rounds.fetch_add(1, Ordering::SeqCst);
                    if files.write(4, 64 << 10, round).is_err() {
                        churn.failures.fetch_add(1, Ordering::SeqCst);
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            })?;
        Ok(())
    }

    /// Ends it after the present round.
    pub fn stop(&self) {
        self.running.store(false, Ordering::SeqCst);
    }

    /// Rounds begun, rounds failed.
    pub fn progress(&self) -> (u64, u64) {
        (
            self.rounds.load(Ordering::SeqCst),
            self.failures.load(Ordering::SeqCst),
        )
    }
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod disk_test;
