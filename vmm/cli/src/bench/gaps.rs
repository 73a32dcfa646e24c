//! Gaps: for how long a guest that writes all the time is kept from it, while something is done to
//! its VM, to another VM of the pool, or to the pool alone.

use std::{
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nvvmm::{VmError, ring::RingSettings, spec::VmSpec};

use super::{
    bench_pool::{BenchPool, GUEST_SLACK_BYTES},
    commands::Commands,
    console::{Console, number},
    guest::Guest,
    observed::{size_name, time_text},
    plan::Plan,
    progress::Progress,
    report::{Bound, Experiment, Table, Target},
    statistics::Spread,
    walk::Walk,
};

/// A quiet time, to compare with.
const QUIET: Duration = Duration::from_secs(1);
/// Time after a command in which its effects are still noted.
const AFTER: Duration = Duration::from_millis(200);
/// Memory of the other VM, as a part of the guest's.
const OTHER_PART: u64 = 8;
/// Room in a pool for each MiB of the guest, in eighths: its memory, a snapshot of it, and as much
/// as the other VM, its snapshots and a received one need.
pub const ROOM_EIGHTHS: u64 = 21;
const EVERY: Duration = Duration::from_millis(100);
const OTHER: &str = "gaps-other";
const COPY: &str = "gaps-copy";
const SEED: u64 = 41;
/// A gap may be so much larger than the largest of a quiet time.
const WANTED_MS: f64 = 2.0;

/// A gap while something was done.
struct Seen {
    medium: String,
    what: &'static str,
    gap_us: f64,
    quiet_us: f64,
}

/// The experiment while it is done.
#[derive(Default)]
struct Measuring {
    seen: Vec<Seen>,
    left_out: Vec<String>,
    frames_verified: u64,
}

/// Measures.
///
/// # Errors
/// Something could not be done, or a guest's memory is wrong.
pub fn run(plan: &Plan, pools: &[BenchPool], progress: &Progress) -> Result<Experiment, VmError> {
    let largest = plan.sizes.last().copied().unwrap_or_default();
    let mut measuring = Measuring::default();
    let mut sizes = Vec::new();
    for pool in pools {
        let size = size_in(pool, largest);
        sizes.push(format!("{} on {}", size_name(size), pool.medium));
        for turn in 1..=plan.repeat {
            progress.step(&format!(
                "gaps: a guest of {} on {}, {turn} of {}",
                size_name(size),
                pool.medium,
                plan.repeat
            ))?;
            Turn::begin(pool, size, &mut measuring)?.go(progress)?;
        }
    }
    Ok(measuring.present(&sizes))
}

/// Memory of the guest: as much as was asked for, or as there is room for.
fn size_in(pool: &BenchPool, asked: u64) -> u64 {
    let room = pool.pool_bytes().saturating_sub(4 * GUEST_SLACK_BYTES) / ROOM_EIGHTHS * 8;
    // The other VM has whole MiB, too.
    asked.min(room) / (OTHER_PART << 20) * (OTHER_PART << 20)
}

/// Ends the VMs of the commands when it is dropped.
struct Others(Commands);

impl Drop for Others {
    fn drop(&mut self) {
        self.0.end(COPY);
        self.0.end(OTHER);
    }
}

/// A guest that walks, and another VM.
struct Turn<'m> {
    pool: &'m BenchPool,
    measuring: &'m mut Measuring,
    walk: Walk,
    guest: Guest,
    others: Others,
    other: Console,
    other_frames: u64,
    quiet_us: f64,
    stream: PathBuf,
    _dir: tempfile::TempDir,
}

impl<'m> Turn<'m> {
    fn begin(
        pool: &'m BenchPool,
        size: u64,
        measuring: &'m mut Measuring,
    ) -> Result<Self, VmError> {
        let others = Others(Commands::on(pool)?);
        let other_bytes = size / OTHER_PART;
        let kernel = pool.spec(other_bytes).kernel.unwrap_or_default();
        let memory = format!("{}M", pool.spec(other_bytes).memory_bytes >> 20);
        let kernel = kernel.to_string_lossy().into_owned();
        others.0.run(&[
            "run", "--kernel", &kernel, "--memory", &memory, "--cpus", "1", "--name", OTHER,
            "--detach",
        ])?;
        let mut other = others.0.console(OTHER)?;
        other.ask(&format!("fill {} {SEED}", other_bytes >> 20))?;
        // Its vCPU would spin.
        others.0.run(&["pause", OTHER])?;
        pool.warm(size)?;
        let mut guest = pool.boot_machine(VmSpec {
            vcpus: 1,
            ..pool.spec(size)
        })?;
        let walk = Walk::begin(&mut guest, size, "seq")?;
        walk.settle()?;
        walk.largest_gap_us(&mut guest)?;
        thread::sleep(QUIET);
        let quiet_us = walk.largest_gap_us(&mut guest)?;
        let dir = super::bench_pool::private_directory()?;
        Ok(Self {
            pool,
            measuring,
            walk,
            guest,
            others,
            other,
            other_frames: other_bytes / 4096,
            quiet_us,
            stream: dir.path().join("stream"),
            _dir: dir,
        })
    }

    fn go(mut self, progress: &Progress) -> Result<(), VmError> {
        self.command("a command that does nothing", &["--version"])?;
        self.own(progress)?;
        self.of_another(progress)?;
        self.of_nobody(progress)?;
        let Self {
            walk,
            mut guest,
            others,
            mut other,
            measuring,
            pool,
            ..
        } = self;
        measuring.frames_verified += walk.end(&mut guest)?;
        drop(guest);
        others.0.run(&["resume", OTHER])?;
        measuring.frames_verified += number(&other.ask("check")?, "frames")?;
        others.0.run(&["stop", OTHER])?;
        pool.remove("gaps-2")?;
        pool.remove("gaps-other-2")
    }

    /// Operations on the guest's own VM.
    fn own(&mut self, progress: &Progress) -> Result<(), VmError> {
        progress.go_on()?;
        self.own_snapshot("its VM: first snapshot", "gaps-1")?;
        self.walk.settle()?;
        self.command("its VM: rm of the snapshot", &["rm", "gaps-1"])?;
        self.own_snapshot("its VM: snapshot after that", "gaps-2")?;
        self.walk.settle()?;
        self.pool.remove("gaps-2")?;
        self.note("its VM: a ring, every 100 ms", |turn| {
            let mut ring = turn.guest.begin_ring(RingSettings {
                every: EVERY,
                keep: 1,
                replaced: 0,
            })?;
            thread::sleep(QUIET);
            ring.stop();
            ring.status().failure.map_or(Ok(()), Err)
        })?;
        let name = self.guest.name().to_owned();
        self.pool.remove_checkpoints(&name)?;
        self.walk.settle()?;
        self.guest.snapshot("gaps-2").map(drop)
    }

    /// Operations on another VM.
    fn of_another(&mut self, progress: &Progress) -> Result<(), VmError> {
        progress.go_on()?;
        self.command("another VM: snapshot", &["snapshot", OTHER, "gaps-other-1"])?;
        self.rewrite_other()?;
        self.command("another VM: rm of the snapshot", &["rm", "gaps-other-1"])?;
        self.others.0.run(&["snapshot", OTHER, "gaps-other-2"])?;
        self.rewrite_other()?;
        self.command(
            "another VM: rewind",
            &["rewind", OTHER, "--to", "gaps-other-2"],
        )?;
        self.command(
            "another VM: restore of a copy",
            &[
                "restore",
                "gaps-other-2",
                "--name",
                COPY,
                "--detach",
                "--paused",
            ],
        )?;
        self.command("another VM: end of the copy", &["stop", COPY])
    }

    /// Operations on the pool alone.
    fn of_nobody(&mut self, progress: &Progress) -> Result<(), VmError> {
        progress.go_on()?;
        let stream = self.stream.to_string_lossy().into_owned();
        self.command(
            "no VM: send",
            &["send", "gaps-other-2", "--output", &stream],
        )?;
        self.command("no VM: receive", &["receive", &stream, "--name", "gaps-in"])?;
        self.command("no VM: rm of what was received", &["rm", "gaps-in"])?;
        self.command("no VM: pool scrub", &["pool", "scrub"])?;
        self.command("no VM: pool check", &["pool", "check"])?;
        self.command("no VM: pool map", &["pool", "map"])?;
        self.optional("no VM: pool grow", |turn| {
            turn.others
                .0
                .run(&["pool", "grow", "--size", "+64M"])
                .map(drop)
        })?;
        if Path::new("/dev/fuse").exists() {
            self.optional("no VM: pool mount", |turn| {
                let dir = super::bench_pool::private_directory()?;
                let place = dir.path().to_string_lossy().into_owned();
                turn.others.0.run_for(&["pool", "mount", &place], QUIET)
            })?;
        }
        Ok(())
    }

    /// The other guest writes all of its memory.
    fn rewrite_other(&mut self) -> Result<(), VmError> {
        self.others.0.run(&["resume", OTHER])?;
        self.other.ask(&format!("write 0 {}", self.other_frames))?;
        self.others.0.run(&["pause", OTHER])?;
        Ok(())
    }

    fn own_snapshot(&mut self, what: &'static str, name: &str) -> Result<(), VmError> {
        self.note(what, |turn| turn.guest.snapshot(name).map(drop))
    }

    fn command(&mut self, what: &'static str, arguments: &[&str]) -> Result<(), VmError> {
        self.note(what, |turn| turn.others.0.run(arguments).map(drop))
    }

    /// Notes the gap of what may not be possible on this host.
    fn optional(
        &mut self,
        what: &'static str,
        work: impl FnOnce(&mut Self) -> Result<(), VmError>,
    ) -> Result<(), VmError> {
        let mut failed = None;
        self.note(what, |turn| {
            failed = work(turn).err();
            Ok(())
        })?;
        if let Some(error) = failed {
            self.measuring.seen.pop();
            let why = format!("{what}, on {}: {error}", self.pool.medium);
            if !self.measuring.left_out.contains(&why) {
                self.measuring.left_out.push(why);
            }
        }
        Ok(())
    }

    /// Notes the largest gap while `work` is done, and a little later.
    fn note(
        &mut self,
        what: &'static str,
        work: impl FnOnce(&mut Self) -> Result<(), VmError>,
    ) -> Result<(), VmError> {
        self.walk.largest_gap_us(&mut self.guest)?;
        work(self)?;
        thread::sleep(AFTER);
        let gap_us = self.walk.largest_gap_us(&mut self.guest)?;
        self.measuring.seen.push(Seen {
            medium: self.pool.medium.clone(),
            what,
            gap_us,
            quiet_us: self.quiet_us,
        });
        Ok(())
    }
}

impl Measuring {
    fn present(self, sizes: &[String]) -> Experiment {
        let (mut rows, mut targets) = (Vec::new(), Vec::new());
        for (medium, what) in self.kinds() {
            let those = || {
                let same = |seen: &&Seen| (seen.medium.as_str(), seen.what) == (&*medium, what);
                self.seen.iter().filter(same)
            };
            let gaps: Vec<f64> = those().map(|seen| seen.gap_us).collect();
            let quiet: Vec<f64> = those().map(|seen| seen.quiet_us).collect();
            let above: Vec<f64> = those()
                .map(|seen| (seen.gap_us - seen.quiet_us) / 1000.0)
                .collect();
            let text = |us: &[f64]| Spread::of(us).map_or_else(|| "-".into(), time_text);
            rows.push(vec![format!("{medium}, {what}"), text(&gaps), text(&quiet)]);
            targets.extend(Spread::of(&above).map(|measured| Target {
                what: format!("{medium}, {what}: largest gap above that of a quiet second"),
                wanted: Bound::AtMost(WANTED_MS),
                measured,
                unit: " ms".into(),
            }));
        }
        let columns = ["what is done", "largest gap", "in a quiet second"];
        Experiment {
            name: "gaps".into(),
            title: "Gaps that a guest sees".into(),
            about: format!(
                "A guest with 1 vCPU writes a word to each frame of its memory, pass after pass, \
                 and looks at its time stamp counter after each ({}). The largest gap between two \
                 steps is noted while something is done to its VM, to another VM of an eighth of \
                 its memory, or to the pool alone, and for {} ms after that; beside it the \
                 largest of a quiet second before. Its own VM is snapshotted in the benchmark's \
                 process, all else is done by commands. At the end both guests compare all of \
                 their memory.",
                sizes.join("; "),
                AFTER.as_millis()
            ),
            tables: vec![Table {
                title: "Largest gap".into(),
                columns: columns.map(str::to_owned).to_vec(),
                rows,
            }],
            targets,
            limits: std::iter::once(
                "Each command is a process, which needs a CPU: see the command that does nothing."
                    .to_owned(),
            )
            .chain(self.left_out)
            .collect(),
            frames_verified: self.frames_verified,
            ..Experiment::default()
        }
    }

    /// Operations that were measured, by medium, in order.
    fn kinds(&self) -> Vec<(String, &'static str)> {
        let mut kinds = Vec::new();
        for seen in &self.seen {
            let kind = (seen.medium.clone(), seen.what);
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds
    }
}
