//! State in an image besides pages.

use crate::checkpoint::blob::{self, BlobError};

/// The state of the processes, as the guest's agent encoded it. The host does not look into it: to
/// the guest it is as any bytes, and its agent checks them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedProcess {
    /// The agent's image.
    pub image: Vec<u8>,
}

impl SavedProcess {
    /// Longest image: what an inode's state can hold with the headers around it.
    pub const IMAGE_BYTES_MAX: usize = (2 << 20) - 4096;

    /// The state blob's bytes.
    pub fn encode(&self) -> Vec<u8> {
        blob::assemble(&[(blob::PROCESS, &self.image)])
    }

    /// Checks and decodes a state blob.
    pub fn decode(state: &[u8]) -> Result<Self, BlobError> {
        let mut image = None;
        for (section, payload) in blob::sections(state)? {
            match (section.id(), section.version()) {
                (blob::PROCESS, blob::SECTION_VERSION) => image = Some(payload.to_vec()),
                (id, version) => return Err(BlobError::UnknownSection { id, version }),
            }
        }
        image
            .map(|image| Self { image })
            .ok_or_else(|| BlobError::Damaged("a section is missing".into()))
    }
}
