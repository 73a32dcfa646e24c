//! Lists of condemned packs: those that no manifest needed when a collection looked.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::ids::{ObjectId, PACK_ID_BYTES, PackId};
use crate::boxes::BoxKind;
use crate::error::{Error, Result};
use crate::keys::StoreKeys;

/// Packs and pushes that a list has at most.
pub(crate) const CONDEMNED_MAX: u32 = 1 << 20;

/// The bytes before the packs and pushes of a list.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct CondemnedV1 {
    pub(crate) packs: U32,
    pub(crate) pushes: U32,
    pub(crate) has_witness: U32,
    pub(crate) reserved: U32,
}

/// A list of condemned packs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condemned {
    /// The packs.
    pub(crate) packs: Vec<PackId>,
    /// The pushes that were under way once the list could be read. None: nobody has looked since.
    pub(crate) under_way: Option<Vec<ObjectId>>,
}

impl Condemned {
    pub(crate) fn encode(&self, keys: &StoreKeys, id: ObjectId) -> Result<Vec<u8>> {
        let pushes = self.under_way.as_deref().unwrap_or_default();
        let head = CondemnedV1 {
            packs: (self.packs.len() as u32).into(),
            pushes: (pushes.len() as u32).into(),
            has_witness: u32::from(self.under_way.is_some()).into(),
            reserved: 0.into(),
        };
        let mut payload = head.as_bytes().to_vec();
        payload.extend_from_slice(self.packs.as_bytes());
        payload.extend_from_slice(pushes.as_bytes());
        keys.wrap(BoxKind::Condemned, id.as_bytes(), &payload)
    }

    /// # Errors
    /// [`Error::Damaged`].
    pub(crate) fn decode(keys: &StoreKeys, id: ObjectId, bytes: &[u8]) -> Result<Condemned> {
        let object = format_args!("the list of condemned packs {id}");
        let damaged = || Error::damaged(object, "it makes no sense");
        let (payload, behind) = keys.unwrap(BoxKind::Condemned, id.as_bytes(), bytes, &object)?;
        let read = CondemnedV1::read_from_prefix(&payload);
        let (head, rest) = read.map_err(|_| damaged())?;
        let (packs, pushes) = (head.packs.get(), head.pushes.get());
        let is_known = head.has_witness.get() <= 1 && head.reserved == 0 && behind.is_empty();
        if packs.max(pushes) > CONDEMNED_MAX || !is_known {
            return Err(damaged());
        }
        let (packs, pushes) = rest
            .split_at_checked(packs as usize * PACK_ID_BYTES)
            .ok_or_else(damaged)?;
        let packs = <[PackId]>::ref_from_bytes(packs).map_err(|_| damaged())?;
        let pushes = <[ObjectId]>::ref_from_bytes(pushes).map_err(|_| damaged())?;
        if pushes.len() != head.pushes.get() as usize {
            return Err(damaged());
        }
        Ok(Condemned {
            packs: packs.to_vec(),
            under_way: (head.has_witness == 1).then(|| pushes.to_vec()),
        })
    }
}
