//! Boxes: what is around each payload of a store that is no piece.

use std::fmt::Display;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::{Error, Result};

/// Version of the format of stores.
pub(crate) const VERSION: u32 = 1;
/// Bytes of a salt, and of a digest.
pub(crate) const SALT_BYTES: usize = 32;
/// Bytes before the payload.
pub(crate) const BOX_BYTES: usize = size_of::<BoxV1>();
/// Bytes that a box can add to a payload.
pub(crate) const BOX_BYTES_MAX: usize = BOX_BYTES + 16;

/// The bytes before the payload of a box.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct BoxV1 {
    pub(crate) magic: [u8; 8],
    pub(crate) version: U32,
    pub(crate) form: U32,
    pub(crate) stored_bytes: U32,
    pub(crate) reserved: [u8; 12],
    pub(crate) salt: [u8; SALT_BYTES],
}

const _: () = assert!(BOX_BYTES == 64);

/// The kind of a box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BoxKind {
    /// The head of a manifest.
    Head,
    /// Its body.
    Body,
    /// The index of a pack.
    Index,
    /// A list of condemned packs.
    Condemned,
    /// The order in which a guest touched its memory.
    Touches,
}

impl BoxKind {
    pub(crate) fn magic(self) -> [u8; 8] {
        match self {
            BoxKind::Head => *b"NVVMSNAP",
            BoxKind::Body => *b"NVVMBODY",
            BoxKind::Index => *b"NVVMINDX",
            BoxKind::Condemned => *b"NVVMCOND",
            BoxKind::Touches => *b"NVVMTOUC",
        }
    }
}

/// The form of a store, and of each box in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Form {
    /// With digests, which find accidents.
    Plain = 0,
    /// Encrypted and authenticated.
    Sealed = 1,
}

impl Form {
    pub(crate) fn from_raw(raw: u32) -> Option<Form> {
        [Form::Plain, Form::Sealed]
            .into_iter()
            .find(|form| *form as u32 == raw)
    }
}

impl BoxV1 {
    pub(crate) fn new(kind: BoxKind, form: Form, stored_bytes: u32) -> BoxV1 {
        BoxV1 {
            magic: kind.magic(),
            version: VERSION.into(),
            form: (form as u32).into(),
            stored_bytes: stored_bytes.into(),
            ..BoxV1::new_zeroed()
        }
    }

    /// Reads what is before the payload, which follows.
    pub(crate) fn read<'b>(
        kind: BoxKind,
        bytes: &'b [u8],
        object: &dyn Display,
    ) -> Result<(BoxV1, &'b [u8])> {
        let read = BoxV1::read_from_prefix(bytes);
        let (head, rest) = read.map_err(|_| Error::damaged(object, "it is cut off"))?;
        if head.magic != kind.magic() || head.reserved != [0; 12] {
            return Err(Error::damaged(object, "it is something else"));
        }
        match head.version.get() {
            VERSION => Ok((head, rest)),
            found => Err(Error::Version {
                found,
                expected: VERSION,
            }),
        }
    }

    pub(crate) fn form(&self) -> Option<Form> {
        Form::from_raw(self.form.get())
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    /// The bytes before the salt.
    pub(crate) fn fixed(&self) -> &[u8] {
        &self.as_bytes()[..BOX_BYTES - SALT_BYTES]
    }
}
