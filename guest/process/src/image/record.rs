//! The bytes of an image: a header of 24 bytes, then the state in postcard's encoding. Numbers are
//! little-endian.
//!
//! | offset | size | |
//! |---|---|---|
//! | 0 | 8 | `NVVMPROC` |
//! | 8 | 4 | version of the encoding, 5 (1 to 4 are read, too) |
//! | 12 | 4 | architecture: the number of ELF files (`e_machine`), 62: x86-64; 0: x86-64, too |
//! | 16 | 4 | length of the state in bytes |
//! | 20 | 4 | CRC-32 of the state |

use super::Image;
use crate::arch::{ARCHITECTURE, Architecture};
use crate::error::Error;

const MAGIC: [u8; 8] = *b"NVVMPROC";
const VERSION: u32 = 5;
/// An older version: the state ends before the field `segments`.
const VERSION_4: u32 = 4;
/// An older version: the state ends before the field `held`.
const VERSION_3: u32 = 3;
/// An older version: the state ends before the field `settings`.
const VERSION_2: u32 = 2;
/// The oldest version: the state ends before the field `barriers`.
const VERSION_1: u32 = 1;
/// The encodings of the lists that an older state lacks: all of them are empty.
const LACKS_4: [u8; 2] = [0; 2];
const LACKS_3: [u8; 5] = [0; 5];
const LACKS_2: [u8; 9] = [0; 9];
const LACKS_1: [u8; 10] = [0; 10];
const HEADER_BYTES: usize = 24;
/// The architecture of images from before this field: x86-64.
const UNNAMED: u32 = 0;

impl Image {
    /// The longest record that is read or written.
    pub const BYTES_MAX: usize = 64 << 20;

    /// The image as bytes; an error if it is larger than [`Image::BYTES_MAX`].
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let state =
            postcard::to_stdvec(self).map_err(|_| Error::BadImage("it cannot be encoded"))?;
        if state.len() > Self::BYTES_MAX - HEADER_BYTES {
            return Err(Error::BadImage("its state is larger than 64 MiB"));
        }
        let mut bytes = Vec::with_capacity(HEADER_BYTES + state.len());
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(ARCHITECTURE.0.to_le_bytes());
        bytes.extend((state.len() as u32).to_le_bytes());
        bytes.extend(crc32fast::hash(&state).to_le_bytes());
        bytes.extend(state);
        Ok(bytes)
    }

    /// The image of these bytes. What it gives can be restarted without any further check of its
    /// own consistency.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let (header, state) = bytes
            .split_at_checked(HEADER_BYTES)
            .ok_or(Error::BadImage("it is too short"))?;
        let number = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        if header[..8] != MAGIC {
            return Err(Error::BadImage("it does not begin like one"));
        }
        let version = number(8);
        if !(VERSION_1..=VERSION).contains(&version) {
            return Err(Error::BadImage("another version of nvvmm made it"));
        }
        let architecture = match number(12) {
            UNNAMED => Architecture::X86_64,
            number => Architecture(number),
        };
        if architecture != ARCHITECTURE {
            return Err(Error::OtherArchitecture(architecture.to_string()));
        }
        if bytes.len() > Self::BYTES_MAX || number(16) as usize != state.len() {
            return Err(Error::BadImage("its length is not what its header says"));
        }
        if number(20) != crc32fast::hash(state) {
            return Err(Error::BadImage("its checksum does not match"));
        }
        let image = match version {
            VERSION_1 => Self::decode_state(&[state, &LACKS_1].concat()),
            VERSION_2 => Self::decode_state(&[state, &LACKS_2].concat()),
            VERSION_3 => Self::decode_state(&[state, &LACKS_3].concat()),
            VERSION_4 => Self::decode_state(&[state, &LACKS_4].concat()),
            _ => Self::decode_state(state),
        }?;
        image.validate().map_err(Error::BadImage)?;
        Ok(image)
    }

    fn decode_state(state: &[u8]) -> Result<Self, Error> {
        let (image, rest) = postcard::take_from_bytes(state)
            .map_err(|_| Error::BadImage("its state cannot be decoded"))?;
        if !rest.is_empty() {
            return Err(Error::BadImage("there is more behind its state"));
        }
        Ok(image)
    }
}
