//! Files whose content is in the image: memory that processes share, and files that were deleted.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchown, ftruncate};

use super::check::path;
use super::segments;
use crate::error::{Error, failed};
use crate::image::{HeldFile, HeldKind, Image};
use crate::sys;

/// The held files of an image, made again here. What it has made in the system goes away with it,
/// unless [`HeldFiles::finish`] was called.
#[derive(Debug, Default)]
pub struct HeldFiles {
    /// Segments of System V have none.
    files: Vec<Option<OwnedFd>>,
    /// Segments that were made here.
    segments: Vec<i32>,
}

impl HeldFiles {
    /// Makes all of them, empty yet.
    pub fn make(image: &Image) -> Result<Self, Error> {
        let mut made = Self::default();
        for (index, file) in (0..).zip(&image.held) {
            let opened = made.make_one(image, index, file)?;
            if let Some(opened) = &opened {
                prepare(file, opened)?;
            }
            made.files.push(opened);
        }
        Ok(made)
    }

    fn make_one(
        &mut self,
        image: &Image,
        index: u32,
        file: &HeldFile,
    ) -> Result<Option<OwnedFd>, Error> {
        let made = match &file.kind {
            HeldKind::Anonymous => sys::shared_anonymous(file.size_bytes.max(1))
                .map_err(failed("make memory that processes share"))?,
            HeldKind::Memory { name, .. } => {
                sys::memory_file(name).map_err(failed("make a memfd"))?
            }
            HeldKind::Segment { id, key, .. } => {
                if segments::make(image, index, file, (*id, *key))? {
                    self.segments.push(*id);
                }
                return Ok(None);
            }
            HeldKind::Deleted { directory } => {
                let directory = path(directory);
                let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
                let doing = format!("make a file without a name in {}", directory.display());
                open(&directory, flags, Mode::S_IRUSR).map_err(failed(doing))?
            }
        };
        Ok(Some(made))
    }

    /// The file of this index; none for a segment.
    pub fn file(&self, index: u32) -> Option<&OwnedFd> {
        self.files[index as usize].as_ref()
    }

    /// Another open file of it, with these flags.
    pub fn open(&self, index: u32, flags: OFlag) -> Result<OwnedFd, Error> {
        let file = self.file(index);
        let file = file.ok_or(Error::BadImage("a segment of memory is open as a file"))?;
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let harmless = flags & !(OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_EXCL | OFlag::O_ASYNC);
        open(link.as_str(), harmless | OFlag::O_CLOEXEC, Mode::empty())
            .map_err(failed("open a file without a name"))
    }

    /// Does what must come last, when all processes have what they need of them.
    pub fn finish(mut self, image: &Image) -> Result<(), Error> {
        for (index, (file, made)) in (0..).zip(image.held.iter().zip(&self.files)) {
            match (&file.kind, made) {
                (HeldKind::Memory { seals, .. }, Some(made)) if *seals != 0 => {
                    sys::add_seals(made.as_fd(), *seals).map_err(failed("seal a memfd"))?;
                }
                (HeldKind::Segment { id, removed, .. }, _) => {
                    let mut marks = image.segments.iter();
                    let mark = marks.find(|mark| mark.held == index);
                    segments::finish(*id, *removed, mark)?;
                }
                _ => {}
            }
        }
        self.segments.clear();
        Ok(())
    }
}

impl Drop for HeldFiles {
    fn drop(&mut self) {
        for segment in &self.segments {
            let _ = sys::remove_segment(*segment);
        }
    }
}

fn prepare(file: &HeldFile, made: &OwnedFd) -> Result<(), Error> {
    let doing = || failed("set up a file without a name");
    ftruncate(made, file.size_bytes as i64).map_err(doing())?;
    let (user, group) = (Uid::from_raw(file.owner.0), Gid::from_raw(file.owner.1));
    fchown(made, Some(user), Some(group)).map_err(doing())?;
    fchmod(made, Mode::from_bits_truncate(file.mode)).map_err(doing())
}
