//! Opens what a crash leaves and compares it with what may be there.

use std::collections::HashSet;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use super::contents::{Snapshots, difference, read_snapshots};
use super::disks::Between;
use super::perform::scrub;
use crate::layout::SUPERBLOCK_BLOCKS;
use crate::layout::runtime::BOOT_ID_OFFSET;
use crate::region::Medium;
use crate::region::sim::{
    CrashPoint, Fate, Image, Random, SimRegion, Survivors, Unit, region_with, safe_region_with,
};
use crate::{BlockNo, Error, Pool};

/// Number of subsets of the unfenced stores that are tried at each point.
const SAMPLES: u32 = 8;
/// One of so many states is crashed again while it is recovered.
const RECOVERY_EVERY: u64 = 24;
/// Number of states of such a recovery that are tried at each point.
const RECOVERY_SAMPLES: u32 = 2;

/// Names one crash state, so that it can be looked at alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StateId {
    pub(super) history: u64,
    pub(super) step: u32,
    point: u32,
    sample: u32,
    /// Point and sample of the crash of the recovery from that.
    again: Option<(u32, u32)>,
}

impl std::fmt::Display for StateId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let StateId {
            history,
            step,
            point,
            sample,
            again,
        } = self;
        write!(out, "{history}/{step}/{point}/{sample}")?;
        again.map_or(Ok(()), |(point, sample)| write!(out, "/{point}/{sample}"))
    }
}

impl std::str::FromStr for StateId {
    type Err = String;

    fn from_str(text: &str) -> Result<StateId, String> {
        let numbers: Result<Vec<u64>, _> = text.split('/').map(str::parse).collect();
        let numbers = numbers.map_err(|error| format!("{text}: {error}"))?;
        let (history, step, point, sample, again) = match numbers[..] {
            [history, step, point, sample] => (history, step, point, sample, None),
            [history, step, point, sample, p, s] => {
                (history, step, point, sample, Some((p as u32, s as u32)))
            }
            _ => return Err(format!("{text}: four or six numbers are needed")),
        };
        Ok(StateId {
            history,
            step: step as u32,
            point: point as u32,
            sample: sample as u32,
            again,
        })
    }
}

impl StateId {
    fn random(&self) -> Random {
        let mut seed = self.history;
        let (point, sample) = self.again.unwrap_or_default();
        for part in [self.step, self.point, self.sample, point, sample] {
            seed = Random::new(seed ^ u64::from(part)).next();
        }
        Random::new(seed)
    }
}

/// The states that may be found after a crash.
#[derive(Clone, Copy)]
pub(super) struct Allowed<'a> {
    pub(super) snapshots: &'a [&'a Snapshots],
    /// None where disks are not looked at.
    pub(super) disks: Option<&'a Between>,
    /// The pool was being made, or is damaged: it need not open.
    pub(super) may_be_refused: bool,
}

/// Opens crash states, and counts them.
pub(super) struct Oracle {
    pub(super) locks: tempfile::NamedTempFile,
    /// States that were opened and compared, no two of one operation alike.
    pub(super) states: u64,
    /// Those of them that were crashes of a recovery.
    pub(super) recovery_states: u64,
    /// Only this state is looked at.
    pub(super) only: Option<StateId>,
    seen: HashSet<(u64, bool)>,
}

/// A crash: the image that it leaves, and whether the host went down.
struct Crash {
    image: Image,
    host_down: bool,
    survivors: Survivors,
}

impl Oracle {
    pub(super) fn new(only: Option<StateId>) -> Oracle {
        Oracle {
            locks: tempfile::NamedTempFile::new().unwrap(),
            states: 0,
            recovery_states: 0,
            only,
            seen: HashSet::new(),
        }
    }

    /// Judges states of every point of a step; `since` is the step's first store.
    pub(super) fn step(
        &mut self,
        (history, step): (u64, u32),
        points: &[CrashPoint],
        since: u64,
        allowed: Allowed<'_>,
    ) -> Result<(), String> {
        self.seen.clear();
        for (point, at) in points.iter().zip(0..) {
            let samples = if point.is_all_durable() { 1 } else { SAMPLES };
            for sample in 0..samples {
                let id = StateId {
                    history,
                    step,
                    point: at,
                    sample,
                    again: None,
                };
                let crash = crash_at(point, since, id);
                if !self.seen.insert((crash.image.hash(), crash.host_down)) {
                    continue;
                }
                self.state(id, crash, allowed)
                    .map_err(|what| format!("{what}; point {at} of {}", points.len()))?;
            }
        }
        Ok(())
    }

    fn state(&mut self, id: StateId, crash: Crash, allowed: Allowed<'_>) -> Result<(), String> {
        let wanted = |only: StateId| {
            StateId {
                again: None,
                ..only
            } == id
        };
        if !self.only.is_none_or(wanted) {
            return Ok(());
        }
        let crash_again = id.random().once_in(RECOVERY_EVERY)
            || self.only.is_some_and(|only| only.again.is_some());
        let control = if crash_again {
            region_with(crash.image)
        } else {
            safe_region_with(crash.image)
        };
        let since = control.record();
        let survivors = crash.survivors;
        let found = self.open_and_compare(control.handle().0, allowed, crash.host_down);
        self.states += 1;
        let found = found.map_err(|what| self.told(id, survivors, &what))?;
        let Some(found) = found else { return Ok(()) };
        if crash_again {
            let points = control.recorded();
            self.recovery(id, &points, since, &found, allowed.disks)?;
        }
        Ok(())
    }

    /// Crashes once more, while the pool is recovered: that changes nothing any more.
    fn recovery(
        &mut self,
        of: StateId,
        points: &[CrashPoint],
        since: u64,
        found: &Snapshots,
        disks: Option<&Between>,
    ) -> Result<(), String> {
        let allowed = Allowed {
            snapshots: &[found],
            disks,
            may_be_refused: false,
        };
        let mut seen = HashSet::new();
        for (point, at) in points.iter().zip(0..) {
            for sample in 0..RECOVERY_SAMPLES {
                let id = StateId {
                    again: Some((at, sample)),
                    ..of
                };
                let crash = crash_at(point, since, id);
                let only = self.only.and_then(|only| only.again);
                if !seen.insert(crash.image.hash())
                    || only.is_some_and(|only| Some(only) != id.again)
                {
                    continue;
                }
                let control = safe_region_with(crash.image);
                // One of the two crashes may be of the host.
                self.open_and_compare(control.handle().0, allowed, true)
                    .map_err(|what| self.told(id, crash.survivors, &what))?;
                self.states += 1;
                self.recovery_states += 1;
            }
        }
        Ok(())
    }

    /// Damages each superblock of a medium on which nothing is under way. An older catalog must not
    /// come back: what only it refers to may be gone.
    pub(super) fn damage(&self, now: &CrashPoint, expected: &Snapshots) -> Result<(), String> {
        let allowed = Allowed {
            snapshots: &[expected],
            disks: None,
            may_be_refused: true,
        };
        for block in SUPERBLOCK_BLOCKS {
            let mut image = now.image(Survivors::ALL);
            let line = BlockNo::new(block).byte_offset() / 64;
            image.set_line(line, &[0; 64]);
            leave_to_another_boot(&mut image);
            self.open_and_compare(safe_region_with(image).handle().0, allowed, true)
                .map_err(|what| {
                    format!("{what}; once the superblock in block {block} was damaged")
                })?;
        }
        Ok(())
    }

    fn told(&self, id: StateId, survivors: Survivors, what: &str) -> String {
        format!(
            "{what}\n  NVVMM_CRASH_STATE={id} looks at this state alone; unfenced stores: \
             {survivors:?}"
        )
    }

    /// Opens a pool, checks it, closes it; what was found, unless no pool was and that is allowed.
    fn open_and_compare(
        &self,
        region: SimRegion,
        allowed: Allowed<'_>,
        host_down: bool,
    ) -> Result<Option<Snapshots>, String> {
        let run = catch_unwind(AssertUnwindSafe(|| -> Result<Option<Snapshots>, String> {
            let pool = match open(region, &self.locks) {
                Ok(pool) => pool,
                Err(Error::NotAPool { .. } | Error::Damaged { .. }) if allowed.may_be_refused => {
                    return Ok(None);
                }
                Err(error) => return Err(error.to_string()),
            };
            assert_in_order(&pool)?;
            let found = read_snapshots(&pool)?;
            // Digests of blocks that hold something else by now would be found here.
            scrub(&pool)?;
            if let Some(disks) = allowed.disks {
                disks.verify(&pool, host_down)?;
                assert_in_order(&pool)?;
            }
            if allowed
                .snapshots
                .iter()
                .any(|snapshots| **snapshots == found)
            {
                return Ok(Some(found));
            }
            let differences = allowed
                .snapshots
                .iter()
                .map(|expected| difference(expected, &found));
            Err(differences.collect::<Vec<_>>().join("; "))
        }));
        run.unwrap_or_else(|panic| Err(panic_text(&*panic)))
    }
}

/// The text of a panic.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
    format!("panicked: {}", text.unwrap_or_default())
}

/// Opens a pool on a simulated region.
pub(super) fn open(region: SimRegion, locks: &tempfile::NamedTempFile) -> crate::Result<Arc<Pool>> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(locks.path())
        .unwrap();
    Pool::open_on(Box::new(region), file, Path::new("simulated"), Medium::File)
}

/// Nobody lives: nothing may be leased, pinned or kept for anyone.
pub(super) fn assert_in_order(pool: &Pool) -> Result<(), String> {
    let status = pool.status().map_err(|error| error.to_string())?;
    if (status.leased_blocks, status.orphans, status.holders.len()) != (0, 0, 0) {
        return Err(format!("leaked: {status:?}"));
    }
    let report = pool.check().map_err(|error| error.to_string())?;
    if report.is_clean() {
        Ok(())
    } else {
        Err(format!("check: {:?}", report.findings))
    }
}

/// The state of that name at a point.
fn crash_at(point: &CrashPoint, since: u64, id: StateId) -> Crash {
    let mut random = id.random();
    let (_, sample) = id.again.unwrap_or((0, id.sample));
    // A state by itself for each extreme; where a recovery is cut, the first choice is random
    // already.
    let sample = if id.again.is_some() {
        sample + SAMPLES
    } else {
        sample
    };
    let (survivors, host_down) = choose(&mut random, sample, since, point);
    let mut image = point.image(survivors);
    if host_down {
        leave_to_another_boot(&mut image);
    }
    Crash {
        image,
        host_down,
        survivors,
    }
}

fn choose(random: &mut Random, sample: u32, since: u64, point: &CrashPoint) -> (Survivors, bool) {
    let seed = random.next();
    let unit = random.pick(&[Unit::Line, Unit::Line, Unit::Sector, Unit::Block]);
    let older = random.pick(&[Fate::Lost, Fate::Kept, Fate::Scattered(unit, seed)]);
    // Most of what can go wrong goes wrong with the last stores.
    let stores = point.last_store + 1 - since.min(point.last_store);
    let until = point.last_store - random.below(stores) / random.pick(&[1, 1, 8]);
    let recent = match sample {
        0 => Fate::Lost,
        1 => Fate::Kept,
        // Only processes die: the host keeps what they wrote.
        2 => {
            let killed = Survivors {
                older_than: since,
                older: Fate::Kept,
                recent: Fate::KeptUntil(until.max(point.last_durable)),
            };
            return (killed, false);
        }
        3 => Fate::KeptUntil(until),
        4 => Fate::AllBut(unit, seed),
        5 => Fate::Only(unit, seed),
        _ => Fate::Scattered(unit, seed),
    };
    let survivors = Survivors {
        older_than: since,
        older,
        recent,
    };
    (survivors, true)
}

/// A random state at one of these points, for a history to go on from.
pub(super) fn random_crash(random: &mut Random, points: &[CrashPoint], since: u64) -> Image {
    let point = &points[random.below(points.len() as u64) as usize];
    let sample = random.below(u64::from(SAMPLES)) as u32;
    let (survivors, host_down) = choose(random, sample, since, point);
    let mut image = point.image(survivors);
    if host_down {
        leave_to_another_boot(&mut image);
    }
    image
}

/// The host that opens the pool next is not the one that wrote it: its boot id is another one.
pub(super) fn leave_to_another_boot(image: &mut Image) {
    let mut line = image.line(BOOT_ID_OFFSET / 64);
    let start = (BOOT_ID_OFFSET % 64) as usize;
    line[start..start + 16].fill(0xa5);
    image.set_line(BOOT_ID_OFFSET / 64, &line);
}
