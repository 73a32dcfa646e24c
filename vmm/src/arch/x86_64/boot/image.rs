//! Recognition of kernel files.

use std::fs::File;
use std::io::{Read, Seek};

use super::elf::Program;
use super::flat::{self, FlatNote};
use super::{BootError, Result};
use crate::spec::files::BootFile;

/// A bootable file.
pub(super) enum Image {
    /// A Linux bzImage.
    Compressed(File),
    /// A Linux ELF image.
    Vmlinux(Program),
    /// A flat guest.
    Flat(Program, FlatNote),
}

/// Offset of a bzImage's magic number, and the number ("HdrS").
const BZIMAGE_MAGIC_AT: usize = 0x202;
const BZIMAGE_MAGIC: &[u8] = b"HdrS";

/// Recognises the format of a kernel file.
///
/// # Errors
/// [`BootError::File`]; [`BootError::NotAKernel`] with the kind of file that it seems to be.
pub(super) fn open(kernel: &BootFile) -> Result<Image> {
    let read = |source| kernel.unreadable(source);
    let mut file = kernel.reader()?;
    let metadata = file.metadata().map_err(read)?;
    let mut start = Vec::new();
    file.by_ref()
        .take(4096)
        .read_to_end(&mut start)
        .map_err(read)?;
    file.rewind().map_err(read)?;
    if start.starts_with(b"\x7fELF") {
        let program = Program::open(kernel, file, metadata.len())?;
        return Ok(match flat::note(&program)? {
            Some(note) => Image::Flat(program, note),
            None => Image::Vmlinux(program),
        });
    }
    if start
        .get(BZIMAGE_MAGIC_AT..)
        .is_some_and(|rest| rest.starts_with(BZIMAGE_MAGIC))
    {
        return Ok(Image::Compressed(file));
    }
    Err(BootError::NotAKernel {
        path: kernel.path().into(),
        why: looks_like(&start).into(),
    })
}

/// Guesses the kind of a file that is not bootable from its first bytes.
pub(super) fn looks_like(start: &[u8]) -> &'static str {
    let known: [(usize, &[u8], &str); 12] = [
        (0x38, b"ARM\x64", "it is a kernel for ARM64"),
        (0, b"\x1f\x8b", "it is gzip-compressed: unpack it first"),
        (0, b"\xfd7zXZ", "it is xz-compressed: unpack it first"),
        (
            0,
            b"\x28\xb5\x2f\xfd",
            "it is zstd-compressed: unpack it first",
        ),
        (0, b"BZh", "it is bzip2-compressed: unpack it first"),
        (
            0,
            b"\x04\x22\x4d\x18",
            "it is lz4-compressed: unpack it first",
        ),
        (0, b"070701", "it is a cpio archive, probably an initramfs"),
        (0, b"QFI\xfb", "it is a qcow2 disk image"),
        (0, b"hsqs", "it is a squashfs image"),
        (0, b"!<arch>", "it is a package or library archive"),
        (
            0,
            b"MZ",
            "it is a DOS, Windows or EFI program without a Linux boot header",
        ),
        (
            0x1fe,
            b"\x55\xaa",
            "it has a boot sector but no Linux boot header; a disk image?",
        ),
    ];
    if start.is_empty() {
        return "it is empty";
    }
    for (at, magic, what) in known {
        if start.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
            return what;
        }
    }
    let is_text = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..);
    if std::str::from_utf8(&start[..start.len().min(512)]).is_ok() && start.iter().all(is_text) {
        return "it looks like a text file";
    }
    "its content is of no known kind"
}
