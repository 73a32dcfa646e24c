//! Tells if an image was written between two moments, such as a snapshot and its restore.
//!
//! An image has a *mark*: random text in an extended attribute of its file. The mark names a
//! content. Before the first write after a snapshot the VM process replaces it. So an image with
//! the mark that a snapshot has noted was written by no VM since. Size and time of modification are
//! noted beside it: they tell of writes of other programs, and of all writes where the file system
//! keeps no attributes.
//!
//! ```text
//! user.nvvmm.content = 6f0c...  32 digits: the content is being written under this mark
//! user.nvvmm.content = 6f0c... 1795975345952042737
//!                               the VM has ended; the file had this time of modification then
//! ```
//!
//! A program that writes over the image leaves the attribute in place. The second number shows
//! that: a mark with another time than the file's is the mark of a content that is gone.

use std::fmt::Write;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::sys;

/// Name of the attribute with the mark.
const ATTRIBUTE: &std::ffi::CStr = c"user.nvvmm.content";
const MARK_BYTES: usize = 16;
/// Longest text of the attribute that is read.
const TEXT_BYTES_MAX: usize = 96;
const NS_PER_S: i64 = 1_000_000_000;

/// Content of an image at one moment, as far as it can be told without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContentStamp {
    /// Size of the image in bytes.
    pub size_bytes: u64,
    /// Time of modification of the file, in nanoseconds since 1970.
    pub modified_unix_ns: i64,
    /// Device number of the file's file system.
    pub device: u64,
    /// Inode number of the file.
    pub inode: u64,
    /// The file's mark; none where no VM has written it, or the file system keeps none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
}

/// Findings about an image, compared with a stamp from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// The image was not written since.
    Unwritten,
    /// The image was written since.
    Written,
    /// This is another file, and nothing tells if its content is the same.
    OtherFile,
}

impl ContentStamp {
    /// Compares with what is found now. Sizes are the device's to compare.
    pub fn compare(&self, now: &ContentStamp) -> Since {
        let same_file = (self.device, self.inode) == (now.device, now.inode);
        let same_time = self.modified_unix_ns == now.modified_unix_ns;
        match &now.mark {
            // A copy with its attributes has the mark, too.
            Some(mark) if self.mark.as_ref() == Some(mark) => match same_time || !same_file {
                true => Since::Unwritten,
                false => Since::Written,
            },
            Some(_) => Since::Written,
            None if same_time => Since::Unwritten,
            None if same_file => Since::Written,
            None => Since::OtherFile,
        }
    }
}

/// The mark of an open image.
#[derive(Debug, Default)]
pub(super) struct Marking {
    /// Nobody has noted the mark: writes need no other one.
    is_fresh: AtomicBool,
    /// The mark in the file.
    mark: Mutex<Option<String>>,
    /// A new mark is stable before the write that it is for.
    is_stable: AtomicBool,
}

impl Marking {
    /// Reads the mark of an image that was opened.
    pub(super) fn of(file: &File) -> Self {
        let mark = file.metadata().ok().and_then(|found| {
            let text = sys::attribute(file, ATTRIBUTE, TEXT_BYTES_MAX).ok()?;
            valid_mark(&text, modified_unix_ns(&found))
        });
        Self {
            mark: Mutex::new(mark),
            ..Self::default()
        }
    }

    fn mark(&self) -> MutexGuard<'_, Option<String>> {
        self.mark.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has each new mark be stable before the write that it is for: snapshots survive a power cut,
    /// and so may the write.
    pub(super) fn keep_stable(&self) {
        self.is_stable.store(true, Ordering::SeqCst);
    }

    /// Replaces the mark unless nobody has noted it. Comes before each write: the mark must be in
    /// the file before a byte of the write is.
    ///
    /// # Errors
    /// The mark, or what was written before it, cannot be made stable.
    pub(super) fn before_write(&self, file: &File) -> io::Result<()> {
        if self.is_fresh.load(Ordering::SeqCst) {
            return Ok(());
        }
        // Locked all the while: two writers at a time must not leave another mark here than there.
        let mut mark = self.mark();
        if self.is_fresh.load(Ordering::SeqCst) {
            return Ok(());
        }
        let set = new_mark().and_then(|fresh| {
            sys::set_attribute(file, ATTRIBUTE, fresh.as_bytes())?;
            *mark = Some(fresh);
            Ok(())
        });
        match set {
            Ok(()) if self.is_stable.load(Ordering::SeqCst) => file.sync_all()?,
            Ok(()) => {}
            // The time of modification remains.
            Err(error) => tracing::debug!(%error, "the image of a disk cannot be marked"),
        }
        self.is_fresh.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Has the next write replace the mark.
    pub(super) fn note(&self) {
        self.is_fresh.store(false, Ordering::SeqCst);
    }

    /// The content now. `None` for a block device, which tells nothing.
    ///
    /// # Errors
    /// The file system does not answer.
    pub(super) fn stamp(&self, file: &File) -> io::Result<Option<ContentStamp>> {
        let found = file.metadata()?;
        if found.file_type().is_block_device() {
            return Ok(None);
        }
        Ok(Some(ContentStamp {
            size_bytes: found.len(),
            modified_unix_ns: modified_unix_ns(&found),
            device: found.dev(),
            inode: found.ino(),
            mark: self.mark().clone(),
        }))
    }

    /// Writes down when the image was modified last. Nothing writes it any more.
    pub(super) fn settle(&self, file: &File) {
        if !self.is_fresh.load(Ordering::SeqCst) {
            return;
        }
        let (Some(mark), Ok(found)) = (self.mark().clone(), file.metadata()) else {
            return;
        };
        let text = format!("{mark} {}", modified_unix_ns(&found));
        if let Err(error) = sys::set_attribute(file, ATTRIBUTE, text.as_bytes()) {
            tracing::debug!(%error, "the image of a disk keeps a mark without a time");
        }
    }
}

fn modified_unix_ns(found: &Metadata) -> i64 {
    let seconds = found.mtime().saturating_mul(NS_PER_S);
    seconds.saturating_add(found.mtime_nsec())
}

fn new_mark() -> io::Result<String> {
    let mut bytes = [0; MARK_BYTES];
    sys::fill_random(&mut bytes)?;
    Ok(bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// The mark in the text of an attribute, if it is of what the file holds now.
fn valid_mark(text: &[u8], modified_unix_ns: i64) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let (mark, at) = match text.split_once(' ') {
        Some((mark, at)) => (mark, Some(at.parse::<i64>().ok()?)),
        None => (text, None),
    };
    let is_mark = mark.len() == 2 * MARK_BYTES && mark.bytes().all(|b| b.is_ascii_hexdigit());
    (is_mark && at.is_none_or(|at| at == modified_unix_ns)).then(|| mark.to_owned())
}

#[cfg(test)]
#[path = "content_test.rs"]
mod content_test;
