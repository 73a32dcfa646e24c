//! The state blob of a snapshot: everything that is not guest memory.
//!
//! ```text
//! header   magic "NVVMSTAT" | format version u32 | sections u32 | length u64 | crc32 u32
//!          | reserved u32
//! table    per section: id u32 | version u32 | offset u64 | length u64 | crc32 u32 | reserved u32
//! payload  the sections
//! ```
//! Little-endian. The header's checksum covers the table, each section's its payload; `length` is
//! the whole blob's. All of it is checked before anything is decoded. An unknown section, or a
//! known one of another version, is an error: state is never dropped in silence.

use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout,
    little_endian::{U32, U64},
};

use nvvmm_devices::virtio::ContentStamp;

use crate::{
    machine::MachineStateV1,
    spec::{self, SpecError, VmSpec},
};

const MAGIC: [u8; 8] = *b"NVVMSTAT";
/// Version of the layout above.
pub const FORMAT_VERSION: u32 = 1;
/// More sections than any version has.
const SECTIONS_MAX: u32 = 16;

/// Bytes of machine state at most: interrupt controllers, timer and devices; and for each vCPU its
/// registers, CPUID, MSRs and the xsave area (11 KiB with AMX).
const MACHINE_BYTES_MAX: usize = 16 << 10;
const VCPU_BYTES_MAX: usize = 32 << 10;
/// Bytes of one disk in the section of disks at most.
const DISK_BYTES_MAX: usize = 256;

const SPEC: u32 = 1;
const MACHINE: u32 = 2;
/// The state of processes ([`crate::process::SavedProcess`]), which is in a blob of its own.
pub(crate) const PROCESS: u32 = 3;
const DISKS: u32 = 4;
pub(crate) const SECTION_VERSION: u32 = 1;

#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
struct Header {
    magic: [u8; 8],
    version: U32,
    sections: U32,
    length: U64,
    crc32: U32,
    reserved: U32,
}

#[derive(Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Clone, Copy)]
#[repr(C)]
pub(crate) struct Section {
    id: U32,
    version: U32,
    offset: U64,
    length: U64,
    crc32: U32,
    reserved: U32,
}

impl Section {
    pub(crate) fn id(&self) -> u32 {
        self.id.get()
    }

    pub(crate) fn version(&self) -> u32 {
        self.version.get()
    }
}

const _: () = assert!(size_of::<Header>() == 32 && size_of::<Section>() == 32);

/// Why a state blob cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BlobError {
    /// The blob does not begin with the magic number.
    #[error("this is not the state of an nvvmm machine")]
    NotState,
    /// Another version wrote it.
    #[error("the state is of format version {found}; this nvvmm reads version {expected}")]
    Version {
        /// Version in the blob.
        found: u32,
        /// Version this program reads.
        expected: u32,
    },
    /// The blob is not as it was written.
    #[error("the state is damaged: {0}")]
    Damaged(String),
    /// The machine is one of another architecture.
    #[error("{0}")]
    OtherArchitecture(String),
    /// A section that this version does not know.
    #[error("the state holds section {id} version {version}, which this nvvmm does not know")]
    UnknownSection {
        /// Number of the section.
        id: u32,
        /// Its version.
        version: u32,
    },
}

/// State of a VM besides memory.
#[derive(Debug, Clone)]
pub struct SavedVm {
    /// Specification that the VM was made by.
    pub spec: VmSpec,
    /// KVM and device state.
    pub machine: MachineStateV1,
    /// Content of each disk, in the order of the spec; `None` in it for a disk of which nothing
    /// can be told. `None` in snapshots that were taken before this was saved.
    pub disks: Option<Vec<Option<ContentStamp>>>,
}

impl SavedVm {
    /// Largest size of the blob of a machine, in bytes.
    pub fn bytes_at_most(spec: &VmSpec) -> Result<usize, BlobError> {
        let headers = size_of::<Header>() + 3 * size_of::<Section>();
        let machine = MACHINE_BYTES_MAX + VCPU_BYTES_MAX * usize::from(spec.vcpus);
        let disks = DISK_BYTES_MAX * spec.disks().count();
        Ok(headers + encode_spec(spec)?.len() + machine + disks)
    }

    /// The blob's bytes. The spec decides the version of its section.
    pub fn encode(&self) -> Result<Vec<u8>, BlobError> {
        let spec = encode_spec(&self.spec)?;
        let machine = postcard::to_allocvec(&self.machine)
            .map_err(|e| not_encoded("the machine state", &e))?;
        let mut parts: Vec<(u32, u32, &[u8])> = vec![
            (SPEC, self.spec.section_version(), &spec),
            (MACHINE, SECTION_VERSION, &machine),
        ];
        let disks = self.disks.as_ref().map(serde_json::to_vec).transpose();
        let disks = disks.map_err(|e| not_encoded("the disks", &e))?;
        if let Some(disks) = &disks {
            parts.push((DISKS, SECTION_VERSION, disks));
        }
        Ok(assemble_versions(&parts))
    }

    /// Checks and decodes a blob.
    pub fn decode(blob: &[u8]) -> Result<Self, BlobError> {
        let (mut spec, mut machine, mut disks) = (None, None, None);
        // The spec, which is the first, names the architecture that the rest is of.
        let mut sections = sections(blob)?;
        sections.sort_by_key(|(section, _)| section.id.get());
        for (section, payload) in sections {
            match (section.id.get(), section.version.get()) {
                (SPEC, version) if VmSpec::reads_section(version) => {
                    spec = Some(decode_spec(payload)?);
                }
                (MACHINE, SECTION_VERSION) => machine = Some(decode_machine(payload)?),
                (DISKS, SECTION_VERSION) => disks = Some(decode_disks(payload)?),
                (id, version) => return Err(BlobError::UnknownSection { id, version }),
            }
        }
        let (Some(spec), Some(machine)) = (spec, machine) else {
            return Err(BlobError::Damaged("a section is missing".into()));
        };
        let count = spec.disks().count();
        match &disks {
            Some(disks) if disks.len() != count => Err(BlobError::Damaged(format!(
                "the machine has {count} disks, the content of {} is noted",
                disks.len()
            ))),
            _ => Ok(Self {
                spec,
                machine,
                disks,
            }),
        }
    }
}

fn encode_spec(spec: &VmSpec) -> Result<Vec<u8>, BlobError> {
    serde_json::to_vec(spec).map_err(|e| not_encoded("the spec", &e))
}

fn not_encoded(what: &str, error: &dyn std::fmt::Display) -> BlobError {
    BlobError::Damaged(format!("{what} cannot be encoded: {error}"))
}

fn decode_spec(payload: &[u8]) -> Result<VmSpec, BlobError> {
    spec::decode(payload).map_err(|error| match error {
        SpecError::OtherArchitecture(_) => BlobError::OtherArchitecture(error.to_string()),
        SpecError::Damaged(_) => BlobError::Damaged(error.to_string()),
    })
}

fn decode_disks(payload: &[u8]) -> Result<Vec<Option<ContentStamp>>, BlobError> {
    serde_json::from_slice(payload).map_err(|e| BlobError::Damaged(format!("disks: {e}")))
}

fn decode_machine(payload: &[u8]) -> Result<MachineStateV1, BlobError> {
    match postcard::take_from_bytes(payload) {
        Ok((machine, [])) => Ok(machine),
        Ok((_, rest)) => Err(BlobError::Damaged(format!(
            "machine state: {} bytes left over",
            rest.len()
        ))),
        Err(e) => Err(BlobError::Damaged(format!("machine state: {e}"))),
    }
}

pub(crate) fn assemble(parts: &[(u32, &[u8])]) -> Vec<u8> {
    let parts: Vec<_> = parts
        .iter()
        .map(|&(id, payload)| (id, SECTION_VERSION, payload))
        .collect();
    assemble_versions(&parts)
}

/// Puts sections together, each given by its number, its version and its payload.
fn assemble_versions(parts: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let mut offset = size_of::<Header>() + parts.len() * size_of::<Section>();
    let mut table = Vec::new();
    for (id, version, payload) in parts {
        let section = Section {
            id: U32::new(*id),
            version: U32::new(*version),
            offset: U64::new(offset as u64),
            length: U64::new(payload.len() as u64),
            crc32: U32::new(crc32fast::hash(payload)),
            reserved: U32::ZERO,
        };
        table.extend_from_slice(section.as_bytes());
        offset += payload.len();
    }
    let header = Header {
        magic: MAGIC,
        version: U32::new(FORMAT_VERSION),
        sections: U32::new(parts.len() as u32),
        length: U64::new(offset as u64),
        crc32: U32::new(crc32fast::hash(&table)),
        reserved: U32::ZERO,
    };
    let mut blob = header.as_bytes().to_vec();
    blob.extend(table);
    parts
        .iter()
        .for_each(|(_, _, payload)| blob.extend_from_slice(payload));
    blob
}

pub(crate) fn sections(blob: &[u8]) -> Result<Vec<(Section, &[u8])>, BlobError> {
    let damaged = |what: &str| BlobError::Damaged(what.into());
    let (header, rest) = Header::read_from_prefix(blob).map_err(|_| BlobError::NotState)?;
    if header.magic != MAGIC {
        return Err(BlobError::NotState);
    }
    if header.version.get() != FORMAT_VERSION {
        return Err(BlobError::Version {
            found: header.version.get(),
            expected: FORMAT_VERSION,
        });
    }
    if header.length.get() != blob.len() as u64 {
        return Err(BlobError::Damaged(format!(
            "{} bytes, should be {}",
            blob.len(),
            header.length
        )));
    }
    if header.sections.get() > SECTIONS_MAX {
        return Err(damaged("too many sections"));
    }
    let table_size = header.sections.get() as usize * size_of::<Section>();
    let table = rest
        .get(..table_size)
        .ok_or_else(|| damaged("the section table is cut off"))?;
    if crc32fast::hash(table) != header.crc32.get() {
        return Err(damaged("the section table's checksum differs"));
    }
    table
        .chunks_exact(size_of::<Section>())
        .map(|raw| section_payload(blob, raw))
        .collect()
}

fn section_payload<'a>(blob: &'a [u8], raw: &[u8]) -> Result<(Section, &'a [u8]), BlobError> {
    let section =
        Section::read_from_bytes(raw).map_err(|_| BlobError::Damaged("section table".into()))?;
    let id = section.id.get();
    let range = section
        .offset
        .get()
        .checked_add(section.length.get())
        .and_then(|end| {
            Some(usize::try_from(section.offset.get()).ok()?..usize::try_from(end).ok()?)
        });
    let payload = range
        .and_then(|range| blob.get(range))
        .ok_or_else(|| BlobError::Damaged(format!("section {id} is cut off")))?;
    if crc32fast::hash(payload) != section.crc32.get() {
        return Err(BlobError::Damaged(format!(
            "section {id}: its checksum differs"
        )));
    }
    Ok((section, payload))
}

#[cfg(test)]
#[path = "blob_test.rs"]
mod blob_test;
