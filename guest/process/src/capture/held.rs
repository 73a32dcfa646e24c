//! Files whose content goes into the image: memory that processes share, and files that were
//! deleted.

use std::fs::{File, Metadata};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::memory::Owner;
use crate::arch::PAGE_BYTES;
use crate::error::{Error, failed};
use crate::image::{HeldFile, HeldKind, PageRun, SegmentMark};
use crate::observe::{FileId, Pages, is_gone};
use crate::sys::{self, View};

/// The most that a deleted file may have: it is read into memory as a whole.
const DELETED_BYTES_MAX: u64 = 256 << 20;
const SECTOR_BYTES: u64 = 512;
const DELETED: &[u8] = b" (deleted)";

/// The kind of the file that a link of /proc leads to, if its content is to be held. Otherwise the
/// error says what is wrong with it, as a part of a sentence behind "a file".
pub fn kind(link: &Path) -> Result<Option<HeldKind>, String> {
    let unreadable = |error| format!("that cannot be looked at: {error}");
    let found = std::fs::metadata(link).map_err(unreadable)?;
    let name = std::fs::read_link(link).map_err(unreadable)?;
    let shown = name.display();
    if !found.is_file() || !is_gone(&name) {
        return Ok(None);
    }
    let name = name.as_os_str().as_bytes();
    let name = name.strip_suffix(DELETED).unwrap_or(name);
    if Some(found.dev()) == memory_device() {
        return match of_memory(name, &found) {
            Some(kind) => Ok(Some(kind)),
            None => Err(format!("of memory of a kind that is not known ({shown})")),
        };
    }
    if name.starts_with(b"/memfd:") {
        return Err(format!("of huge pages ({shown})"));
    }
    if found.nlink() > 0 {
        return Err(format!(
            "that was deleted or replaced and has another name now ({shown})"
        ));
    }
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    let directory = path.parent().unwrap_or(path);
    if std::fs::metadata(directory).map(|found| found.dev()).ok() != Some(found.dev()) {
        return Err(format!("that was deleted with its directory ({shown})"));
    }
    if found.blocks() * SECTOR_BYTES > DELETED_BYTES_MAX {
        let limit_mib = DELETED_BYTES_MAX >> 20;
        return Err(format!(
            "that was deleted and has more than {limit_mib} MiB ({shown})"
        ));
    }
    Ok(Some(HeldKind::Deleted {
        directory: directory.as_os_str().as_bytes().to_vec(),
    }))
}

/// Words for a message.
pub fn word(kind: &HeldKind) -> &'static str {
    match kind {
        HeldKind::Anonymous => "shared anonymous memory",
        HeldKind::Memory { .. } => "a memfd",
        HeldKind::Segment { .. } => "System V shared memory",
        HeldKind::Deleted { .. } => "a deleted file",
    }
}

/// The device of files that are memory of the kernel's own file system.
fn memory_device() -> Option<u64> {
    static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
    *DEVICE.get_or_init(|| {
        let file = File::from(sys::memory_file(b"nvvmm").ok()?);
        file.metadata().ok().map(|found| found.dev())
    })
}

fn of_memory(name: &[u8], found: &Metadata) -> Option<HeldKind> {
    if name == b"/dev/zero" {
        return Some(HeldKind::Anonymous);
    }
    if let Some(name) = name.strip_prefix(b"/memfd:") {
        let (name, seals) = (name.to_vec(), 0);
        return Some(HeldKind::Memory { name, seals });
    }
    name.starts_with(b"/SYSV").then_some(())?;
    let id = i32::try_from(found.ino()).ok()?;
    let segment = sys::segment(id).ok()?;
    Some(HeldKind::Segment {
        id,
        key: segment.key,
        removed: segment.removed,
    })
}

/// Held files of an image, gathered so far.
#[derive(Debug, Default)]
pub struct HeldFiles {
    ids: Vec<FileId>,
    files: Vec<HeldFile>,
    opened: Vec<OwnedFd>,
    segments: Vec<SegmentMark>,
}

impl HeldFiles {
    /// The index of the file that a link of /proc leads to. `None`: its content is not held.
    pub fn index(&mut self, link: &Path) -> Result<Option<u32>, Error> {
        let changed = |_| Error::BadImage("a file changed while its process stood still");
        let Some(mut kind) = kind(link).map_err(changed)? else {
            return Ok(None);
        };
        let doing = || failed(format!("open {}", link.display()));
        let found = std::fs::metadata(link).map_err(doing())?;
        let id = (found.dev(), found.ino());
        if let Some(known) = self.ids.iter().position(|other| *other == id) {
            return Ok(Some(known as u32));
        }
        let opened = OwnedFd::from(File::open(link).map_err(doing())?);
        let (mut mode, mut owner) = (found.mode() & 0o7777, (found.uid(), found.gid()));
        let index = self.files.len() as u32;
        match &mut kind {
            HeldKind::Memory { seals, .. } => *seals = sys::seals(opened.as_fd()),
            HeldKind::Segment { id, .. } => {
                let segment = sys::segment(*id).map_err(failed("look at a segment of memory"))?;
                // Its file has others.
                (mode, owner) = (segment.mode, segment.owner);
                self.segments.push(SegmentMark {
                    held: index,
                    creator: segment.creator,
                    changed_s: segment.changed_s,
                    locked: segment.locked,
                });
            }
            HeldKind::Anonymous | HeldKind::Deleted { .. } => {}
        }
        self.ids.push(id);
        self.opened.push(opened);
        self.files.push(HeldFile {
            kind,
            size_bytes: found.size(),
            mode,
            owner,
            pages: Vec::new(),
        });
        Ok(Some(index))
    }

    /// Maps all of them here, so that their pages can be taken.
    pub fn views(&self) -> Result<Vec<HeldView>, Error> {
        let files = self.files.iter().zip(&self.opened);
        files
            .map(|(file, opened)| HeldView::new(file.size_bytes, opened))
            .collect()
    }

    /// The files, with the pages that were taken, and those of them that are segments.
    pub fn finish(
        mut self,
        views: &[HeldView],
        owners: &[Owner],
    ) -> (Vec<HeldFile>, Vec<SegmentMark>) {
        for ((file, view), owner) in self.files.iter_mut().zip(views).zip(owners) {
            file.pages = view.pages(file.size_bytes, owner);
        }
        (self.files, self.segments)
    }
}

/// A held file that is mapped here.
#[derive(Debug)]
pub struct HeldView {
    view: Option<View>,
    /// Parts that are not empty: the first byte and the byte after the last, in whole pages.
    parts: Vec<(u64, u64)>,
}

impl HeldView {
    fn new(size_bytes: u64, file: &OwnedFd) -> Result<Self, Error> {
        let parts = parts(size_bytes, file)?;
        let view = match parts.is_empty() {
            true => None,
            false => Some(View::new(file.as_fd(), size_bytes).map_err(failed("map a file"))?),
        };
        for (start, end) in &parts {
            let populated = view.as_ref().map(|view| view.populate(*start, end - start));
            populated.transpose().map_err(failed("read a file"))?;
        }
        Ok(Self { view, parts })
    }

    fn start(&self) -> u64 {
        self.view.as_ref().map_or(0, View::address)
    }

    /// Its memory, in this process.
    pub fn owner(&self) -> Owner {
        let at = self.start();
        let parts = self.parts.iter();
        let areas = parts.map(|(start, end)| (at + start, at + end, Pages::OfFile));
        Owner::new(std::process::id() as i32, areas.collect())
    }

    fn pages(&self, size_bytes: u64, owner: &Owner) -> Vec<PageRun> {
        let at = self.start();
        let end = at + size_bytes.next_multiple_of(PAGE_BYTES);
        let in_file = |run: PageRun| PageRun {
            address: run.address - at,
            ..run
        };
        owner.pages(at, end).into_iter().map(in_file).collect()
    }
}

/// Finds the parts of a file that are not empty.
fn parts(size_bytes: u64, file: &OwnedFd) -> Result<Vec<(u64, u64)>, Error> {
    let mut parts: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while at < size_bytes {
        let start = match lseek(file, at as i64, Whence::SeekData) {
            Err(Errno::ENXIO) => break,
            found => found.map_err(failed("look for data in a file"))? as u64,
        };
        let end = lseek(file, start as i64, Whence::SeekHole);
        let end = end.map_err(failed("look for a hole in a file"))? as u64;
        at = end.max(start + 1);
        let page = start / PAGE_BYTES * PAGE_BYTES;
        let page_end = at.min(size_bytes).next_multiple_of(PAGE_BYTES);
        match parts.last_mut() {
            Some((_, last)) if *last >= page => *last = page_end.max(*last),
            _ => parts.push((page, page_end)),
        }
    }
    Ok(parts)
}
