//! Images of QEMU: docs/interop/qcow2.rst in its sources has the format.
//!
//! The crate `imago` reads the clusters. It takes what is behind the end of the file for zeros, and
//! so would lose data of an image that is cut off. All tables are therefore checked before.

use std::fmt::Display;
use std::fs::File;
use std::io;
use std::ops::Range;

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, Mapping};
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::counted;

use super::{Image, check_size, read_up_to};
use crate::disk::place::{DISK_BYTES_MAX, SECTOR_BYTES};

/// First bytes of an image.
pub const MAGIC: &[u8] = b"QFI\xfb";

/// Bytes of the header that are looked at.
const HEADER_BYTES: usize = 104;
/// Longest name of a backing file.
const BACKING_NAME_MAX: u32 = 1023;
/// Most entries of the L1 table: as QEMU and imago.
const L1_ENTRIES_MAX: u64 = 4 << 20;
/// Bits of an entry that are an offset in the file.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
/// Bits of an L1 entry that are 0.
const L1_RESERVED: u64 = 0x7f00_0000_0000_01ff;
/// Bits of the entry of a standard cluster that are 0.
const L2_RESERVED: u64 = 0x3f00_0000_0000_01fe;
/// Bit of the entry of a compressed cluster.
const COMPRESSED: u64 = 1 << 62;
/// Bit of the entry of a cluster that reads as zeros.
const ZERO: u64 = 1;
/// Entries of the L1 table that are read at once.
const L1_READ: usize = 8192;

/// An image whose header and tables were checked.
pub struct Qcow2Image {
    access: FormatAccess<ImagoFile>,
    named: String,
    size_bytes: u64,
    data_bytes: u64,
    snapshots: u32,
}

impl Qcow2Image {
    /// The image in `file`. `named` is its name for messages.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] for an image that is not complete in itself, needs a feature that is
    /// not known, or is damaged; [`ErrorKind::Usage`] for a size that no disk can have.
    pub fn open(file: File, named: &dyn Display) -> Result<Self, VmError> {
        let failed = |e: io::Error| VmError::io(format_args!("read the image {named}"), &e);
        let tables = Tables {
            file_bytes: file.metadata().map_err(failed)?.len(),
            header: Header::read(&file, named)?,
            file: &file,
            named,
        };
        tables.header.check(named, &tables)?;
        let (size_bytes, snapshots) = (tables.header.size, tables.header.snapshots);
        let data_bytes = tables.check()?;
        let opened = ImagoFile::try_from(file).and_then(|file| {
            let builder = Qcow2::<ImagoFile>::builder(file);
            builder.open(DenyImplicitOpenGate::default())
        });
        let opened = opened.map_err(|e| damaged(named, &e.to_string()))?;
        Ok(Self {
            access: FormatAccess::new(opened),
            named: named.to_string(),
            size_bytes,
            data_bytes,
            snapshots,
        })
    }

    fn failed(&self, error: &io::Error) -> VmError {
        match error.raw_os_error() {
            Some(_) => VmError::io(format_args!("read the image {}", self.named), error),
            None => damaged(&self.named, &error.to_string()),
        }
    }
}

impl Image for Qcow2Image {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    fn next_data(&self, from: u64) -> Result<Option<Range<u64>>, VmError> {
        let mut at = from;
        while at < self.size_bytes {
            let mapping = self.access.get_mapping(at, self.size_bytes - at);
            let (mapping, len) = mapping.map_err(|e| self.failed(&e))?;
            match mapping {
                Mapping::Zero { .. } if len > 0 => at += len,
                _ if len == 0 => return Err(damaged(&self.named, "its map ends too early")),
                _ => return Ok(Some(at..(at + len).min(self.size_bytes))),
            }
        }
        Ok(None)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), VmError> {
        self.access.read(into, offset).map_err(|e| self.failed(&e))
    }

    fn left_out(&self) -> Option<String> {
        (self.snapshots > 0).then(|| {
            format!(
                "{} has {} inside, which a disk of the pool does not have: only the newest state \
                 is imported",
                self.named,
                counted(self.snapshots, "snapshot")
            )
        })
    }
}

/// The header, as far as it is of use here.
struct Header {
    version: u32,
    backing_offset: u64,
    backing_name_bytes: u32,
    cluster_bits: u32,
    size: u64,
    encryption: u32,
    l1_entries: u32,
    l1_offset: u64,
    snapshots: u32,
    features: u64,
}

impl Header {
    fn read(file: &File, named: &dyn Display) -> Result<Self, VmError> {
        let mut bytes = [0; HEADER_BYTES];
        let read = read_up_to(file, &mut bytes, 0)
            .map_err(|e| VmError::io(format_args!("read the image {named}"), &e))?;
        if read < 72 {
            return Err(damaged(named, "its header is cut off"));
        }
        let half = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|byte| bytes[at + byte]));
        let whole = |at: usize| u64::from(half(at)) << 32 | u64::from(half(at + 4));
        let version = half(4);
        Ok(Self {
            version,
            backing_offset: whole(8),
            backing_name_bytes: half(16),
            cluster_bits: half(20),
            size: whole(24),
            encryption: half(32),
            l1_entries: half(36),
            l1_offset: whole(40),
            snapshots: half(60),
            features: if version >= 3 { whole(72) } else { 0 },
        })
    }

    /// Refuses what cannot be imported.
    fn check(&self, named: &dyn Display, tables: &Tables<'_>) -> Result<(), VmError> {
        let whole = format!("'qemu-img convert -O qcow2 {named} whole.qcow2' makes one of it");
        let refused = |why: String, remedy: &str| Err(refused(named, &why, remedy));
        if !matches!(self.version, 2 | 3) {
            let why = format!(
                "it is of version {} of the format, and not 2 or 3",
                self.version
            );
            return refused(why, &format!("import an image of version 3: {whole}"));
        }
        if self.backing_offset != 0 {
            let why = format!("it needs its backing file {}", tables.backing_name());
            return refused(why, &format!("import an image that is complete: {whole}"));
        }
        if self.encryption != 0 {
            let remedy = "make an image of it that is not encrypted, with 'qemu-img convert'";
            return refused("it is encrypted".to_owned(), remedy);
        }
        self.check_features(named, &whole)?;
        if !(9..=21).contains(&self.cluster_bits) {
            let why = format!("its clusters have 2^{} bytes", self.cluster_bits);
            return Err(damaged(named, &why));
        }
        check_size(self.size, named, "'qemu-img resize' gives it another size")?;
        if self.size > DISK_BYTES_MAX {
            let why = "its disk is larger than 32 TiB".to_owned();
            return refused(why, "'qemu-img resize --shrink' makes it smaller");
        }
        Ok(())
    }

    fn check_features(&self, named: &dyn Display, whole: &str) -> Result<(), VmError> {
        let repair = format!("'qemu-img check -r all {named}' repairs it");
        let complete = format!("import an image that is complete: {whole}");
        let plain = format!("import a simpler image: {whole}");
        let known = [
            (1 << 1, "it is marked as damaged", &repair),
            (1 << 0, "it was not closed in good order", &repair),
            (1 << 2, "its data is in another file", &complete),
            (
                1 << 3,
                "its clusters are compressed by another method than zlib",
                &plain,
            ),
            (1 << 4, "it has subclusters", &plain),
            (
                !0x1f,
                "it has features that this nvvmm does not know",
                &plain,
            ),
        ];
        match known.iter().find(|(bit, ..)| self.features & bit != 0) {
            None => Ok(()),
            Some((_, why, remedy)) => Err(refused(named, why, remedy)),
        }
    }

    fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Clusters that one L2 table has.
    fn l2_entries(&self) -> u64 {
        self.cluster_bytes() / 8
    }
}

/// The tables of an image.
struct Tables<'a> {
    file: &'a File,
    file_bytes: u64,
    header: Header,
    named: &'a dyn Display,
}

impl Tables<'_> {
    /// Looks at each entry of the tables, and gives the bytes of the clusters that have data.
    fn check(&self) -> Result<u64, VmError> {
        let header = &self.header;
        let per_table = header.l2_entries() * header.cluster_bytes();
        let needed = header.size.div_ceil(per_table);
        let has = u64::from(header.l1_entries);
        if has < needed || has > L1_ENTRIES_MAX {
            return Err(self.damaged(&format!("its L1 table has {has} entries")));
        }
        if !self.is_place(header.l1_offset, has * 8) {
            return Err(self.damaged("its L1 table is not in the file"));
        }
        let mut data_bytes = 0;
        let mut entries = vec![0; L1_READ * 8];
        for first in (0..needed).step_by(L1_READ) {
            let count = (needed - first).min(L1_READ as u64) as usize;
            let part = &mut entries[..count * 8];
            self.read(part, header.l1_offset + first * 8)?;
            for (index, entry) in (first..).zip(words(part)) {
                if entry & L1_RESERVED != 0 {
                    return Err(self.damaged(&format!("entry {index} of its L1 table is not one")));
                }
                if entry & OFFSET != 0 {
                    data_bytes += self.check_l2(entry & OFFSET, index * per_table)?;
                }
            }
        }
        Ok(data_bytes)
    }

    /// Looks at the L2 table at `offset`, whose clusters are those of the disk from `from` on.
    fn check_l2(&self, offset: u64, from: u64) -> Result<u64, VmError> {
        let cluster_bytes = self.header.cluster_bytes();
        if !self.is_place(offset, cluster_bytes) {
            return Err(self.damaged(&format!("its L2 table at byte {offset} is not in the file")));
        }
        let mut table = vec![0; cluster_bytes as usize];
        self.read(&mut table, offset)?;
        let mut data_bytes = 0;
        for (index, entry) in (0..).zip(words(&table)) {
            let at = from + index * cluster_bytes;
            if at >= self.header.size {
                break;
            }
            let len = cluster_bytes.min(self.header.size - at);
            if self.has_data(entry, len).ok_or_else(|| {
                self.damaged(&format!("the cluster for byte {at} is not in the file"))
            })? {
                data_bytes += len;
            }
        }
        Ok(data_bytes)
    }

    /// True for the entry of a cluster with data. None for one that cannot be.
    fn has_data(&self, entry: u64, len: u64) -> Option<bool> {
        if entry & COMPRESSED != 0 {
            let offset_bits = 62 - (self.header.cluster_bits - 8);
            let offset = entry & ((1 << offset_bits) - 1);
            // Sectors of the file that have a part of it: as many as the writer liked.
            return (offset != 0 && offset < self.file_bytes).then_some(true);
        }
        let offset = entry & OFFSET;
        let is_zero = entry & ZERO != 0;
        if entry & L2_RESERVED != 0 || (is_zero && self.header.version < 3) {
            return None;
        }
        if offset == 0 || is_zero {
            return offset
                .is_multiple_of(self.header.cluster_bytes())
                .then_some(false);
        }
        self.is_place(offset, len).then_some(true)
    }

    /// True for the place of a cluster that is in the file. The last sector may be partial.
    fn is_place(&self, offset: u64, len: u64) -> bool {
        let end = offset.checked_add(len);
        let file_end = self.file_bytes.next_multiple_of(SECTOR_BYTES);
        offset != 0
            && offset.is_multiple_of(self.header.cluster_bytes())
            && end.is_some_and(|end| end <= file_end)
    }

    fn read(&self, into: &mut [u8], offset: u64) -> Result<(), VmError> {
        // What the last sector lacks reads as zeros.
        into.fill(0);
        let read = read_up_to(self.file, into, offset);
        read.map(drop)
            .map_err(|e| VmError::io(format_args!("read the image {}", self.named), &e))
    }

    fn backing_name(&self) -> String {
        let len = self.header.backing_name_bytes.min(BACKING_NAME_MAX) as usize;
        let mut name = vec![0; len];
        match self.read(&mut name, self.header.backing_offset) {
            Ok(()) => format!("'{}'", String::from_utf8_lossy(&name).escape_debug()),
            Err(_) => String::new(),
        }
    }

    fn damaged(&self, why: &str) -> VmError {
        damaged(self.named, why)
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let (words, _) = bytes.as_chunks();
    words.iter().map(|word| u64::from_be_bytes(*word))
}

fn refused(named: &dyn Display, why: &str, remedy: &str) -> VmError {
    let text = format!("the qcow2 image {named} cannot be imported: {why}");
    VmError::new(ErrorKind::Refused, text).with_remedy(remedy)
}

fn damaged(named: &dyn Display, why: &str) -> VmError {
    let text = format!("the qcow2 image {named} is damaged: {why}");
    let remedy = format!(
        "see if it was copied whole; 'qemu-img check {named}' looks at it, and with '-r all' \
         repairs what can be"
    );
    VmError::new(ErrorKind::Refused, text).with_remedy(remedy)
}
