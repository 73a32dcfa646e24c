//! Lists and removes snapshots of a store.

use nvvmm_snapshot::near_names;
use nvvmm_snapshot::stream::StreamHeader;

use crate::error::{Error, Result};
use crate::layout::manifest::{HEAD_BYTES_MAX, Head};
use crate::store::Store;

/// Manifests whose heads are read at once.
const HEADS_AT_ONCE: usize = 4096;

/// A snapshot in a store.
#[derive(Debug)]
pub struct RemoteSnapshot {
    /// The snapshot.
    pub header: StreamHeader,
    /// Bytes of its pieces in the store. Others may share them.
    pub stored_bytes: u64,
    /// Pieces that it is made of.
    pub pieces_count: u64,
}

/// A snapshot that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// Its name.
    pub name: String,
}

impl Store {
    /// The snapshots, by name; and the errors of those that cannot be read.
    ///
    /// # Errors
    /// [`Error::Denied`], [`Error::Failed`].
    pub fn snapshots(&self) -> Result<(Vec<RemoteSnapshot>, Vec<Error>)> {
        let objects = self.manifest_objects()?;
        let (mut snapshots, mut faults) = (Vec::new(), Vec::new());
        for some in objects.chunks(HEADS_AT_ONCE) {
            let wanted = some.iter();
            let wanted = wanted.map(|object| (Self::snapshot_path(object), 0..HEAD_BYTES_MAX));
            let heads = self.objects.get_ranges(wanted.collect())?;
            for (object, head) in some.iter().zip(heads) {
                // It was removed meanwhile.
                let Some(head) = head else { continue };
                match Head::decode(&self.keys, object, &head) {
                    Ok((head, _)) => snapshots.push(RemoteSnapshot {
                        header: head.header,
                        stored_bytes: head.stored_bytes,
                        pieces_count: head.pieces.into(),
                    }),
                    Err(fault) => faults.push(fault),
                }
            }
        }
        snapshots.sort_by(|left, right| left.header.name.cmp(&right.header.name));
        Ok((snapshots, faults))
    }

    /// Removes a snapshot. Its pieces stay until a collection finds that nobody needs them.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`], [`Error::Failed`].
    pub fn remove(&self, name: &str) -> Result<Removed> {
        let object = self.keys.snapshot_object(name);
        let path = Self::snapshot_path(&object);
        if !self.objects.has(&path)? {
            return Err(self.not_found(name));
        }
        self.objects.delete(&path)?;
        // Without the manifest it says nothing to anybody.
        self.objects.delete(&Self::touches_path(&object))?;
        Ok(Removed {
            name: name.to_owned(),
        })
    }

    /// The error for a snapshot that is not there, with names that look alike.
    pub(crate) fn not_found(&self, name: &str) -> Error {
        let near = self.snapshots().map(|(all, _)| {
            let names = all.iter().map(|snapshot| snapshot.header.name.as_str());
            near_names(name, names)
        });
        Error::NotFound {
            name: name.to_owned(),
            url: self.url.clone(),
            near: near.unwrap_or_default(),
        }
    }
}
