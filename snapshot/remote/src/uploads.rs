//! Packs that are filled, and on their way.

use std::collections::VecDeque;

use nvvmm_snapshot::{FaultPoint, fault_point};

use crate::error::Result;
use crate::keys::PieceName;
use crate::known::{Known, PiecePlace};
use crate::layout::ids::{ObjectId, PackId};
use crate::layout::pack::{PACK_PIECES_MAX, Packed, tail};
use crate::objects::UnderWay;
use crate::store::Store;

/// Packs on their way at once: each is in memory.
const UPLOADS_MAX: usize = 4;

/// The packs of a push.
pub(crate) struct Uploads<'s> {
    store: &'s Store,
    push: ObjectId,
    /// The pack that is being filled, and its place in [`Known::packs`].
    pack: PackId,
    place: u32,
    next_number: u32,
    bytes: Vec<u8>,
    pieces: Vec<Packed>,
    under_way: VecDeque<UnderWay<()>>,
    pub(crate) packs_count: u64,
}

impl<'s> Uploads<'s> {
    pub(crate) fn new(store: &'s Store, push: ObjectId) -> Uploads<'s> {
        Uploads {
            store,
            push,
            pack: PackId::new(push, 0),
            place: 0,
            next_number: 0,
            bytes: Vec::new(),
            pieces: Vec::new(),
            under_way: VecDeque::new(),
            packs_count: 0,
        }
    }

    /// Puts a piece into the pack that is being filled; its place.
    pub(crate) fn add(
        &mut self,
        known: &mut Known,
        name: PieceName,
        stored: &[u8],
    ) -> Result<PiecePlace> {
        if self.pieces.is_empty() {
            self.pack = PackId::new(self.push, self.next_number);
            self.next_number += 1;
            self.place = known.begin_pack(self.pack)?;
        }
        let place = PiecePlace {
            pack: self.place,
            offset: self.bytes.len() as u32,
            bytes: stored.len() as u32,
        };
        self.bytes.extend_from_slice(stored);
        self.pieces.push(Packed {
            name,
            offset: place.offset,
            bytes: place.bytes,
        });
        known.insert(name, place);
        if self.bytes.len() >= self.store.pack_bytes || self.pieces.len() == PACK_PIECES_MAX {
            self.send()?;
        }
        Ok(place)
    }

    /// Sends the pack that is being filled, if it has anything.
    fn send(&mut self) -> Result<()> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.extend_from_slice(&tail(&self.store.keys, self.pack, &self.pieces)?);
        self.pieces.clear();
        let objects = &self.store.objects;
        while self.under_way.len() >= UPLOADS_MAX.min(objects.parallel()) {
            self.wait_for_one()?;
        }
        let name = Store::pack_path(self.pack);
        self.under_way.push_back(objects.begin_put(name, bytes));
        self.packs_count += 1;
        Ok(())
    }

    fn wait_for_one(&mut self) -> Result<()> {
        if let Some(first) = self.under_way.pop_front() {
            self.store.objects.wait(first)?;
            fault_point(FaultPoint::PushPackPut);
        }
        Ok(())
    }

    /// Sends the rest, and waits until all packs are in the store.
    pub(crate) fn finish(&mut self) -> Result<()> {
        self.send()?;
        while !self.under_way.is_empty() {
            self.wait_for_one()?;
        }
        Ok(())
    }
}
