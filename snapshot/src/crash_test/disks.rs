//! Disks: what they must hold after a crash, by what was written, and what a flush acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::{DiskHead, Holder, Pool};

/// Frames of a disk that histories use: some in each of three chunks of the map.
const FRAMES: [u64; 8] = [0, 1, 2, 3, 511, 512, 513, 1100];
/// Size of the disks.
pub(super) const DISK_BYTES: u64 = 1200 * 4096;
/// Sectors of a frame that are written, each with a tag of its own.
const SECTORS: [u64; 3] = [0, 3, 7];
/// Bytes of a sector.
const SECTOR: usize = 512;

/// A sector of a disk: frame and number in the frame.
pub(super) type Cell = (u64, u64);

/// Exact content of a disk: the tag of each sector that is not zero.
pub(super) type Content = BTreeMap<Cell, u64>;

/// Contents that a disk may have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Expected {
    /// For each sector what a flush acknowledged, and then all that was written later.
    cells: BTreeMap<Cell, Vec<u64>>,
}

/// All disks, by name.
pub(super) type Disks = BTreeMap<String, Expected>;

/// The disks before a step and after it.
#[derive(Debug, Clone, Default)]
pub(super) struct Between {
    pub(super) before: Disks,
    pub(super) after: Disks,
    /// As they were found once a crash in the step was recovered from.
    pub(super) found: Option<Disks>,
}

impl Expected {
    pub(super) fn exactly(content: &Content) -> Expected {
        let cells = content.iter();
        Expected {
            cells: cells.map(|(cell, tag)| (*cell, vec![*tag])).collect(),
        }
    }

    /// The content for those who live.
    pub(super) fn latest(&self) -> Content {
        let cells = self.cells.iter();
        let latest = cells.filter_map(|(cell, tags)| Some((*cell, *tags.last()?)));
        latest.filter(|(_, tag)| *tag != 0).collect()
    }

    pub(super) fn write(&mut self, cell: Cell, tag: u64) {
        self.cells.entry(cell).or_insert_with(|| vec![0]).push(tag);
    }

    /// All that was written stays from now on.
    pub(super) fn flush(&mut self) {
        for tags in self.cells.values_mut() {
            tags.drain(..tags.len() - 1);
        }
    }

    fn allowed(&self, cell: Cell, host_down: bool) -> Vec<u64> {
        match self.cells.get(&cell) {
            None => vec![0],
            Some(tags) if host_down => tags.clone(),
            Some(tags) => tags[tags.len() - 1..].to_vec(),
        }
    }
}

impl Between {
    pub(super) fn only(disks: &Disks) -> Between {
        Between {
            before: disks.clone(),
            after: disks.clone(),
            found: None,
        }
    }

    /// Reads every disk as its next user does, and compares. Gives what was found.
    pub(super) fn verify(&self, pool: &Arc<Pool>, host_down: bool) -> Result<Disks, String> {
        let text = |error: crate::Error| error.to_string();
        let disks = pool.disks().map_err(text)?;
        let names: BTreeSet<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
        let fits = |disks: &Disks| disks.keys().map(String::as_str).eq(names.iter().copied());
        if !self.sides().any(fits) {
            let (before, after) = (self.before.keys(), self.after.keys());
            return Err(format!("disks {names:?}, not {before:?} or {after:?}"));
        }
        let mut found = Disks::new();
        if disks.is_empty() {
            return Ok(found);
        }
        let reader = pool.hold("reader").map_err(text)?;
        for disk in disks {
            let name = disk.name;
            if disk.writer.is_some() {
                // Its writer knows.
                let known = self.after.get(&name).or(self.before.get(&name));
                found.insert(name, known.cloned().unwrap_or_default());
                continue;
            }
            let attached = reader.attach_disk_read_only(&name).map_err(text)?;
            let mut content = Content::new();
            self.compare(&name, host_down, &mut content, |frame, bytes| {
                attached.read(frame * 4096, bytes)
            })?;
            found.insert(name, Expected::exactly(&content));
            reader.unpin(attached.id()).map_err(text)?;
        }
        Ok(found)
    }

    fn sides(&self) -> impl Iterator<Item = &Disks> {
        [&self.before, &self.after].into_iter().chain(&self.found)
    }

    /// Compares a disk with what it may hold.
    fn compare(
        &self,
        name: &str,
        host_down: bool,
        content: &mut Content,
        read: impl Fn(u64, &mut [u8]) -> crate::Result<()>,
    ) -> Result<(), String> {
        let sides: Vec<&Expected> = self.sides().filter_map(|side| side.get(name)).collect();
        for frame in FRAMES {
            let mut bytes = [0; 4096];
            read(frame, &mut bytes).map_err(|error| error.to_string())?;
            for (number, sector) in bytes.chunks_exact(SECTOR).enumerate() {
                let cell = (frame, number as u64);
                let sides = sides.iter();
                let allowed: BTreeSet<u64> = sides
                    .flat_map(|side| side.allowed(cell, host_down))
                    .collect();
                let tags: BTreeSet<u64> = words(sector).collect();
                if !tags.is_subset(&allowed) {
                    return Err(format!(
                        "disk {name}: frame {frame} sector {number} has {tags:?}, not {allowed:?}"
                    ));
                }
                let tag = words(sector).last().unwrap_or(0);
                if tags.len() > 1 {
                    // It may be torn; from now on it is that for sure.
                    content.insert(cell, TORN | tag);
                } else if tag != 0 {
                    content.insert(cell, tag);
                }
            }
        }
        Ok(())
    }
}

/// Marks a sector of two contents, of which a history does not go on.
const TORN: u64 = 1 << 63;

/// True when a sector is of two contents.
pub(super) fn is_torn(disks: &Disks) -> bool {
    let cells = disks
        .values()
        .flat_map(|disk| disk.cells.values().flatten());
    cells.into_iter().any(|tag| tag & TORN != 0)
}

fn words(sector: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let words = sector.as_chunks::<8>().0.iter();
    words.map(|word| u64::from_le_bytes(*word))
}

/// A request to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// Some frames, from one of those that are used on.
    Frames {
        first: usize,
        count: usize,
    },
    /// One sector.
    Sector {
        frame: usize,
        sector: usize,
    },
    Discard {
        first: usize,
        count: usize,
    },
    Flush,
}

impl Request {
    /// The sectors that it writes, and what they hold afterwards.
    pub(super) fn writes(self, tag: u64) -> Vec<(Cell, u64)> {
        let frames = |first: usize, count: usize| FRAMES.into_iter().skip(first).take(count);
        let whole = |first, count, tag: u64| -> Vec<(Cell, u64)> {
            let frames = frames(first, count);
            let cells = frames.flat_map(|frame| (0..8).map(move |sector| (frame, sector)));
            let tag_of = |(_, sector): &Cell| if SECTORS.contains(sector) { tag } else { 0 };
            cells.map(|cell| (cell, tag_of(&cell))).collect()
        };
        match self {
            Request::Frames { first, count } => whole(first, count, tag),
            Request::Sector { frame, sector } => vec![((FRAMES[frame], SECTORS[sector]), tag)],
            Request::Discard { first, count } => whole(first, count, 0),
            Request::Flush => Vec::new(),
        }
    }

    pub(super) fn make(self, head: &DiskHead, tag: u64) -> crate::Result<()> {
        match self {
            Request::Frames { .. } => {
                let mut frames: BTreeMap<u64, [u8; 4096]> = BTreeMap::new();
                for ((frame, sector), tag) in self.writes(tag) {
                    let bytes = frames.entry(frame).or_insert([0; 4096]);
                    let start = sector as usize * SECTOR;
                    bytes[start..start + SECTOR].copy_from_slice(&sector_of(tag));
                }
                let mut frames = frames.into_iter();
                frames.try_for_each(|(frame, bytes)| head.write(frame * 4096, &bytes))
            }
            Request::Sector { frame, sector } => {
                let offset = FRAMES[frame] * 4096 + SECTORS[sector] * SECTOR as u64;
                head.write(offset, &sector_of(tag))
            }
            Request::Discard { first, count } => {
                let mut frames = FRAMES.into_iter().skip(first).take(count);
                frames.try_for_each(|frame| head.discard(frame * 4096, 4096))
            }
            Request::Flush => head.flush(),
        }
    }
}

fn sector_of(tag: u64) -> [u8; SECTOR] {
    let mut bytes = [0; SECTOR];
    bytes.as_chunks_mut::<8>().0.fill(tag.to_le_bytes());
    bytes
}

/// Reads a disk that is attached: what its writer sees.
pub(super) fn seen(head: &DiskHead) -> crate::Result<Content> {
    read_content(|frame, bytes| head.read(frame * 4096, bytes))
}

/// Reads the content of a disk whose sectors are whole.
pub(super) fn read_content(
    read: impl Fn(u64, &mut [u8]) -> crate::Result<()>,
) -> crate::Result<Content> {
    let mut content = Content::new();
    for frame in FRAMES {
        let mut bytes = [0; 4096];
        read(frame, &mut bytes)?;
        for (number, sector) in bytes.chunks_exact(SECTOR).enumerate() {
            let tags: BTreeSet<u64> = words(sector).collect();
            let tag = tags.iter().copied().max().unwrap_or(0);
            let tag = if tags.len() > 1 { TORN | tag } else { tag };
            if tag != 0 {
                content.insert((frame, number as u64), tag);
            }
        }
    }
    Ok(content)
}

/// The content of a snapshot's disks, which a holder pins while it reads.
pub(super) fn disks_of(
    pool: &Arc<Pool>,
    inode: &crate::layout::inode::Inode,
) -> crate::Result<BTreeMap<String, Content>> {
    let mut disks = BTreeMap::new();
    for map in inode.disk_maps() {
        let name = map.disk().map_or("", |name| name.as_str());
        let frames = crate::FrameMap::new(pool, inode.id, map);
        let content = read_content(|frame, bytes| {
            let chunk = frames.chunk((frame / 512) as u32)?;
            match chunk.block((frame % 512) as u32) {
                None => Ok(()),
                Some(block) => pool.store.region.read(block.byte_offset(), bytes),
            }
        })?;
        disks.insert(name.to_owned(), content);
    }
    Ok(disks)
}

/// A disk that a VM of the model writes to.
pub(super) struct Drive {
    pub(super) name: String,
    pub(super) head: Arc<DiskHead>,
}

impl Drive {
    pub(super) fn attach(holder: &Holder, name: &str) -> crate::Result<Drive> {
        Ok(Drive {
            name: name.to_owned(),
            head: holder.attach_disk(name)?,
        })
    }
}
