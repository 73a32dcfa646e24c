//! Sparse writes: one frame of a hundred, at random, after a checkpoint and after a restore. Beside
//! a private mapping that nobody has read before.

use nvvmm::{VmError, spec::VmSpec};

use super::{
    bench_pool::{BenchPool, RestoreKind},
    console::number,
    copied,
    mapped::MappedGuest,
    observed::time_text,
    paper::used_bytes,
    report::{Bound, Table, Target},
    statistics::{Spread, ratios},
    writes::{Writes, timed},
};

const SEED: u64 = 47;
const SNAPSHOT: &str = "sparse-writes";
const MAPPED: &str = "kernel's private mapping";
const AFTER: [&str; 2] = ["after a checkpoint", "after a lazy restore"];
/// Copied frames for each frame that is written, at most.
const AMPLIFICATION: f64 = 16.0;
/// Time of a write, as a part of the kernel's, at most.
const TIME: f64 = 1.5;

/// Writes of all repetitions.
#[derive(Default)]
pub struct SparseWrites {
    /// Microseconds of a write to the private mapping.
    mapped: Vec<f64>,
    ours: [Vec<Writes>; 2],
    /// Frames that guests compared with what they must hold.
    pub frames_verified: u64,
}

impl SparseWrites {
    /// Measures once with guests of `size`.
    ///
    /// # Errors
    /// Something could not be done, or a guest's memory is wrong.
    pub fn measure(&mut self, pool: &BenchPool, size: u64) -> Result<(), VmError> {
        let command = format!("touch {} sparse", size >> 20);
        let mut guest = pool.boot_machine(VmSpec {
            vcpus: 1,
            ..pool.spec(size)
        })?;
        guest.fill(size, SEED)?;
        let used = used_bytes(&mut guest, size)?;
        pool.warm(used)?;
        let copy = copied::checkpoint(pool, &guest, used, 1)?;
        let mut mapped = MappedGuest::start(pool, &copy)?;
        // The guest has been entered, and its program is mapped.
        mapped.console.ask("stat")?;
        let (answer, us) = timed(|| mapped.console.ask(&command))?;
        self.mapped.push(us / number(&answer, "frames")? as f64);
        self.frames_verified += number(&mapped.console.ask("check")?, "frames")?;
        drop((mapped, copy));
        guest.snapshot(SNAPSHOT)?;
        self.ours[0].push(Writes::of(&mut guest, &command)?);
        self.frames_verified += guest.verify()?;
        drop(guest);
        let mut restored = pool.restore(SNAPSHOT, RestoreKind::Lazy)?;
        restored.ask("stat")?;
        self.ours[1].push(Writes::of(&mut restored, &command)?);
        self.frames_verified += restored.verify()?;
        drop(restored);
        pool.remove(SNAPSHOT)
    }

    /// Times and copies.
    pub fn table(&self, size: &str) -> Table {
        let text = |us: &[f64]| Spread::of(us).map_or_else(|| "-".into(), time_text);
        let dash = || "-".to_owned();
        let mut rows = vec![vec![MAPPED.to_owned(), text(&self.mapped), dash(), dash()]];
        for (what, writes) in AFTER.into_iter().zip(&self.ours) {
            let each: Vec<f64> = writes.iter().map(Writes::us_each).collect();
            let ratio = Spread::of(&ratios(&each, &self.mapped));
            let copied: Vec<f64> = writes.iter().map(Writes::amplification).collect();
            rows.push(vec![
                what.to_owned(),
                text(&each),
                ratio.map_or_else(dash, |ratio| format!("{:.2}x", ratio.median)),
                Spread::of(&copied).map_or_else(dash, |copied| format!("{:.1}", copied.median)),
            ]);
        }
        let columns = ["where", "time of a write", "/ kernel's", "copied / written"];
        Table {
            title: format!("One frame of 100 written, at random, of {size}"),
            columns: columns.map(str::to_owned).to_vec(),
            rows,
        }
    }

    /// Bounds of time and copies.
    pub fn targets(&self, medium: &str) -> Vec<Target> {
        let mut targets = Vec::new();
        for (what, writes) in AFTER.into_iter().zip(&self.ours) {
            let each: Vec<f64> = writes.iter().map(Writes::us_each).collect();
            let copied: Vec<f64> = writes.iter().map(Writes::amplification).collect();
            for (figure, wanted, measured, unit) in [
                (
                    "time against the kernel's",
                    TIME,
                    ratios(&each, &self.mapped),
                    "x",
                ),
                ("frames copied for each written", AMPLIFICATION, copied, ""),
            ] {
                targets.extend(Spread::of(&measured).map(|measured| Target {
                    what: format!("{medium}: a sparse write {what}, {figure}"),
                    wanted: Bound::AtMost(wanted),
                    measured,
                    unit: unit.into(),
                }));
            }
        }
        targets
    }
}
