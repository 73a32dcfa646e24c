//! The header of a stream: what it is of, and what it builds on.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::disks::{self, DisksV1, StreamDisk};
use super::record::{VERSION, VERSION_1, VERSION_2};
use crate::error::{Error, Result};
use crate::identity::{BaseId, ContentRoot, Identity};
use crate::layout::inode::{STATE_BYTES_MAX, SnapshotKind, map_height};
use crate::name::{NAME_BYTES_MAX, check_name};
use crate::number::{BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES, ChunkIndex};
use crate::wording::SizeText;

/// Length of the longest fixed part.
pub(crate) const HEADER_BYTES_MAX: usize = size_of::<HeaderV3>();
/// Longest description of the machine.
pub(crate) const SPEC_BYTES_MAX: usize = 64 << 10;

/// A header as it is in its record; the spec follows.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct HeaderV2 {
    pub(crate) root: [u8; 32],
    pub(crate) base_root: [u8; 32],
    pub(crate) frames_written: U64,
    pub(crate) identity: [u8; 16],
    pub(crate) parent_identity: [u8; 16],
    pub(crate) common: CommonV1,
}

/// A header of format version 3: that of a snapshot with disks.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct HeaderV3 {
    pub(crate) v2: HeaderV2,
    pub(crate) disks: DisksV1,
}

/// A header of format version 1. It names the base by its identity.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct HeaderV1 {
    pub(crate) identity: [u8; 16],
    pub(crate) base_identity: [u8; 16],
    pub(crate) parent_identity: [u8; 16],
    pub(crate) common: CommonV1,
}

/// The rest of a header, which is the same in all versions.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct CommonV1 {
    pub(crate) memory_bytes: U64,
    pub(crate) created_unix_ns: U64,
    pub(crate) frames_mapped: U64,
    pub(crate) frames_new: U64,
    pub(crate) state_bytes: U32,
    pub(crate) spec_bytes: U32,
    pub(crate) kind: u8,
    pub(crate) name_bytes: u8,
    pub(crate) base_name_bytes: u8,
    pub(crate) reserved: [u8; 5],
    pub(crate) name: [u8; NAME_BYTES_MAX],
    pub(crate) base_name: [u8; NAME_BYTES_MAX],
}

const _: () = assert!(size_of::<HeaderV1>() == 352);
const _: () = assert!(size_of::<HeaderV2>() == 408);
const _: () = assert!(HEADER_BYTES_MAX == 1568);

/// The header of a stream, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamHeader {
    /// The root of the content of the snapshot. A stream of format version 1 has none.
    pub root: Option<ContentRoot>,
    /// Most frames whose content is in the stream. A stream of format version 1 does not say it.
    pub frames_written: Option<u64>,
    /// The snapshot, in any pool. Whoever has seen a stream of it knows it: it proves nothing.
    pub identity: Identity,
    /// Only what differs from this one is in the stream.
    pub base: Option<BaseOf>,
    /// The one that it was taken after, if the sender tells it. It proves nothing.
    pub parent: Option<Identity>,
    /// The kind of the snapshot.
    pub kind: SnapshotKind,
    /// Its name where it was sent.
    pub name: String,
    /// Size of its memory.
    pub memory_bytes: u64,
    /// Its disks. A stream that has some is of format version 3.
    pub disks: Vec<StreamDisk>,
    /// The time at which it was taken, in nanoseconds since 1970.
    pub created_unix_ns: u64,
    /// Frames that have a block where it was sent.
    pub frames_mapped: u64,
    /// Frames that were written since the snapshot before it.
    pub frames_new: u64,
    /// Length of the saved state.
    pub state_bytes: u32,
    /// The specification of the machine, as JSON, for people to read.
    pub spec: String,
}

/// The snapshot that a stream builds on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseOf {
    /// Its content, or its identity.
    pub id: BaseId,
    /// Its name where the stream was sent.
    pub name: String,
}

impl StreamHeader {
    /// Frames of the memory.
    pub fn frames_total(&self) -> u64 {
        self.memory_bytes / BLOCK_SIZE_BYTES
    }

    /// Chunks of the memory.
    pub fn chunks_total(&self) -> u32 {
        u32::try_from(self.memory_bytes.div_ceil(CHUNK_SIZE_BYTES)).unwrap_or(u32::MAX)
    }

    /// Frames of memory, or of a disk.
    pub(crate) fn frames_of(&self, map: usize) -> Option<u64> {
        match map.checked_sub(1) {
            None => Some(self.frames_total()),
            Some(disk) => self.disks.get(disk).map(StreamDisk::frames_total),
        }
    }

    /// The size of what is mapped: of memory and of all disks.
    pub fn bytes_total(&self) -> u64 {
        let disks: u64 = self.disks.iter().map(|disk| disk.size_bytes).sum();
        self.memory_bytes + disks
    }

    /// Bytes of memory and disks before a chunk.
    pub fn bytes_before(&self, map: usize, index: ChunkIndex) -> u64 {
        let disks = self.disks.iter().map(|disk| disk.size_bytes);
        let sizes = std::iter::once(self.memory_bytes).chain(disks);
        sizes.take(map).sum::<u64>() + index.byte_offset()
    }

    /// The oldest format version that can say this: 1 without a root, 2 without disks.
    pub fn version(&self) -> u32 {
        match (self.root, &self.disks[..]) {
            (None, _) => VERSION_1,
            (Some(_), []) => VERSION_2,
            (Some(_), _) => VERSION,
        }
    }

    fn frames_max(&self) -> u64 {
        let disks = self.disks.iter().map(|disk| frames_max(disk.size_bytes));
        frames_max(self.memory_bytes) + disks.sum::<u64>()
    }

    /// Encodes the header as it is in a record of a stream of this [version](Self::version).
    ///
    /// # Errors
    /// [`Error::InvalidSnapshot`] when there is no such header.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let common = self.common()?;
        let parent_identity = self.parent.map_or([0; 16], Identity::bytes);
        let odd = || Error::invalid("a stream names both roots, or none");
        let mut bytes = match (self.root, self.base.as_ref().map(|base| base.id)) {
            (Some(_), Some(BaseId::Identity(_))) | (None, Some(BaseId::Content(_))) => {
                return Err(odd());
            }
            (None, _) if !self.disks.is_empty() => return Err(odd()),
            (Some(root), base) => HeaderV2 {
                root: root.bytes(),
                base_root: match base {
                    Some(BaseId::Content(root)) => root.bytes(),
                    _ => [0; 32],
                },
                frames_written: self.frames_written.ok_or_else(odd)?.into(),
                identity: self.identity.bytes(),
                parent_identity,
                common,
            }
            .as_bytes()
            .to_vec(),
            (None, base) => HeaderV1 {
                identity: self.identity.bytes(),
                base_identity: match base {
                    Some(BaseId::Identity(identity)) => identity.bytes(),
                    _ => [0; 16],
                },
                parent_identity,
                common,
            }
            .as_bytes()
            .to_vec(),
        };
        if !self.disks.is_empty() {
            bytes.extend_from_slice(disks::encode(&self.disks)?.as_bytes());
        }
        bytes.extend_from_slice(self.spec.as_bytes());
        Ok(bytes)
    }

    fn common(&self) -> Result<CommonV1> {
        let mut raw = CommonV1::new_zeroed();
        if let Some(base) = &self.base {
            raw.base_name_bytes = put_name(&mut raw.base_name, &base.name)?;
        }
        raw.memory_bytes = self.memory_bytes.into();
        raw.created_unix_ns = self.created_unix_ns.into();
        raw.frames_mapped = self.frames_mapped.into();
        raw.frames_new = self.frames_new.into();
        raw.state_bytes = self.state_bytes.into();
        raw.spec_bytes = (self.spec.len() as u32).into();
        raw.kind = self.kind as u8;
        raw.name_bytes = put_name(&mut raw.name, &self.name)?;
        if self.spec.len() > SPEC_BYTES_MAX {
            let len = self.spec.len();
            return Err(Error::invalid(format!(
                "the machine's description has {}, and the limit is {}",
                SizeText::needed(len as u64),
                SizeText::of(SPEC_BYTES_MAX as u64)
            )));
        }
        Ok(raw)
    }

    /// Decodes the payload of the header's record in a stream of this version.
    ///
    /// # Errors
    /// [`Error::StreamDamaged`] for one that makes no sense.
    pub fn decode(version: u32, payload: &[u8]) -> Result<StreamHeader> {
        if version == VERSION_1 {
            let (raw, spec) =
                HeaderV1::read_from_prefix(payload).map_err(|_| fault("a wrong length"))?;
            let base = Identity::from_bytes(raw.base_identity).map(BaseId::Identity);
            let identities = (raw.identity, raw.parent_identity);
            return decode_common(&raw.common, base, identities, Vec::new(), spec);
        }
        let (raw, rest) =
            HeaderV2::read_from_prefix(payload).map_err(|_| fault("a wrong length"))?;
        let (disks, spec) = match version {
            VERSION_2 => (Vec::new(), rest),
            _ => {
                let (raw, spec) =
                    DisksV1::read_from_prefix(rest).map_err(|_| fault("a wrong length"))?;
                (disks::decode(&raw)?, spec)
            }
        };
        let base = ContentRoot::from_bytes(raw.base_root).map(BaseId::Content);
        let identities = (raw.identity, raw.parent_identity);
        let header = decode_common(&raw.common, base, identities, disks, spec)?;
        let frames_written = raw.frames_written.get();
        if frames_written > header.frames_max() {
            return Err(fault("more frames than the memory and the disks"));
        }
        Ok(StreamHeader {
            root: Some(ContentRoot::from_bytes(raw.root).ok_or_else(|| fault("no root"))?),
            frames_written: Some(frames_written),
            ..header
        })
    }
}

fn fault(what: &str) -> Error {
    Error::stream_damaged(format!("its header has {what}"))
}

fn decode_common(
    raw: &CommonV1,
    base: Option<BaseId>,
    (identity, parent): ([u8; 16], [u8; 16]),
    disks: Vec<StreamDisk>,
    spec: &[u8],
) -> Result<StreamHeader> {
    let kind =
        SnapshotKind::from_raw(raw.kind).ok_or_else(|| fault("an unknown kind of snapshot"))?;
    let name = name_in(&raw.name, raw.name_bytes).ok_or_else(|| fault("an impossible name"))?;
    let base = match (base, raw.base_name_bytes) {
        (None, 0) => None,
        (Some(id), bytes) => Some(BaseOf {
            id,
            name: name_in(&raw.base_name, bytes)
                .ok_or_else(|| fault("an impossible name of a base"))?,
        }),
        (None, _) => return Err(fault("a base that is not named by what it is")),
    };
    let memory_bytes = raw.memory_bytes.get();
    map_height(memory_bytes).map_err(|_| fault("an impossible memory size"))?;
    if raw.state_bytes.get() as usize > STATE_BYTES_MAX {
        return Err(fault("an impossible length of the saved state"));
    }
    if raw.reserved != [0; 5] || spec.len() != raw.spec_bytes.get() as usize {
        return Err(fault("a wrong length"));
    }
    let header = StreamHeader {
        root: None,
        frames_written: None,
        identity: Identity::from_bytes(identity).ok_or_else(|| fault("no identity"))?,
        base,
        parent: Identity::from_bytes(parent),
        kind,
        name,
        memory_bytes,
        disks,
        created_unix_ns: raw.created_unix_ns.get(),
        frames_mapped: raw.frames_mapped.get(),
        frames_new: raw.frames_new.get(),
        state_bytes: raw.state_bytes.get(),
        spec: String::from_utf8(spec.to_vec()).map_err(|_| fault("a spec that is no text"))?,
    };
    if header.kind != SnapshotKind::Vm && !header.disks.is_empty() {
        return Err(fault("disks of what is no VM"));
    }
    match header.frames_mapped.max(header.frames_new) <= header.frames_max() {
        true => Ok(header),
        false => Err(fault("more frames than the memory and the disks")),
    }
}

/// As an inode's limit: all of the last chunk counts.
fn frames_max(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(CHUNK_SIZE_BYTES) * (CHUNK_SIZE_BYTES / BLOCK_SIZE_BYTES)
}

fn put_name(place: &mut [u8; NAME_BYTES_MAX], name: &str) -> Result<u8> {
    check_name(name)?;
    place[..name.len()].copy_from_slice(name.as_bytes());
    Ok(name.len() as u8)
}

/// The name in a field, behind which all must be zero.
pub(super) fn name_in(field: &[u8; NAME_BYTES_MAX], bytes: u8) -> Option<String> {
    let (name, rest) = field.split_at_checked(usize::from(bytes))?;
    let name = std::str::from_utf8(name).ok()?;
    (check_name(name).is_ok() && rest.iter().all(|byte| *byte == 0)).then(|| name.to_owned())
}
