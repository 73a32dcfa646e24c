//! Long random histories that are cut off everywhere.
//!
//! `NVVMM_TEST_SEED` repeats a run, `NVVMM_CRASH_STATE` repeats one history and looks at one state
//! of it.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nvvmm_test_profile::{SEED_VARIABLE, sized};

use super::contents::{Snapshots, difference, read_snapshots};
use super::disks::{Between, is_torn};
use super::expected::{intended, intended_disks};
use super::model::{Model, Outcome, PROCESSES, Process};
use super::oracle::{Allowed, Oracle, StateId, open, panic_text, random_crash};
use super::silence_kills;
use super::steps::{Step, next_step};
use crate::catalog::read_slot;
use crate::layout::{Layout, SUPERBLOCK_BLOCKS};
use crate::number::{BLOCK_SIZE_BYTES, BlockNo};
use crate::pool::STAYS_OLD;
use crate::region::Region;
use crate::region::sim::{CrashPoint, Image, Killed, Lie, Random, region_with};

const STEPS: u32 = 80;
/// Crash states that a run of the gate looks at, and a nightly one.
const GATE_STATES: u64 = 10_000;
const NIGHTLY_STATES: u64 = 100_000;
const POOL_BYTES: [u64; 3] = [8 << 20, 12 << 20, 16 << 20];

/// A history under way.
struct History<'o> {
    oracle: &'o mut Oracle,
    seed: u64,
    random: Random,
    model: Model,
    step: u32,
    told: Vec<String>,
}

/// Events of a step, for the oracle.
struct Recorded {
    points: Vec<CrashPoint>,
    since: u64,
}

/// A step that was made: its events, and what may be found after a crash.
struct Made {
    recorded: Recorded,
    allowed: Vec<Snapshots>,
    disks: Between,
}

/// Runs the history of a seed, for as long as there are less than `states`; the error tells all
/// that is needed to repeat it.
pub(super) fn run(
    seed: u64,
    oracle: &mut Oracle,
    lie: Option<&Lie>,
    states: u64,
) -> Result<(), String> {
    let mut random = Random::new(seed);
    let size = random.pick(&POOL_BYTES);
    let mut history = History {
        oracle,
        seed,
        random,
        model: Model::new(Image::zeros(size)),
        step: 0,
        told: Vec::new(),
    };
    history.all_steps(size, lie, states).map_err(|what| {
        let mut text = format!("history {seed} on {size} bytes:\n");
        for (step, told) in history.told.iter().enumerate() {
            text += &format!("  {step}: {told}\n");
        }
        text + &what
    })
}

impl History<'_> {
    fn all_steps(&mut self, size: u64, lie: Option<&Lie>, states: u64) -> Result<(), String> {
        self.format(size)?;
        if let Some(lie) = lie {
            self.model.control.lie(lie.clone());
        }
        while self.step < STEPS && self.oracle.states < states {
            let step = next_step(&mut self.random, &self.model);
            let killed = self.random.once_in(5);
            let made = self.make(&step, killed)?;
            if self.random.once_in(8) {
                self.go_on_from_a_crash(&made, lie)?;
            }
            if is_torn(&self.model.disks) {
                // What a write in flight left is none of its two contents.
                return Ok(());
            }
            self.model.verify()?;
        }
        Ok(())
    }

    fn format(&mut self, size: u64) -> Result<(), String> {
        self.told.push("format".to_owned());
        let since = self.model.control.record();
        let layout = Layout::for_size(size).map_err(|error| error.to_string())?;
        let region = self.model.control.handle().0;
        crate::pool::format(&region, &layout, [7; 16], false).map_err(|error| error.to_string())?;
        let old = self.random.once_in(4);
        STAYS_OLD.set(old);
        if old {
            self.told.push("a pool of format version 6".to_owned());
            make_old(&region).map_err(|error| error.to_string())?;
        }
        let points = self.model.control.recorded();
        let none = Between::default();
        self.check_step(
            &Recorded { points, since },
            &[Snapshots::new()],
            &none,
            true,
        )
    }

    fn check_step(
        &mut self,
        recorded: &Recorded,
        allowed: &[Snapshots],
        disks: &Between,
        may_be_refused: bool,
    ) -> Result<(), String> {
        let snapshots: Vec<&Snapshots> = allowed.iter().collect();
        let allowed = Allowed {
            snapshots: &snapshots,
            disks: Some(disks),
            may_be_refused,
        };
        let place = (self.seed, self.step);
        self.step += 1;
        self.oracle
            .step(place, &recorded.points, recorded.since, allowed)
    }

    /// Makes a step, perhaps with a process killed on the way; what may be found of it after a
    /// crash.
    fn make(&mut self, step: &Step, killed: bool) -> Result<Made, String> {
        let disks = Between {
            before: self.model.disks.clone(),
            after: intended_disks(&self.model, step),
            found: None,
        };
        let (before, after) = (self.model.saved.clone(), intended(&self.model, step));
        let process = self.model.process_of(step).filter(|_| killed);
        let within = self.random.pick(&[8, 30, 80]);
        let moment = 1 + self.random.below(within) as i64;
        let since = self.model.control.record();
        if let Some(process) = process.and_then(|process| self.model.processes[process].as_ref()) {
            process.fuse.kill_at(moment);
        }
        let run = catch_unwind(AssertUnwindSafe(|| self.model.perform(step)));
        let points = self.model.control.recorded();
        let outcome = match run {
            Ok(outcome) => Some(outcome?),
            Err(panic) if panic.is::<Killed>() => None,
            Err(panic) => return Err(panic_text(&*panic)),
        };
        let died = process.filter(|process| {
            let process = &self.model.processes[*process];
            process
                .as_ref()
                .is_some_and(|process| process.fuse.is_killed())
        });
        self.told.push(match died {
            Some(process) => {
                format!("{step:?}: process {process} killed at its store, flush or fence {moment}")
            }
            None => format!("{step:?}: {outcome:?}"),
        });
        if let Some(process) = process.and_then(|process| self.model.processes[process].as_ref()) {
            process.fuse.spare();
        }
        let recorded = Recorded { points, since };
        let allowed = match outcome {
            Some(Outcome::Refused) if died.is_none() => vec![before],
            _ => vec![before, after.clone()],
        };
        self.check_step(&recorded, &allowed, &disks, false)?;
        match died {
            Some(process) => self.look_after_a_death(process, allowed, disks),
            None => {
                self.model.saved = allowed[allowed.len() - 1].clone();
                if outcome == Some(Outcome::Done) {
                    self.model.disks = disks.after.clone();
                }
                if self.oracle.only.is_none()
                    && let Some(now) = recorded.points.last()
                {
                    self.oracle.damage(now, &self.model.saved)?;
                }
                Ok(Made {
                    recorded,
                    allowed,
                    disks,
                })
            }
        }
    }

    /// Another process finds what the dead one left.
    fn look_after_a_death(
        &mut self,
        process: usize,
        allowed: Vec<Snapshots>,
        disks: Between,
    ) -> Result<Made, String> {
        self.model.bury(process);
        self.look_and_die(&allowed, &disks)?;
        self.told.push("the next one to look".to_owned());
        let since = self.model.control.record();
        if self.model.any_pool().is_none() {
            self.model
                .open(process)
                .map_err(|error| error.to_string())?;
        }
        self.find(&allowed, &disks, false)?;
        let points = self.model.control.recorded();
        let mut recorded = Recorded { points, since };
        self.check_step(&recorded, &allowed, &disks, false)?;
        // Now that somebody has seen it, it stays. At the points before that it could still be
        // lost.
        recorded.points.drain(..recorded.points.len() - 1);
        Ok(Made {
            recorded,
            allowed: vec![self.model.saved.clone()],
            disks: Between::only(&self.model.disks),
        })
    }

    /// Perhaps the one that takes back what the dead one had dies of it, where a third one sees
    /// both deaths.
    fn look_and_die(&mut self, allowed: &[Snapshots], disks: &Between) -> Result<(), String> {
        let mut living = (0..PROCESSES).filter(|process| self.model.processes[*process].is_some());
        let (Some(looker), Some(_)) = (living.next(), living.next()) else {
            return Ok(());
        };
        if !self.random.once_in(2) {
            return Ok(());
        }
        let within = self.random.pick(&[8, 30, 80]);
        let moment = 1 + self.random.below(within) as i64;
        let since = self.model.control.record();
        let Some(Process { pool, fuse }) = &self.model.processes[looker] else {
            return Ok(());
        };
        fuse.kill_at(moment);
        let look = catch_unwind(AssertUnwindSafe(|| pool.check()));
        let killed = fuse.is_killed();
        fuse.spare();
        let points = self.model.control.recorded();
        match look {
            Ok(report) => {
                let report = report.map_err(|error| error.to_string())?;
                if !report.is_clean() {
                    return Err(format!("check: {:?}", report.findings));
                }
            }
            Err(panic) if panic.is::<Killed>() => {}
            Err(panic) => return Err(panic_text(&*panic)),
        }
        if killed {
            self.told.push(format!(
                "process {looker} looks, and is killed at its store, flush or fence {moment}"
            ));
            self.model.bury(looker);
        } else {
            self.told.push(format!("process {looker} looks"));
        }
        self.check_step(&Recorded { points, since }, allowed, disks, false)
    }

    fn go_on_from_a_crash(&mut self, made: &Made, lie: Option<&Lie>) -> Result<(), String> {
        let Made {
            recorded,
            allowed,
            disks,
        } = made;
        self.told
            .push("the power fails, and the history goes on from there".to_owned());
        let image = random_crash(&mut self.random, &recorded.points, recorded.since);
        self.model.replace_medium(image);
        if let Some(lie) = lie {
            self.model.control.lie(lie.clone());
        }
        let since = self.model.control.record();
        self.model.open(0).map_err(|error| error.to_string())?;
        self.find(allowed, disks, true)?;
        let points = self.model.control.recorded();
        let found = [self.model.saved.clone()];
        let disks = Between {
            found: Some(self.model.disks.clone()),
            ..disks.clone()
        };
        self.check_step(&Recorded { points, since }, &found, &disks, false)
    }

    /// The snapshots that are there: one of those that may be.
    fn find(
        &mut self,
        allowed: &[Snapshots],
        disks: &Between,
        host_down: bool,
    ) -> Result<(), String> {
        let pool = self.model.any_pool().ok_or("nobody has the pool open")?;
        let found = read_snapshots(pool)?;
        if !allowed.contains(&found) {
            let differences = allowed.iter().map(|expected| difference(expected, &found));
            return Err(differences.collect::<Vec<_>>().join("; "));
        }
        self.model.disks = disks.verify(pool, host_down)?;
        self.model.saved = found;
        Ok(())
    }
}

/// Makes a new pool one of format version 6.
fn make_old(region: &impl Region) -> crate::Result<()> {
    for (slot, block) in SUPERBLOCK_BLOCKS.iter().enumerate() {
        let Ok(mut superblock) = read_slot(region, slot)? else {
            continue;
        };
        superblock.version = 6.into();
        let offset = BlockNo::new(*block).byte_offset();
        region.write(offset, &superblock.seal())?;
        region.flush(offset, BLOCK_SIZE_BYTES)?;
    }
    region.fence()
}

#[test]
fn a_pool_that_an_older_program_has_open_stays_old_and_says_so() {
    let control = region_with(Image::zeros(POOL_BYTES[0]));
    let layout = Layout::for_size(POOL_BYTES[0]).unwrap();
    let region = control.handle().0;
    crate::pool::format(&region, &layout, [7; 16], false).unwrap();
    make_old(&region).unwrap();
    let locks = tempfile::NamedTempFile::new().unwrap();
    STAYS_OLD.set(true);
    let opened = open(control.handle().0, &locks).unwrap();
    STAYS_OLD.set(false);
    let refused = opened.newest_version();
    assert!(
        matches!(refused, Err(crate::Error::InUse { .. })),
        "{refused:?}"
    );
    drop(opened);
    let opened = open(control.handle().0, &locks).unwrap();
    assert_eq!(
        opened.newest_version().unwrap(),
        crate::layout::FORMAT_VERSION
    );
}

#[test]
fn random_histories_survive_crashes_anywhere() {
    silence_kills();
    if let Ok(state) = std::env::var("NVVMM_CRASH_STATE") {
        let only: StateId = state.parse().unwrap();
        let mut oracle = Oracle::new(Some(only));
        run(only.history, &mut oracle, None, u64::MAX).unwrap_or_else(|what| panic!("{what}"));
        assert!(
            oracle.states > 0,
            "history {} has no such state",
            only.history
        );
        return;
    }
    let seed = nvvmm_test_profile::seed();
    let wanted = sized(GATE_STATES, NIGHTLY_STATES);
    let mut oracle = Oracle::new(None);
    let mut histories = 0;
    while oracle.states < wanted {
        let history = Random::new(seed.wrapping_add(histories)).next();
        run(history, &mut oracle, None, wanted)
            .unwrap_or_else(|what| panic!("{SEED_VARIABLE}={seed}, {what}"));
        histories += 1;
    }
    // Not by println: a test that passes shall say this, too.
    let (states, again) = (oracle.states, oracle.recovery_states);
    writeln!(
        std::io::stderr(),
        "{states} crash states of {histories} histories, {again} of them in a recovery: \
         {SEED_VARIABLE}={seed}"
    )
    .unwrap();
}
