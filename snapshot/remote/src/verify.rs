//! Verifies a store: each pack that a snapshot needs is read, and each piece held against its name.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use nvvmm_snapshot::MoveProgress;

use crate::error::{Error, Result};
use crate::keys::PieceName;
use crate::layout::ids::PackId;
use crate::layout::manifest::{Manifest, PieceRow};
use crate::layout::pack::{TAIL_BYTES_MAX, pieces_of};
use crate::layout::{PACK_BYTES, STORED_BYTES_MAX};
use crate::piece::PieceReader;
use crate::store::Store;

/// Bytes of the largest pack.
const PACK_BYTES_MAX: u64 = (PACK_BYTES + STORED_BYTES_MAX) as u64 + TAIL_BYTES_MAX;

/// Something that is not what was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The finding, with the object.
    pub what: String,
    /// Snapshots that need it.
    pub snapshots: Vec<String>,
}

/// The result of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Snapshots that were read.
    pub snapshots_count: u64,
    /// Packs that they need.
    pub packs_count: u64,
    /// Pieces in these packs.
    pub pieces_count: u64,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// The findings.
    pub faults: Vec<Fault>,
}

/// A good piece of a pack.
type Good = HashSet<(u32, u32, PieceName)>;

impl Store {
    /// Reads all that snapshots need, each pack once. Nothing is changed.
    ///
    /// # Errors
    /// [`Error::Denied`], [`Error::Failed`], [`nvvmm_snapshot::Error::Interrupted`]. What is
    /// damaged is in the report.
    pub fn verify(
        &self,
        on_progress: &mut dyn FnMut(MoveProgress) -> ControlFlow<()>,
    ) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let mut needs: HashMap<PackId, Vec<(String, Vec<PieceRow>)>> = HashMap::new();
        for object in self.manifest_objects()? {
            match self.manifest_in(&object) {
                Ok(Some(manifest)) => {
                    report.snapshots_count += 1;
                    note_needs(&manifest, &mut needs);
                }
                // It was removed meanwhile.
                Ok(None) => {}
                Err(error) => report.faults.push(Fault {
                    what: as_finding(error)?,
                    snapshots: Vec::new(),
                }),
            }
        }
        let sizes: HashMap<PackId, u64> = self.packs()?.into_iter().collect();
        let bytes_total = needs.keys().filter_map(|pack| sizes.get(pack)).sum();
        let mut reader = PieceReader::new()?;
        let mut packs: Vec<_> = needs.into_iter().collect();
        packs.sort_by_key(|(pack, _)| *pack);
        for (pack, needed_by) in packs {
            let progress = MoveProgress {
                bytes_done: report.read_bytes,
                bytes_total,
            };
            if on_progress(progress).is_break() {
                return Err(nvvmm_snapshot::Error::Interrupted.into());
            }
            report.packs_count += 1;
            let good = self.good_pieces(pack, &mut reader, &mut report);
            let (good, what) = match good {
                Ok(good) => (
                    good,
                    format!("pack {pack} has other content than a snapshot needs"),
                ),
                Err(error) => (Good::new(), as_finding(error)?),
            };
            let is_good = |row: &PieceRow| good.contains(&(row.offset, row.bytes, row.name));
            let hurt = needed_by
                .into_iter()
                .filter(|(_, rows)| !rows.iter().all(is_good));
            let snapshots: Vec<String> = hurt.map(|(name, _)| name).collect();
            if !snapshots.is_empty() {
                report.faults.push(Fault { what, snapshots });
            }
        }
        Ok(report)
    }

    /// The pieces of a pack whose content has their name.
    fn good_pieces(
        &self,
        pack: PackId,
        reader: &mut PieceReader,
        report: &mut VerifyReport,
    ) -> Result<Good> {
        let bytes = self.objects.get(&Store::pack_path(pack), PACK_BYTES_MAX)?;
        let bytes = bytes.ok_or_else(|| Error::Missing {
            object: format!("pack {pack}"),
        })?;
        report.read_bytes += bytes.len() as u64;
        let pieces = pieces_of(&self.keys, pack, bytes.len() as u64, &bytes)?;
        report.pieces_count += pieces.len() as u64;
        let mut good = Good::new();
        for piece in pieces {
            let stored = &bytes[piece.offset as usize..][..piece.bytes as usize];
            if reader.content(&self.keys, &piece.name, stored).is_ok() {
                good.insert((piece.offset, piece.bytes, piece.name));
            }
        }
        Ok(good)
    }
}

fn note_needs(manifest: &Manifest, needs: &mut HashMap<PackId, Vec<(String, Vec<PieceRow>)>>) {
    let mut rows = manifest.pieces.clone();
    rows.sort_by_key(|row| row.pack);
    for of_pack in rows.chunk_by(|left, right| left.pack == right.pack) {
        let pack = manifest.packs[of_pack[0].pack as usize];
        let name = manifest.head.header.name.clone();
        needs
            .entry(pack)
            .or_default()
            .push((name, of_pack.to_vec()));
    }
}

/// The text of what is wrong with the store. Other errors end the verification.
fn as_finding(error: Error) -> Result<String> {
    match error {
        Error::Damaged { .. } | Error::Missing { .. } | Error::Version { .. } => {
            Ok(error.to_string())
        }
        error => Err(error),
    }
}
