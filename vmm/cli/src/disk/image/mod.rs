//! Images of disks in files: their format, their size, and the parts that are not zeros.

mod qcow2;
mod raw;

use std::fmt::Display;
use std::fs::{File, FileType, OpenOptions};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use clap::ValueEnum;
use nvvmm::{ErrorKind, VmError};

use self::qcow2::Qcow2Image;
use self::raw::RawImage;
use super::place::SECTOR_BYTES;
use crate::message;

/// Form of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ImageFormat {
    /// The bytes of the disk, one after the other
    Raw,
    /// The format of QEMU: clusters and tables
    Qcow2,
}

/// Image that a disk can be made of.
pub trait Image {
    /// Size of the disk.
    fn size_bytes(&self) -> u64;

    /// Bytes that may be other than zero, as far as that is known without reading them.
    fn data_bytes(&self) -> u64;

    /// The first range from `from` on that may be other than zeros.
    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, VmError>;

    /// Reads bytes of the disk.
    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), VmError>;

    /// Things of the image that a disk does not have, for the user.
    fn left_out(&self) -> Option<String> {
        None
    }
}

/// Opens a regular file or a block device. Never waits for the other end of a pipe.
///
/// # Errors
/// [`ErrorKind::Usage`] for another kind of file; the system's answer.
pub fn open_file(path: &Path) -> Result<File, VmError> {
    let failed = |e| VmError::io(format_args!("open the image {}", path.display()), &e);
    let check = |kind: FileType| match kind.is_file() || kind.is_block_device() {
        true => Ok(()),
        false => Err(VmError::new(
            ErrorKind::Usage,
            format!("{} is no regular file and no block device", path.display()),
        )
        .with_remedy(
            "give the path of an image; a raw image can come from a pipe: \
             '... | nvvmm disk import - --name NAME'",
        )),
    };
    // Before: to open a device may start something. After: it may be another file by then.
    check(path.metadata().map_err(failed)?.file_type())?;
    let mut options = OpenOptions::new();
    options.read(true);
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path).map_err(failed)?;
    check(file.metadata().map_err(failed)?.file_type())?;
    Ok(file)
}

/// The image in an open file, in the form that it has, or that the user says.
///
/// # Errors
/// [`ErrorKind::Usage`] and [`ErrorKind::Refused`] for what cannot be a disk.
pub fn image_in(
    file: File,
    path: &Path,
    format: Option<ImageFormat>,
) -> Result<Box<dyn Image>, VmError> {
    let named = path.display();
    let mut head = [0; HEAD_BYTES];
    let read = read_up_to(&file, &mut head, 0)
        .map_err(|e| VmError::io(format_args!("read the image {named}"), &e))?;
    tell_of_other_format(&head[..read], format, &named);
    Ok(match format_of(&head[..read], format, &named)? {
        ImageFormat::Raw => Box::new(RawImage::open(file, &named)?),
        ImageFormat::Qcow2 => Box::new(Qcow2Image::open(file, &named)?),
    })
}

/// Bytes at the beginning of an image by which its format is known.
pub const HEAD_BYTES: usize = 128;

/// First bytes of a format that cannot be imported, and its name.
const FOREIGN: [(usize, &[u8], &str); 6] = [
    (0, b"KDMV", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (0x40, &0xbeda_107f_u32.to_le_bytes(), "a VDI image"),
    (0, b"QED\0", "a QED image"),
];

/// First bytes of a compressed file, its name, and the program that unpacks it.
const PACKED: [(&[u8], &str, &str); 4] = [
    (b"\x1f\x8b", "a gzip file", "gzip"),
    (b"\xfd7zXZ\0", "an xz file", "xz"),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "zstd"),
    (b"BZh", "a bzip2 file", "bzip2"),
];

/// The format of an image that begins with `head`. `named` is its name for messages.
///
/// # Errors
/// [`ErrorKind::Usage`] for a format that cannot be imported, or another one than `format`.
pub fn format_of(
    head: &[u8],
    format: Option<ImageFormat>,
    named: &dyn Display,
) -> Result<ImageFormat, VmError> {
    let is_qcow2 = head.starts_with(qcow2::MAGIC);
    match (format, is_qcow2) {
        (Some(ImageFormat::Qcow2), false) => {
            return Err(VmError::new(
                ErrorKind::Usage,
                format!("{named} is no qcow2 image: it does not begin like one"),
            )
            .with_remedy("leave out '--format qcow2' if it is a raw image"));
        }
        (Some(ImageFormat::Raw), _) => return Ok(ImageFormat::Raw),
        (_, true) => return Ok(ImageFormat::Qcow2),
        (None, false) => {}
    }
    let refused = |what: &str, remedy: String| {
        let text = format!("{named} is {what}, which cannot be imported");
        let remedy = format!("{remedy}; '--format raw' imports it byte by byte");
        Err(VmError::new(ErrorKind::Usage, text).with_remedy(remedy))
    };
    for (at, magic, what) in FOREIGN {
        if head.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
            return refused(
                what,
                format!("make a qcow2 image of it: 'qemu-img convert -O qcow2 {named} new.qcow2'"),
            );
        }
    }
    for (magic, what, program) in PACKED {
        if head.starts_with(magic) {
            return refused(
                what,
                format!("unpack it: '{program} -dc ... | nvvmm disk import - --name NAME'"),
            );
        }
    }
    Ok(ImageFormat::Raw)
}

/// Tells the user of an image that is imported as a raw one, and begins like another one.
pub fn tell_of_other_format(head: &[u8], format: Option<ImageFormat>, named: &dyn Display) {
    let begins = |at: usize, magic: &[u8]| {
        let rest = head.get(at..);
        rest.is_some_and(|rest| rest.starts_with(magic))
    };
    let foreign = { FOREIGN.iter() }.find(|(at, magic, _)| begins(*at, magic));
    let what = match foreign {
        _ if format != Some(ImageFormat::Raw) => return,
        _ if begins(0, qcow2::MAGIC) => "a qcow2 image",
        Some((_, _, what)) => what,
        None => return,
    };
    message::warn(&format!(
        "{named} begins like {what}: with '--format raw' the disk has the bytes of the file, and \
         not those of the disk in it"
    ));
}

/// Refuses a size that is no multiple of 512, or 0.
fn check_size(size_bytes: u64, named: &dyn Display, remedy: &str) -> Result<(), VmError> {
    let refused = |why: String| {
        let text = format!("{named} cannot be a disk: {why}");
        Err(VmError::new(ErrorKind::Usage, text).with_remedy(remedy))
    };
    match size_bytes {
        0 => refused("it is empty".to_owned()),
        size if !size.is_multiple_of(SECTOR_BYTES) => {
            refused(format!("its size, {size} bytes, is no multiple of 512"))
        }
        _ => Ok(()),
    }
}

/// Refuses the size of a raw image that is no multiple of 512, or 0.
pub fn check_raw_size(size_bytes: u64, named: &dyn Display) -> Result<(), VmError> {
    let remedy = "a raw image has whole sectors: see if it is complete; 'truncate -s %512 FILE' \
                  adds zeros to its last sector";
    check_size(size_bytes, named, remedy)
}

/// Reads until the buffer is full, or the file ends.
fn read_up_to(file: &File, into: &mut [u8], offset: u64) -> std::io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
#[path = "image_test.rs"]
mod image_test;
