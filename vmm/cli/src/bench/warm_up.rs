//! Warm-up of a restore: from the request until the guest has touched its memory once. Beside a VM
//! whose memory is a private mapping of a file that nobody has read through that mapping before.

use std::time::Instant;

use nvvmm::{VmError, spec::VmSpec};

use super::{
    bench_pool::{BenchPool, RestoreKind},
    bill,
    console::{Console, number},
    copied::{self, CopiedCheckpoint},
    mapped::MappedGuest,
    observed::{size_name, time_text},
    paper::used_bytes,
    plan::Plan,
    progress::Progress,
    report::{Axis, Bound, Chart, Experiment, Series, Stack, Table, Target},
    statistics::{Spread, ratios},
};
use crate::human_units;

const SEED: u64 = 37;
const SNAPSHOT: &str = "warm-up";
const MAPPED: &str = "private mapping";
const LAZY: &str = "restore";
const PREFAULT: &str = "restore --prefault";
const ONCE: &str = "restore --once";
/// One frame of so many is 5% of memory.
const ONE_OF: u64 = 20;

/// Parts of its memory that the guest touches after the restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Written,
    Read,
    FewInARow,
    FewScattered,
}

impl Pass {
    const ALL: [Self; 4] = [
        Self::Written,
        Self::Read,
        Self::FewInARow,
        Self::FewScattered,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Written => "all written",
            Self::Read => "all read",
            Self::FewInARow => "5% written, in a row",
            Self::FewScattered => "5% written, every 20th frame",
        }
    }

    /// The guest's command for it.
    fn command(self, size: u64) -> String {
        let frames = size / 4096;
        match self {
            Self::Written => format!("write 0 {frames}"),
            Self::Read => format!("touch {} read", size >> 20),
            Self::FewInARow => format!("write 0 {}", frames / ONE_OF),
            Self::FewScattered => format!("write 0 {} {ONE_OF}", frames / ONE_OF),
        }
    }

    /// Bound of the time, as a part of the private mapping's.
    fn wanted(self) -> f64 {
        match self {
            Self::Written | Self::Read => 0.5,
            Self::FewInARow | Self::FewScattered => 1.0,
        }
    }
}

/// One measured pass.
struct Seen {
    size: u64,
    medium: String,
    way: &'static str,
    pass: Pass,
    us: f64,
}

/// The experiment while it is done.
struct Measuring<'p> {
    pools: &'p [BenchPool],
    sizes: Vec<u64>,
    seen: Vec<Seen>,
    frames_verified: u64,
}

/// Measures.
///
/// # Errors
/// Something could not be done, or a guest's memory is wrong.
pub fn run(plan: &Plan, pools: &[BenchPool], progress: &Progress) -> Result<Experiment, VmError> {
    let mut measuring = Measuring {
        pools,
        sizes: bill::sizes(plan),
        seen: Vec::new(),
        frames_verified: 0,
    };
    for size in measuring.sizes.clone() {
        for turn in 1..=plan.repeat {
            for pool in pools {
                progress.step(&format!(
                    "warm-up: {} on {}, {turn} of {}",
                    human_units::size(size),
                    pool.medium,
                    plan.repeat
                ))?;
                measuring.one_turn(pool, size, progress)?;
            }
        }
    }
    Ok(measuring.present())
}

impl Measuring<'_> {
    fn one_turn(
        &mut self,
        pool: &BenchPool,
        size: u64,
        progress: &Progress,
    ) -> Result<(), VmError> {
        let mut guest = pool.boot_machine(VmSpec {
            vcpus: 1,
            ..pool.spec(size)
        })?;
        guest.fill(size, SEED)?;
        let used = used_bytes(&mut guest, size)?;
        // A private mapping of huge pages would need as many again.
        let copy = match !pool.has_huge_pages() && pool.has_room_beside(2 * used)? {
            true => {
                pool.warm(used)?;
                Some(copied::checkpoint(pool, &guest, used, 1)?)
            }
            false => None,
        };
        guest.snapshot(SNAPSHOT)?;
        drop(guest);
        for pass in Pass::ALL {
            progress.go_on()?;
            if let Some(copy) = &copy {
                self.mapped(pool, copy, size, pass)?;
            }
            self.restored(pool, size, pass, (RestoreKind::Lazy, LAZY))?;
            if pass == Pass::Written {
                self.restored(pool, size, pass, (RestoreKind::Prefaulted, PREFAULT))?;
            }
        }
        // The last one, as the snapshot goes with it.
        self.restored(pool, size, Pass::Written, (RestoreKind::Once, ONCE))
    }

    fn mapped(
        &mut self,
        pool: &BenchPool,
        copy: &CopiedCheckpoint,
        size: u64,
        pass: Pass,
    ) -> Result<(), VmError> {
        pool.warm(size)?;
        let began = Instant::now();
        let mut guest = MappedGuest::start(pool, copy)?;
        guest.console.ask(&pass.command(size))?;
        let us = began.elapsed().as_secs_f64() * 1e6;
        self.add(pool, size, MAPPED, pass, us);
        self.verified(size, &mut guest.console)
    }

    fn restored(
        &mut self,
        pool: &BenchPool,
        size: u64,
        pass: Pass,
        (kind, way): (RestoreKind, &'static str),
    ) -> Result<(), VmError> {
        pool.warm(size)?;
        let began = Instant::now();
        let mut guest = pool.restore(SNAPSHOT, kind)?;
        guest.ask(&pass.command(size))?;
        let us = began.elapsed().as_secs_f64() * 1e6;
        self.add(pool, size, way, pass, us);
        self.verified(size, guest.console())
    }

    /// The guest compares all of its memory.
    fn verified(&mut self, size: u64, console: &mut Console) -> Result<(), VmError> {
        let frames = number(&console.ask("check")?, "frames")?;
        if frames * 4096 != size {
            return Err(VmError::failed(format!(
                "{frames} frames were verified of {size} bytes"
            )));
        }
        self.frames_verified += frames;
        Ok(())
    }

    fn add(&mut self, pool: &BenchPool, size: u64, way: &'static str, pass: Pass, us: f64) {
        self.seen.push(Seen {
            size,
            medium: pool.medium.clone(),
            way,
            pass,
            us,
        });
    }

    /// Times of one kind, in microseconds.
    fn times(&self, size: u64, medium: &str, way: &str, pass: Pass) -> Vec<f64> {
        let those = self.seen.iter().filter(|seen| {
            (seen.size, seen.medium.as_str()) == (size, medium)
                && (seen.way, seen.pass) == (way, pass)
        });
        those.map(|seen| seen.us).collect()
    }

    /// Times of the private mapping: on the same medium, or on that of the first pool.
    fn baseline(&self, size: u64, medium: &str, pass: Pass) -> Vec<f64> {
        let same = self.times(size, medium, MAPPED, pass);
        match same.is_empty() {
            true => self.times(size, &self.pools[0].medium, MAPPED, pass),
            false => same,
        }
    }

    /// Ways that were measured, by medium, in order.
    fn ways(&self, size: u64) -> Vec<(String, &'static str)> {
        let mut ways = Vec::new();
        for seen in self.seen.iter().filter(|seen| seen.size == size) {
            let way = (seen.medium.clone(), seen.way);
            if !ways.contains(&way) {
                ways.push(way);
            }
        }
        ways
    }

    fn present(self) -> Experiment {
        Experiment {
            name: "warm-up".into(),
            title: "Warm-up of a restored guest".into(),
            about: format!(
                "A guest with 1 vCPU has filled its memory, is checkpointed and ends. The time is \
                 that from the request of a restore until the restored guest has touched a part \
                 of its memory once: all written (whole frames), all read, 5% written. \
                 `{MAPPED}` is the same guest whose memory is a private mapping of a copied \
                 checkpoint, a file on the same memory: the host's kernel copies what is written. \
                 Nobody has read through that mapping before. Each restored guest compares all of \
                 its memory afterwards."
            ),
            charts: self.sizes.iter().map(|size| self.chart(*size)).collect(),
            tables: self.sizes.iter().map(|size| self.table(*size)).collect(),
            targets: self.targets(),
            limits: vec![
                "The start of a VM's process is in no time: it is the same for all.".into(),
                "Between request and answer the guest's console takes 1 to 2 ms on a software KVM."
                    .into(),
                "There is no private mapping of huge pages here; restores on them are compared \
                 with that of ordinary pages."
                    .into(),
            ],
            frames_verified: self.frames_verified,
            run: None,
        }
    }

    fn name(&self, (medium, way): &(String, &'static str)) -> String {
        match self.pools.len() {
            1 => (*way).to_owned(),
            _ => format!("{way}, {medium}"),
        }
    }

    fn table(&self, size: u64) -> Table {
        let rows = self.ways(size).into_iter().map(|way| {
            let cells = Pass::ALL.into_iter().flat_map(|pass| {
                let times = self.times(size, &way.0, way.1, pass);
                let ratio = ratios(&times, &self.baseline(size, &way.0, pass));
                [
                    Spread::of(&times).map_or_else(|| "-".into(), time_text),
                    Spread::of(&ratio)
                        .map_or_else(|| "-".into(), |ratio| format!("{:.2}x", ratio.median)),
                ]
            });
            std::iter::once(self.name(&way)).chain(cells).collect()
        });
        let columns = Pass::ALL
            .into_iter()
            .flat_map(|pass| [pass.name().to_owned(), format!("/ {MAPPED}")]);
        Table {
            title: format!("{}: from the request to the end of a pass", size_name(size)),
            columns: std::iter::once("way".to_owned()).chain(columns).collect(),
            rows: rows.collect(),
        }
    }

    fn chart(&self, size: u64) -> Chart {
        let (mut series, mut stacks) = (Vec::new(), Vec::new());
        for way in self.ways(size) {
            let mut times = Series {
                name: self.name(&way),
                points: Vec::new(),
            };
            for (x, pass) in Pass::ALL.into_iter().enumerate() {
                for us in self.times(size, &way.0, way.1, pass) {
                    times.add(x as f64, us / 1000.0);
                }
            }
            stacks.push(Stack {
                name: times.name.clone(),
                series: vec![times.name.clone()],
            });
            series.push(times);
        }
        Chart {
            file: format!("warm-up-{}", size_name(size).replace(' ', "")),
            title: format!("Warm-up of a restored guest, {}", size_name(size)),
            x: Axis::named(
                "touched after the restore",
                &Pass::ALL.map(|pass| pass.name().to_owned()),
            ),
            y: Axis::linear("time from the request (ms)"),
            series,
            stacks,
        }
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for size in &self.sizes {
            for pool in self.pools {
                for pass in Pass::ALL {
                    let measured = ratios(
                        &self.times(*size, &pool.medium, LAZY, pass),
                        &self.baseline(*size, &pool.medium, pass),
                    );
                    targets.extend(Spread::of(&measured).map(|measured| Target {
                        what: format!(
                            "warm-up of {}, {}, {}: restore / {MAPPED}",
                            size_name(*size),
                            pool.medium,
                            pass.name()
                        ),
                        wanted: Bound::AtMost(pass.wanted()),
                        measured,
                        unit: "x".into(),
                    }));
                }
            }
        }
        targets
    }
}
