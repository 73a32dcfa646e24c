//! Finds the snapshot of this pool that a stream builds on.
//!
//! An identity proves nothing: whoever has seen a stream of a snapshot knows it. So a base is found
//! by the root of its content, or the receiver names it.

use std::sync::Arc;

use super::root::{keep_root, root_of, stream_disk};
use crate::catalog::{Listed, Listing};
use crate::catalog_lock::CatalogLock;
use crate::error::{Error, Result};
use crate::handle::Pool;
use crate::holder::Holder;
use crate::identity::{BaseId, ContentRoot};
use crate::layout::inode::{FileMap, Inode, MapKind};
use crate::number::SnapshotId;
use crate::stream::StreamHeader;

/// The snapshot that the receiver says the stream builds on. It is pinned.
pub(super) struct Onto {
    name: String,
    id: SnapshotId,
    /// The root of its content, if the stream names one.
    root: Option<ContentRoot>,
}

impl Onto {
    /// Pins it, and computes the root of its content where the stream names one. Reads all its
    /// memory then, without the catalog lock.
    pub(super) fn find(
        pool: &Arc<Pool>,
        holder: &Holder,
        name: &str,
        header: &StreamHeader,
    ) -> Result<Onto> {
        let (entry, _) = holder.pin(name)?;
        let inode = {
            let listing = CatalogLock::take(pool)?.listing()?;
            let listed = listing.by_id(entry.id);
            listed.map(|listed| Arc::clone(&listed.inode))
        };
        let inode = inode.ok_or(Error::NotPinned { id: entry.id.get() })?;
        let names_content = header.base.as_ref().is_some_and(|base| {
            matches!(base.id, BaseId::Content(_)) && has_the_same_memory(&inode, header)
        });
        let root = names_content.then(|| root_of(pool, &inode)).transpose()?;
        if let Some(root) = root {
            keep_root(pool, &inode, root);
        }
        Ok(Onto {
            name: name.to_owned(),
            id: entry.id,
            root,
        })
    }

    fn is(&self, inode: &Inode, id: BaseId) -> bool {
        match id {
            BaseId::Content(root) => self.root == Some(root),
            // The receiver vouches for it. This finds accidents.
            BaseId::Identity(identity) => inode.identity == identity,
        }
    }
}

/// The snapshot that the stream builds on; none if it is whole.
///
/// # Errors
/// [`Error::NoBase`], [`Error::WrongBase`], [`Error::BaseUnproven`].
pub(super) fn base_of<'l>(
    pool: &Pool,
    listing: &'l Listing,
    header: &StreamHeader,
    onto: Option<&Onto>,
) -> Result<Option<&'l Listed>> {
    let Some(base) = &header.base else {
        return Ok(None);
    };
    if let Some(onto) = onto {
        let listed = listing.by_id(onto.id).filter(|listed| {
            onto.is(&listed.inode, base.id) && has_the_same_memory(&listed.inode, header)
        });
        return listed.map(Some).ok_or_else(|| Error::WrongBase {
            name: header.name.clone(),
            base: base.name.clone(),
            id: base.id,
            onto: onto.name.clone(),
        });
    }
    let BaseId::Content(root) = base.id else {
        return Err(Error::BaseUnproven {
            name: header.name.clone(),
            base: base.name.clone(),
        });
    };
    let found = complete(listing).find(|listed| {
        listed.inode.content_root == Some(root) && has_the_same_memory(&listed.inode, header)
    });
    found.map(Some).ok_or_else(|| Error::NoBase {
        name: header.name.clone(),
        base: base.name.clone(),
        id: base.id,
        pool: pool.path().to_owned(),
    })
}

/// A snapshot that is likely to have much of this one: itself under another name, or the one
/// before. What it has is compared with what arrives, and nothing else of it is used.
pub(super) fn alike<'l>(listing: &'l Listing, header: &StreamHeader) -> Option<&'l Listed> {
    [Some(header.identity), header.parent]
        .into_iter()
        .flatten()
        .find_map(|identity| {
            complete(listing).find(|listed| {
                listed.inode.identity == identity && has_the_same_memory(&listed.inode, header)
            })
        })
}

/// The snapshot that the receiver says is likely to have much of this one.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Incomplete`]; [`Error::InvalidSnapshot`] if it cannot be compared.
pub(super) fn like<'l>(
    pool: &Pool,
    listing: &'l Listing,
    header: &StreamHeader,
    name: &str,
) -> Result<&'l Listed> {
    let listed = listing.by_name(name);
    let listed = listed.ok_or_else(|| pool.not_found(name, listing))?;
    match has_the_same_memory(listed.complete()?, header) {
        true => Ok(listed),
        false => Err(Error::invalid(format!(
            "it cannot be compared with '{name}', which is of another kind, or of a memory of \
             another size"
        ))),
    }
}

/// The incomplete file that an earlier reception of the same snapshot left under the name, if any.
/// A VM that runs on it, in process `beside`, is no reception.
pub(super) fn unfinished<'l>(
    lock: &CatalogLock<'_>,
    listing: &'l Listing,
    name: &str,
    header: &StreamHeader,
    beside: Option<u32>,
) -> Result<Option<&'l Listed>> {
    let Some(listed) = listing.by_name(name) else {
        return Ok(None);
    };
    let inode = &listed.inode;
    if !inode.incomplete
        || inode.identity != header.identity
        || inode
            .content_root
            .is_some_and(|root| header.root != Some(root))
        || !is_of_the_same_shape(inode, header)
    {
        return Err(Error::NameTaken {
            name: name.to_owned(),
        });
    }
    for slot in lock.holders_pinning(inode.id)? {
        let pid = lock.store().holder_slot(slot)?.pid.get();
        if beside != Some(pid) {
            return Err(Error::BeingReceived {
                name: name.to_owned(),
                pid,
            });
        }
    }
    Ok(Some(listed))
}

fn complete(listing: &Listing) -> impl Iterator<Item = &Listed> {
    listing.named().filter(|listed| listed.complete().is_ok())
}

/// True for a snapshot that the stream's may have chunks of. Its disks may be others.
fn has_the_same_memory(inode: &Inode, header: &StreamHeader) -> bool {
    let memory = inode.map(MapKind::Memory).map(FileMap::size_bytes);
    inode.disk.is_none() && (inode.kind, memory) == (header.kind, Some(header.memory_bytes))
}

/// True when the disks are the same as well.
fn is_of_the_same_shape(inode: &Inode, header: &StreamHeader) -> bool {
    let disks = inode.maps.iter().filter_map(stream_disk);
    has_the_same_memory(inode, header) && disks.eq(header.disks.iter().copied())
}
