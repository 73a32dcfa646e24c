//! The paper's two experiments: a guest touches so much memory and is checkpointed; then it is
//! restarted. By reference, and the classic way.

use nvvmm::VmError;

use super::{
    bench_pool::{BenchPool, RestoreKind},
    copied,
    guest::Guest,
    observed::{Observations, size_name},
    plan::Plan,
    progress::Progress,
    report::{Axis, Chart, Experiment, Target},
};
use crate::human_units;

const COPY: &str = "copy";
const REFERENCE: &str = "reference";
const SEED: u64 = 7;
const SNAPSHOT: &str = "touched";
/// Memory touched when it is found out how many threads copy fastest, at most.
const CALIBRATE_BYTES: u64 = 512 << 20;
const CALIBRATIONS: usize = 2;

/// Both experiments while they are done.
struct Measuring<'p> {
    pools: &'p [BenchPool],
    /// Measurements for each pool.
    threads: Vec<Threads>,
    checkpoints: Observations,
    restarts: Observations,
    frames_verified: u64,
}

/// Numbers of threads that copy fastest.
#[derive(Clone, Copy, Debug)]
pub struct Threads {
    /// To write a checkpoint.
    pub write: usize,
    /// To read one back.
    pub read: usize,
}

/// Measures.
///
/// # Errors
/// Something could not be done, or a restored guest's memory is wrong.
pub fn run(plan: &Plan, pools: &[BenchPool], progress: &Progress) -> Result<Experiment, VmError> {
    let largest = plan.sizes.last().copied().unwrap_or_default();
    let mut threads = Vec::new();
    for pool in pools {
        progress.step(&format!(
            "paper: how many threads copy fastest on {}",
            pool.medium
        ))?;
        threads.push(fastest_threads(pool, largest.min(CALIBRATE_BYTES))?);
    }
    let mut measuring = Measuring {
        pools,
        threads,
        checkpoints: Observations::default(),
        restarts: Observations::default(),
        frames_verified: 0,
    };
    for &size in &plan.sizes {
        for turn in 1..=plan.repeat {
            progress.step(&format!(
                "paper: {} touched, {turn} of {}",
                human_units::size(size),
                plan.repeat
            ))?;
            for index in 0..pools.len() {
                measuring.one_turn(index, size, progress)?;
            }
        }
    }
    Ok(measuring.present(plan))
}

impl Measuring<'_> {
    fn one_turn(&mut self, index: usize, size: u64, progress: &Progress) -> Result<(), VmError> {
        let (pool, threads) = (&self.pools[index], self.threads[index]);
        let x = mib(size);
        let huge = suffix(pool, self.pools);
        let mut guest = pool.boot(size)?;
        guest.fill(size, SEED)?;
        let used = used_bytes(&mut guest, size)?;
        let copy = if pool.has_room_beside(used)? {
            pool.warm(used)?;
            let copy = copied::checkpoint(pool, &guest, used, threads.write)?;
            self.checkpoints
                .add(&format!("{COPY}{huge}"), x, copy.pause_us, &copy.phases);
            Some(copy)
        } else {
            None
        };
        let report = guest.snapshot(SNAPSHOT)?;
        self.checkpoints.add(
            &format!("{REFERENCE}{huge}"),
            x,
            report.pause_us,
            &report.phases,
        );
        drop(guest);
        for (kind, name) in [
            (RestoreKind::Prefaulted, ""),
            (RestoreKind::Lazy, ", lazy restore"),
        ] {
            progress.go_on()?;
            let guest = pool.restore(SNAPSHOT, kind)?;
            self.restarted(guest, &format!("{REFERENCE}{huge}{name}"), size)?;
        }
        pool.remove(SNAPSHOT)?;
        if let Some(copy) = copy {
            pool.warm(size)?;
            let guest = copied::restart(pool, &copy, threads.read)?;
            self.restarted(guest, &format!("{COPY}{huge}"), size)?;
        }
        Ok(())
    }

    /// Notes how long the restart took, and looks at all that the guest had touched.
    fn restarted(&mut self, mut guest: Guest, series: &str, size: u64) -> Result<(), VmError> {
        let report = guest.restored()?;
        self.restarts.add(
            series,
            mib(size),
            report.first_instruction_us,
            &report.phases,
        );
        let frames = guest.verify()?;
        if frames * 4096 != size {
            return Err(VmError::failed(format!(
                "{series}: {frames} frames were verified of {size} bytes"
            )));
        }
        self.frames_verified += frames;
        Ok(())
    }

    fn present(self, plan: &Plan) -> Experiment {
        let chart = |file: &str, title: &str, seen: &Observations| Chart {
            stacks: Vec::new(),
            file: file.into(),
            title: title.into(),
            x: Axis::logarithmic("memory touched (MiB)", 2.0),
            y: Axis::logarithmic("time (ms)", 10.0),
            series: seen.curves(),
        };
        let mut tables = vec![
            self.checkpoints.times(
                "Checkpoint: time that the guest stands still",
                "touched",
                name_mib,
            ),
            self.restarts.times(
                "Restart: time to the guest's first instruction",
                "touched",
                name_mib,
            ),
        ];
        for &size in plan
            .sizes
            .iter()
            .filter(|size| **size == 512 << 20 || Some(*size) == plan.sizes.last())
        {
            let of = name_mib(mib(size));
            tables.push(self.checkpoints.phases(
                &format!("Where a checkpoint of {of} goes (medians)"),
                mib(size),
            ));
            tables.push(self.restarts.phases(
                &format!("Where a restart of {of} goes (medians)"),
                mib(size),
            ));
        }
        Experiment {
            name: "paper".into(),
            title: "Checkpoint and restart, by reference and by copying".into(),
            about: self.about(),
            charts: vec![
                chart("checkpoint", "Checkpoint", &self.checkpoints),
                chart("restart", "Restart", &self.restarts),
            ],
            tables,
            targets: self.targets(),
            limits: limits(),
            frames_verified: self.frames_verified,
            run: None,
        }
    }

    fn about(&self) -> String {
        let threads = self.pools.iter().zip(&self.threads).map(|(pool, threads)| {
            let Threads { write, read } = threads;
            format!("{}: {write} to write, {read} to read", pool.medium)
        });
        format!(
            "A guest writes to so much of its memory, is checkpointed, ends, and is restarted. \
             `{COPY}` is the classic way, as good as it can \
             be made: with the guest stopped it writes the memory in use to a file on the same \
             medium in pieces of 4 MiB, and a restart reads it \
             back into fresh guest memory, each with as many of the host's threads as were faster \
             here ({}). A file on hugetlbfs, which has no write(2), \
             is mapped before the pause and copied to. `{REFERENCE}` is `nvvmm snapshot`, the \
             first one of a guest, and \
             `nvvmm restore --prefault`; `lazy restore` is `nvvmm restore`. A checkpoint's time \
             is the pause: from the request to stop the vCPUs \
             until they run again. A restart's is from its begin to the first entry into the \
             guest. After each restart the guest compares every \
             word that it had written.",
            threads.collect::<Vec<_>>().join("; ")
        )
    }

    fn targets(&self) -> Vec<Target> {
        let mut targets = Vec::new();
        for pool in self.pools {
            let huge = suffix(pool, self.pools);
            let (pool, by_512, by_4096) = if huge.is_empty() {
                ("4 KiB pages", 25.0, 25.0)
            } else {
                (huge.trim_start_matches(", "), 200.0, 500.0)
            };
            let reference = format!("{REFERENCE}{huge}");
            // Copying on the same medium, or on ordinary pages where there was no room for that.
            let copy = |seen: &Observations, x| match format!("{COPY}{huge}") {
                same if !seen.times_us(&same, x).is_empty() => same,
                _ => COPY.to_owned(),
            };
            let lazy = format!("{reference}, lazy restore");
            for (size, wanted) in [(512.0, by_512), (4096.0, by_4096)] {
                let copy = copy(&self.checkpoints, size);
                let what = format!(
                    "checkpoint of {}, {pool}: {copy} / reference",
                    name_mib(size)
                );
                targets.extend(
                    self.checkpoints
                        .target(&what, (&copy, &reference), size, wanted),
                );
            }
            let copy = copy(&self.restarts, 512.0);
            if !huge.is_empty() {
                let what = format!("restart of 512 MiB, {pool}, prefaulted: {copy} / reference");
                targets.extend(
                    self.restarts
                        .target(&what, (&copy, &reference), 512.0, 40.0),
                );
            }
            let what = format!("restart of 512 MiB, {pool}, lazy: {copy} / reference");
            targets.extend(self.restarts.target(&what, (&copy, &lazy), 512.0, 100.0));
        }
        targets
    }
}

/// Suffix of a series' name for this pool: none for pages of 4 KiB; else the kind of huge pages,
/// if there are two kinds.
fn suffix(pool: &BenchPool, pools: &[BenchPool]) -> String {
    if !pool.has_huge_pages() {
        return String::new();
    }
    match pools.iter().filter(|pool| pool.has_huge_pages()).count() {
        1 => ", huge pages".into(),
        _ => format!(
            ", huge pages ({})",
            pool.medium.trim_end_matches(" with huge pages")
        ),
    }
}

/// The part of RAM that a guest uses: what it has touched, and its program and tables below.
///
/// # Errors
/// The guest does not say where it begins.
pub fn used_bytes(guest: &mut Guest, touched: u64) -> Result<u64, VmError> {
    Ok((guest.first_frame()? * 4096 + touched).min(guest.vm().spec.memory_bytes))
}

/// Finds out with how many threads `size` bytes are copied fastest in a pool's directory.
///
/// # Errors
/// Whatever keeps a checkpoint from being taken or restored.
pub fn fastest_threads(pool: &BenchPool, size: u64) -> Result<Threads, VmError> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let mut guest = pool.boot(size)?;
    guest.fill(size, SEED)?;
    let used = used_bytes(&mut guest, size)?;
    if !pool.has_room_beside(used)? {
        return Ok(Threads { write: 1, read: 1 });
    }
    let turns: Vec<usize> = [1, cpus].repeat(CALIBRATIONS);
    let (mut writing, mut reading) = (Vec::new(), Vec::new());
    let mut copy = None;
    for &threads in &turns {
        // The file of the turn before goes first.
        drop(copy.take());
        pool.warm(used)?;
        let taken = copied::checkpoint(pool, &guest, used, threads)?;
        writing.push((taken.pause_us, threads));
        copy = Some(taken);
    }
    drop(guest);
    for (copy, threads) in copy.iter().cycle().zip(turns) {
        pool.warm(used)?;
        let restarted = copied::restart(pool, copy, threads)?;
        reading.push((restarted.restored()?.first_instruction_us, threads));
    }
    let fastest = |measured: Vec<(f64, usize)>| {
        let best = measured.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
        best.map_or(1, |(_, threads)| threads)
    };
    Ok(Threads {
        write: fastest(writing),
        read: fastest(reading),
    })
}

fn limits() -> Vec<String> {
    vec![
        "The start of a VM's process is in neither restart: it is the same for all.".into(),
        "Where a medium has no room for a copy beside the pool, as hugetlbfs for that of the \
         largest guests, the comparison is with copying on 4 KiB \
         pages."
            .into(),
        "A lazy restart puts the cost of mapping off to the first touches, which these times do \
         not have."
            .into(),
    ]
}

fn mib(size: u64) -> f64 {
    (size >> 20) as f64
}

fn name_mib(mib: f64) -> String {
    size_name((mib as u64) << 20)
}
