//! Identities of pushes, of collections, and of packs.

use std::fmt;
use std::str::FromStr;

use nvvmm_snapshot::fill_random;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::Result;
use crate::keys::hex;

/// The identity of a push or of a collection: random, and in names of objects.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct ObjectId(pub(crate) [u8; 16]);

impl ObjectId {
    /// An identity that nobody has had.
    pub(crate) fn random() -> Result<ObjectId> {
        let mut bytes = [0; 16];
        fill_random(&mut bytes)?;
        Ok(ObjectId(bytes))
    }
}

/// Bytes at the beginning of a push's identity by which a series is known.
const SERIES_BYTES: usize = 8;

/// A series of pushes by one process at a time. The identities of its pushes begin alike, so that
/// the next process finds what one has left that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Series([u8; SERIES_BYTES]);

impl Series {
    /// The series of a name with this hash.
    pub(crate) fn new(hash: [u8; 32]) -> Series {
        let mut bytes = [0; SERIES_BYTES];
        bytes.copy_from_slice(&hash[..SERIES_BYTES]);
        Series(bytes)
    }

    /// An identity of a push of the series that nobody has had.
    pub(crate) fn push(self) -> Result<ObjectId> {
        let mut id = ObjectId::random()?;
        id.0[..SERIES_BYTES].copy_from_slice(&self.0);
        Ok(id)
    }

    /// True for a push of the series.
    pub(crate) fn has(self, push: ObjectId) -> bool {
        push.0.starts_with(&self.0)
    }
}

impl FromStr for ObjectId {
    type Err = ();

    fn from_str(text: &str) -> Result<ObjectId, ()> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() != 32 || !text.bytes().all(is_digit) {
            return Err(());
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| ())?;
        Ok(ObjectId(number.to_be_bytes()))
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, out)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// The identity of a pack: the push that wrote it, and its number there.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct PackId {
    pub(crate) push: ObjectId,
    pub(crate) number: U32,
}

pub(crate) const PACK_ID_BYTES: usize = size_of::<PackId>();
const _: () = assert!(PACK_ID_BYTES == 20);

impl PackId {
    pub(crate) fn new(push: ObjectId, number: u32) -> PackId {
        PackId {
            push,
            number: number.into(),
        }
    }
}

impl FromStr for PackId {
    type Err = ();

    /// The identity in the name of a pack's object, `<push>/<number>`.
    fn from_str(text: &str) -> Result<PackId, ()> {
        let (push, number) = text.split_once('/').ok_or(())?;
        let number = u32::from_str_radix(number, 16).map_err(|_| ())?;
        let pack = PackId::new(push.parse()?, number);
        (pack.to_string() == text).then_some(pack).ok_or(())
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{:08x}", self.push, self.number.get())
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}
