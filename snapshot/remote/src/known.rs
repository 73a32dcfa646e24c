//! Pieces that a store has, known by the indexes of its packs.

use std::collections::{HashMap, HashSet};

use crate::error::{Error, Result};
use crate::keys::PieceName;
use crate::layout::condemned::{CONDEMNED_MAX, Condemned};
use crate::layout::ids::{ObjectId, PACK_ID_BYTES, PackId};
use crate::layout::pack::{Packed, TAIL_BYTES_MAX, pieces_of};
use crate::store::{CONDEMNED, Store};

/// Indexes of packs that are read at once.
const INDEXES_AT_ONCE: usize = 1024;
/// Bytes of the longest list of condemned packs.
const LIST_BYTES_MAX: u64 = 4096 + 2 * CONDEMNED_MAX as u64 * PACK_ID_BYTES as u64;

/// The place of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PiecePlace {
    /// The pack, by its place in [`Known::packs`].
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) bytes: u32,
}

/// Pieces that a snapshot may count on.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// The packs that pieces are in.
    pub(crate) packs: Vec<PackId>,
    places: HashMap<PieceName, PiecePlace>,
}

impl Known {
    /// Reads the indexes of all packs that are not condemned, as far as they were not read before.
    /// The lists of condemned packs are read before the packs are listed: what is in neither is
    /// gone.
    pub(crate) fn read(store: &Store, indexes: &mut Indexes) -> Result<Known> {
        let condemned = condemned_packs(store)?;
        let packs = store.packs()?.into_iter();
        let is_usable = |(pack, bytes): &(PackId, u64)| !condemned.contains(pack) && *bytes > 0;
        let packs: Vec<(PackId, u64)> = packs.filter(is_usable).collect();
        let there: HashSet<PackId> = packs.iter().map(|(pack, _)| *pack).collect();
        indexes.0.retain(|pack, _| there.contains(pack));
        indexes.read(store, &packs)?;
        let mut known = Known::default();
        for (pack, _) in &packs {
            if let Some(pieces) = indexes.0.get(pack) {
                known.add(*pack, pieces)?;
            }
        }
        Ok(known)
    }

    /// Takes note of the pieces of a pack.
    pub(crate) fn add(&mut self, pack: PackId, pieces: &[Packed]) -> Result<()> {
        let place = self.begin_pack(pack)?;
        for piece in pieces {
            self.places.entry(piece.name).or_insert(PiecePlace {
                pack: place,
                offset: piece.offset,
                bytes: piece.bytes,
            });
        }
        Ok(())
    }

    /// Takes note of a pack, whose pieces follow.
    pub(crate) fn begin_pack(&mut self, pack: PackId) -> Result<u32> {
        let place = u32::try_from(self.packs.len());
        let place = place.map_err(|_| Error::damaged("the store", "it has too many packs"))?;
        self.packs.push(pack);
        Ok(place)
    }

    pub(crate) fn insert(&mut self, name: PieceName, place: PiecePlace) {
        self.places.insert(name, place);
    }

    pub(crate) fn place_of(&self, name: &PieceName) -> Option<PiecePlace> {
        self.places.get(name).copied()
    }
}

/// Indexes of packs that were read. A pack does not change, so neither does its index.
#[derive(Debug, Default)]
pub(crate) struct Indexes(HashMap<PackId, Vec<Packed>>);

impl Indexes {
    /// Reads those of `packs` that are not there.
    fn read(&mut self, store: &Store, packs: &[(PackId, u64)]) -> Result<()> {
        let lacking = packs.iter().filter(|(pack, _)| !self.0.contains_key(pack));
        let lacking: Vec<(PackId, u64)> = lacking.copied().collect();
        for some in lacking.chunks(INDEXES_AT_ONCE) {
            let tails = some.iter().map(|(pack, bytes)| {
                let from = bytes.saturating_sub(TAIL_BYTES_MAX);
                (Store::pack_path(*pack), from..*bytes)
            });
            let tails = store.objects.get_ranges(tails.collect())?;
            for ((pack, bytes), tail) in some.iter().zip(tails) {
                let pieces = match tail {
                    Some(tail) => pieces_of(&store.keys, *pack, *bytes, &tail),
                    // A collection has deleted it meanwhile: it is of a list that is gone, too.
                    None => continue,
                };
                match pieces {
                    Ok(pieces) => {
                        self.0.insert(*pack, pieces);
                    }
                    Err(Error::Damaged { object, what }) => {
                        tracing::warn!(object, what, "a pack is left alone");
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// All lists of condemned packs that are there.
pub(crate) fn condemned_lists(store: &Store) -> Result<Vec<(ObjectId, Condemned)>> {
    let mut lists = Vec::new();
    for listed in store.objects.list(CONDEMNED)? {
        let Ok(id) = listed.name.parse::<ObjectId>() else {
            continue;
        };
        // One that is gone meanwhile has had its packs deleted before.
        let name = format!("{CONDEMNED}/{id}");
        if let Some(bytes) = store.objects.get(&name, LIST_BYTES_MAX)? {
            lists.push((id, Condemned::decode(&store.keys, id, &bytes)?));
        }
    }
    Ok(lists)
}

fn condemned_packs(store: &Store) -> Result<HashSet<PackId>> {
    let lists = condemned_lists(store)?.into_iter();
    Ok(lists.flat_map(|(_, list)| list.packs).collect())
}
