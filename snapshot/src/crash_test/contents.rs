//! Contents of a pool's snapshots: as they must be, and as they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::disks::{Content, disks_of};
use crate::catalog_lock::CatalogLock;
use crate::frame_map::FrameMap;
use crate::{Pool, SnapshotId, SnapshotKind};

/// The tag of each frame that has a block, by chunk and frame.
pub(super) type Frames = BTreeMap<(u32, u32), u64>;

/// A snapshot, as whoever took it knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) kind: SnapshotKind,
    pub(super) foreign: bool,
    pub(super) parent: Option<SnapshotId>,
    pub(super) memory_bytes: u64,
    pub(super) frames: Frames,
    pub(super) state: Vec<u8>,
    pub(super) disks: BTreeMap<String, Content>,
}

/// The snapshots that have a name.
pub(super) type Snapshots = BTreeMap<String, Arc<Saved>>;

/// Words of a frame that carry its tag: the first and last line and one between; the rest is zero.
const TAGGED_WORDS: [std::ops::Range<usize>; 3] = [0..8, 248..256, 504..512];

/// A frame filled with a tag.
pub(super) fn frame_with(tag: u64) -> [u8; 4096] {
    let mut bytes = [0; 4096];
    let words = bytes.as_chunks_mut::<8>().0;
    for range in TAGGED_WORDS {
        words[range].fill(tag.to_le_bytes());
    }
    bytes
}

/// The tag of a frame, if all of it is of one.
fn tag_of(bytes: &[u8; 4096]) -> Option<u64> {
    let tag = u64::from_le_bytes(*bytes.first_chunk()?);
    (*bytes == frame_with(tag)).then_some(tag)
}

/// Reads every snapshot as the pool has it, writing nothing.
pub(super) fn read_snapshots(pool: &Arc<Pool>) -> Result<Snapshots, String> {
    let text = |error: crate::Error| error.to_string();
    let listing = CatalogLock::take(pool)
        .and_then(|mut lock| lock.listing())
        .map_err(text)?;
    let mut snapshots = Snapshots::new();
    // A reception that was cut off leaves a file that is no snapshot.
    let whole = listing.named().filter(|listed| listed.complete().is_ok());
    for listed in whole {
        let (name, inode) = (&listed.inode.name, &listed.inode);
        let map = FrameMap::of_memory(pool, inode).map_err(text)?;
        let mut frames = Frames::new();
        for chunk in map.iter_present() {
            let (index, chunk) = chunk.map_err(text)?;
            for (frame, block) in chunk.iter_present() {
                let mut bytes = [0; 4096];
                pool.read_block(block, &mut bytes).map_err(text)?;
                let tag = tag_of(&bytes);
                let tag =
                    tag.ok_or_else(|| format!("{name}: chunk {index} frame {frame} is torn"))?;
                frames.insert((index.get(), frame.get()), tag);
            }
        }
        let saved = Saved {
            kind: inode.kind,
            foreign: inode.foreign,
            parent: inode.parent,
            memory_bytes: inode.memory().map_err(text)?.size_bytes(),
            frames,
            state: pool.state_of(inode).map_err(text)?,
            disks: disks_of(pool, inode).map_err(text)?,
        };
        snapshots.insert(name.clone(), Arc::new(saved));
    }
    Ok(snapshots)
}

/// The difference between two, in a few words.
pub(super) fn difference(expected: &Snapshots, found: &Snapshots) -> String {
    let names = |snapshots: &Snapshots| snapshots.keys().cloned().collect::<Vec<_>>().join(" ");
    if !expected.keys().eq(found.keys()) {
        return format!("[{}] instead of [{}]", names(found), names(expected));
    }
    let wrong = expected
        .iter()
        .find(|(name, saved)| found[*name] != **saved);
    let Some((name, expected)) = wrong else {
        return "no difference".to_owned();
    };
    let found = &found[name];
    for (place, tag) in &expected.frames {
        if found.frames.get(place) != Some(tag) {
            let found = found.frames.get(place);
            return format!("{name}: frame {place:?} is {found:?} instead of {tag}");
        }
    }
    format!("{name}: frames too many, or other disks, or another state, parent or size")
}
