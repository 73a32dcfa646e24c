//! Records of first touches: which memory of a snapshot a guest needs at first. The first host that
//! restores a snapshot while it arrives writes one, and all others fetch in that order.
//!
//! The record is a hint: one that is damaged, or cannot be read or written, is like none.

use nvvmm_snapshot::ChunkIndex;

use crate::layout::manifest::Manifest;
use crate::layout::touches::{TOUCHES_BYTES_MAX, decode, encode};
use crate::store::Store;

impl Store {
    /// The chunks that were touched when this snapshot was first restored, in order, if somebody
    /// has recorded it.
    pub(crate) fn touches_of(&self, manifest: &Manifest) -> Option<Vec<ChunkIndex>> {
        let path = self.touches_path_of(manifest);
        let bytes = match self.objects.get(&path, TOUCHES_BYTES_MAX) {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::warn!(%error, "the record of touches cannot be read");
                return None;
            }
        };
        match decode(&self.keys, manifest.head.push, &bytes) {
            Ok(touches) => Some(touches),
            // Perhaps it is of a snapshot of that name that was there before.
            Err(error) => {
                tracing::warn!(%error, "the record of touches is of no use");
                None
            }
        }
    }

    /// Keeps a record, in place of one of no use.
    pub(crate) fn keep_touches(&self, manifest: &Manifest, touches: &[ChunkIndex]) {
        if touches.is_empty() {
            return;
        }
        let record = encode(&self.keys, manifest.head.push, touches);
        let path = self.touches_path_of(manifest);
        let kept = record.and_then(|record| self.objects.put(&path, record));
        match kept {
            Ok(()) => tracing::info!("recorded {} touched chunks", touches.len()),
            // Whoever may only read the store does without.
            Err(error) => tracing::info!(%error, "the touched chunks are not recorded"),
        }
    }

    fn touches_path_of(&self, manifest: &Manifest) -> String {
        let name = &manifest.head.header.name;
        Store::touches_path(&self.keys.snapshot_object(name))
    }
}
