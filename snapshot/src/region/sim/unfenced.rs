//! Stores that may or may not survive a power cut, and what of them does.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::image::{Image, Line};
use super::{BLOCK, LINE, Random};

/// The content of a line after a store. Stores are numbered in the order in which they were made.
#[derive(Clone)]
struct Version {
    number: u64,
    bytes: Line,
}

/// The stores of one block that are not durable for certain, by line.
type BlockStores = BTreeMap<u64, Vec<Version>>;

/// All stores that are not durable for certain.
#[derive(Clone, Default)]
pub(crate) struct Unfenced(BTreeMap<u64, Arc<BlockStores>>);

/// The stores up to which lines are durable, once a fence has passed.
pub(crate) type Flushed = BTreeMap<u64, u64>;

const LINES: u64 = BLOCK / LINE;

impl Unfenced {
    pub(crate) fn contains(&self, line: u64) -> bool {
        self.0
            .get(&(line / LINES))
            .is_some_and(|block| block.contains_key(&line))
    }

    pub(crate) fn push(&mut self, line: u64, number: u64, bytes: Line) {
        let block = Arc::make_mut(self.0.entry(line / LINES).or_default());
        block
            .entry(line)
            .or_default()
            .push(Version { number, bytes });
    }

    /// The lines of a range that have stores, with the last one's number.
    pub(crate) fn newest(&self, lines: RangeInclusive<u64>, into: &mut Flushed) {
        for (_, block) in self.0.range(lines.start() / LINES..=lines.end() / LINES) {
            for (line, versions) in block.range(lines.clone()) {
                if let Some(last) = versions.last() {
                    into.insert(*line, last.number);
                }
            }
        }
    }

    /// Moves what was flushed to where it is durable; the number of the last store among it.
    pub(crate) fn settle(&mut self, flushed: Flushed, durable: &mut Image) -> u64 {
        let mut last_durable = 0;
        for (line, until) in flushed {
            let Some(block) = self.0.get_mut(&(line / LINES)) else {
                continue;
            };
            let stores = Arc::make_mut(block);
            let Some(versions) = stores.get_mut(&line) else {
                continue;
            };
            let count = versions.partition_point(|version| version.number <= until);
            if let Some(last) = versions.drain(..count).next_back() {
                durable.set_line(line, &last.bytes);
                last_durable = last_durable.max(last.number);
            }
            if versions.is_empty() {
                stores.remove(&line);
            }
            if stores.is_empty() {
                self.0.remove(&(line / LINES));
            }
        }
        last_durable
    }

    /// Forgets what is behind a line, which is a block's first.
    pub(crate) fn cut_off(&mut self, line: u64) {
        self.0.split_off(&(line / LINES));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The unit in which a medium keeps or loses stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// A cache line of persistent memory, in the middle of whose last store the power may go,
    /// between words of 8 bytes.
    Line,
    /// A sector of a disk, of 512 bytes: a block that was being written back is torn.
    Sector,
    /// A block of a page cache: written back whole, with what it held at some time.
    Block,
}

impl Unit {
    fn lines(self) -> u64 {
        match self {
            Unit::Line => 1,
            Unit::Sector => 512 / LINE,
            Unit::Block => LINES,
        }
    }
}

/// The fate of stores that nothing made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lost,
    Kept,
    /// Kept up to this store: what the page cache holds when only processes die.
    KeptUntil(u64),
    /// Each unit has what it held after some store to it, or none.
    Scattered(Unit, u64),
    /// All kept but those of one unit.
    AllBut(Unit, u64),
    /// All lost but those of one unit.
    Only(Unit, u64),
}

/// The image that a power cut leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Survivors {
    /// Of the stores before this one.
    pub(crate) older_than: u64,
    pub(crate) older: Fate,
    /// Of the later stores.
    pub(crate) recent: Fate,
}

impl Survivors {
    pub(crate) const NONE: Survivors = Survivors::of_all(Fate::Lost);
    pub(crate) const ALL: Survivors = Survivors::of_all(Fate::Kept);

    /// The same for all stores.
    pub(crate) const fn of_all(fate: Fate) -> Survivors {
        Survivors {
            older_than: 0,
            older: fate,
            recent: fate,
        }
    }
}

/// A moment at which the power may fail.
#[derive(Clone)]
pub(crate) struct CrashPoint {
    pub(super) durable: Image,
    pub(super) unfenced: Unfenced,
    /// Number of the last store.
    pub(crate) last_store: u64,
    /// Number of the last store that is durable for certain.
    pub(crate) last_durable: u64,
}

impl CrashPoint {
    /// The image that is found after the power came back.
    pub(crate) fn image(&self, survivors: Survivors) -> Image {
        let mut image = self.durable.clone();
        let older = Choice::new(self, survivors, true);
        let recent = Choice::new(self, survivors, false);
        for (number, block) in &self.unfenced.0 {
            for (line, versions) in block.iter() {
                let split =
                    versions.partition_point(|version| version.number < survivors.older_than);
                let (before, after) = versions.split_at(split);
                older.apply(*number, *line, before, &mut image);
                recent.apply(*number, *line, after, &mut image);
            }
        }
        image
    }

    pub(crate) fn is_all_durable(&self) -> bool {
        self.unfenced.is_empty()
    }
}

/// A fate with what it needs to know of all stores.
struct Choice<'p> {
    fate: Fate,
    point: &'p CrashPoint,
    chosen_unit: u64,
}

impl<'p> Choice<'p> {
    fn new(point: &'p CrashPoint, survivors: Survivors, is_older: bool) -> Choice<'p> {
        let fate = if is_older {
            survivors.older
        } else {
            survivors.recent
        };
        let chosen_unit = match fate {
            Fate::AllBut(unit, seed) | Fate::Only(unit, seed) => {
                let is_in = |version: &Version| (version.number < survivors.older_than) == is_older;
                let lines = point.unfenced.0.values().flat_map(|block| block.iter());
                let lines = lines.filter(|(_, versions)| versions.iter().any(is_in));
                let mut units: Vec<u64> = lines.map(|(line, _)| line / unit.lines()).collect();
                units.dedup();
                let at = Random::new(seed).below(units.len().max(1) as u64);
                units.get(at as usize).copied().unwrap_or(u64::MAX)
            }
            _ => u64::MAX,
        };
        Choice {
            fate,
            point,
            chosen_unit,
        }
    }

    fn apply(&self, block: u64, line: u64, versions: &[Version], image: &mut Image) {
        if versions.is_empty() {
            return;
        }
        let kept = match self.fate {
            Fate::Lost => 0,
            Fate::Kept => versions.len(),
            Fate::KeptUntil(number) => versions.partition_point(|version| version.number <= number),
            Fate::Scattered(Unit::Line, seed) => return scatter_line(line, versions, seed, image),
            Fate::Scattered(unit, seed) => {
                let until = self.last_kept(block, line / unit.lines(), unit, seed);
                versions.partition_point(|version| version.number <= until)
            }
            Fate::AllBut(unit, _) if line / unit.lines() == self.chosen_unit => 0,
            Fate::AllBut(..) => versions.len(),
            Fate::Only(unit, _) if line / unit.lines() == self.chosen_unit => versions.len(),
            Fate::Only(..) => 0,
        };
        if let Some(last) = kept.checked_sub(1) {
            image.set_line(line, &versions[last].bytes);
        }
    }

    /// The last store that a unit was written back with: any to it, or none.
    fn last_kept(&self, block: u64, unit: u64, kind: Unit, seed: u64) -> u64 {
        let lines = unit * kind.lines()..(unit + 1) * kind.lines();
        let stores = self.point.unfenced.0.get(&block);
        let mut numbers: Vec<u64> = stores
            .into_iter()
            .flat_map(|stores| stores.range(lines.clone()))
            .flat_map(|(_, versions)| versions.iter().map(|version| version.number))
            .collect();
        numbers.push(0);
        numbers.sort_unstable();
        let mut random = Random::new(seed ^ unit.wrapping_mul(0xff51_afd7_ed55_8ccd));
        match random.below(4) {
            0 => 0,
            1 => u64::MAX,
            _ => numbers[random.below(numbers.len() as u64) as usize],
        }
    }
}

/// A line that holds what it held after one of the stores, or in the middle of one.
fn scatter_line(line: u64, versions: &[Version], seed: u64, image: &mut Image) {
    let mut random = Random::new(seed ^ line.wrapping_mul(0xc4ce_b9fe_1a85_ec53));
    let kept = random.below(versions.len() as u64 + 1) as usize;
    let mut bytes = kept
        .checked_sub(1)
        .map_or_else(|| image.line(line), |last| versions[last].bytes);
    if let Some(torn) = versions.get(kept)
        && random.below(4) == 0
    {
        let words = bytes
            .as_chunks_mut::<8>()
            .0
            .iter_mut()
            .zip(torn.bytes.as_chunks::<8>().0);
        words
            .filter(|_| random.below(2) == 0)
            .for_each(|(word, new)| *word = *new);
    }
    image.set_line(line, &bytes);
}
