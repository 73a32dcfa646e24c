//! vCPU 0: reads commands, hands out jobs, replies.

use core::sync::atomic::Ordering;

use nvvmm_bare_metal::VCPUS_MAX;
use nvvmm_bare_metal::command::{Access, Command, Extent, Touch, parse};
use nvvmm_bare_metal::frame::What;
use nvvmm_bare_metal::journal::{self, JournalView, Phase, WRITES_MAX};
use nvvmm_bare_metal::order::Pattern;
use nvvmm_bare_metal::pace::{self, GAPS_KEPT, LaneWalk, Walk};
use nvvmm_bare_metal::verify::{Mismatch, Report};

use crate::churn::Churn;
use crate::console::{Console, reply};
use crate::giver::{Giver, Trouble};
use crate::jobs::Lane;
use crate::pacer::Pacer;
use crate::sys::{self, JOURNAL, PACE};
use crate::vcpu_barrier::{self, Job};

const SLEEP_CONTROL: u16 = 0x600;
/// ACPI S5: sleep type 5, sleep enable.
const POWER_OFF: u8 = (5 << 2) | 0x20;
const FRAMES_PER_MIB: u64 = 256;
/// Steps of a walk between two looks for input.
const STEPS_PER_LOOK: u32 = 8;
/// Gaps that fit into a reply.
const GAPS_SHOWN: u64 = 6;
const _: () = assert!(GAPS_SHOWN <= GAPS_KEPT as u64);

/// The text of a refusal.
type Refusal = &'static str;

/// The console session.
pub struct Session {
    lane: Lane,
    churn: Option<(Access, Churn)>,
    pacer: Option<Pacer>,
    fault_told: bool,
}

impl Session {
    /// Journals what memory there is, and says hello.
    pub fn new(lane: Lane) -> Self {
        JOURNAL.vcpus.store(lane.vcpus, Ordering::Relaxed);
        JOURNAL.first_gfn.store(lane.first_gfn, Ordering::Relaxed);
        JOURNAL.frames.store(lane.frames, Ordering::Relaxed);
        JOURNAL.magic.store(journal::MAGIC, Ordering::Release);
        reply!(
            "ready vcpus={} first={} frames={}",
            lane.vcpus,
            lane.first_gfn,
            lane.frames
        );
        Self {
            lane,
            churn: None,
            pacer: None,
            fault_told: false,
        }
    }

    /// Serves commands for ever.
    pub fn serve(mut self) -> ! {
        let mut console = Console::new();
        loop {
            if let Some(line) = console.poll() {
                match line.and_then(parse) {
                    Some(command) => self.obey(command),
                    None => reply!("err not a command"),
                }
                if let Some(pacer) = &mut self.pacer {
                    pacer.skip();
                }
            }
            if let Some(pacer) = &mut self.pacer {
                (0..STEPS_PER_LOOK).for_each(|_| pacer.step());
            }
            if let Some((_, churn)) = &mut self.churn {
                churn.step();
                self.tell_fault();
            }
        }
    }

    fn obey(&mut self, command: Command) {
        let result = match command {
            Command::Fill(extent, seed) => self.fill(extent, seed),
            Command::ChurnOn(seed, pattern, access) => self.churn_on(seed, pattern, access),
            Command::ChurnOff => {
                self.stop_churn();
                reply!("churn off {}", Seqs(self.lane.vcpus));
                Ok(())
            }
            Command::Check { unfilled } => self.aside(|session| session.check(unfilled)),
            Command::Digest(extent) => self.aside(|session| session.digest(extent)),
            Command::Touch(extent, touch) => self.aside(|session| session.touch(extent, touch)),
            Command::Write(start, count, stride) => self.write(start, count, stride),
            Command::PaceOn(extent, walk, limit) => self.pace_on(extent, walk, limit),
            Command::PaceOff => {
                self.pace_off();
                reply!("pace off {}", self.steps());
                Ok(())
            }
            Command::Pace => {
                reply!("pace {}", self.steps());
                Ok(())
            }
            Command::PaceGaps => {
                reply!("pace gaps={}", Gaps);
                Ok(())
            }
            Command::PaceCheck => self.pace_check(),
            Command::Give(way, rounds) => {
                let giver = Giver::new(self.lane, JOURNAL.filled.load(Ordering::Relaxed));
                given(giver.pieces(), giver.give(way, rounds));
                Ok(())
            }
            Command::GiveAll => {
                let giver = Giver::new(self.lane, 0);
                given(giver.pieces(), giver.lie());
                Ok(())
            }
            Command::Stat => {
                self.stat();
                Ok(())
            }
            Command::Tsc => {
                reply!("tsc {}", sys::tsc());
                Ok(())
            }
            Command::Bye => bye(),
            Command::Crash => sys::crash(),
            Command::Nothing => Ok(()),
        };
        if let Err(refusal) = result {
            reply!("err {refusal}");
        }
    }

    fn run(&self, job: Job) {
        vcpu_barrier::begin(job);
        self.lane.run(job);
        vcpu_barrier::join(self.lane.vcpus);
    }

    /// Does something while the churn stands still between two writes.
    fn aside(
        &mut self,
        what: impl FnOnce(&mut Self) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        self.not_pacing()?;
        let access = self.stop_churn();
        let result = what(self);
        if let Some(access) = access {
            self.start_churn(access)?;
        }
        result
    }

    fn stop_churn(&mut self) -> Option<Access> {
        let (access, _) = self.churn.take()?;
        vcpu_barrier::stop();
        vcpu_barrier::join(self.lane.vcpus);
        Some(access)
    }

    fn start_churn(&mut self, access: Access) -> Result<(), Refusal> {
        let journal = JournalView::read(&self.lane.ram).map_err(|_| "fill first")?;
        vcpu_barrier::begin(Job::Churn(access));
        self.churn = Some((access, Churn::new(0, self.lane.ram, access, journal)));
        Ok(())
    }

    fn not_churning(&self) -> Result<(), Refusal> {
        match &self.churn {
            Some(_) => Err("churn is on"),
            None => self.not_pacing(),
        }
    }

    fn not_pacing(&self) -> Result<(), Refusal> {
        match &self.pacer {
            Some(_) => Err("pace is on"),
            None => Ok(()),
        }
    }

    fn pace_on(&mut self, extent: Extent, walk: Walk, limit: u64) -> Result<(), Refusal> {
        self.not_churning()?;
        let frames = self.frames(extent)?;
        if frames < self.lane.vcpus {
            return Err("nothing to walk through");
        }
        if walk.writes {
            // What was filled is overwritten.
            JOURNAL.phase.store(Phase::Empty as u64, Ordering::SeqCst);
        }
        let lane = LaneWalk::new(walk, (0, self.lane.vcpus), self.lane.first_gfn, frames);
        PACE.reset();
        for (place, word) in [
            (&PACE.vcpus, self.lane.vcpus),
            (&PACE.first_gfn, self.lane.first_gfn),
            (&PACE.frames, frames),
            (&PACE.walk, walk.code()),
            (&PACE.limit, limit),
            (&PACE.granule, pace::granule(lane.len)),
            (&PACE.log_gpa, sys::log_gpa()),
            (&PACE.magic, pace::MAGIC),
        ] {
            place.store(word, Ordering::SeqCst);
        }
        reply!("pace on frames={frames} pass={}", lane.len);
        vcpu_barrier::begin(Job::Pace);
        self.pacer = Some(Pacer::new(&self.lane));
        Ok(())
    }

    fn pace_off(&mut self) {
        if self.pacer.take().is_some() {
            vcpu_barrier::stop();
            vcpu_barrier::join(self.lane.vcpus);
        }
    }

    fn pace_check(&mut self) -> Result<(), Refusal> {
        self.not_churning()?;
        self.run(Job::CheckPace);
        match vcpu_barrier::collect(self.lane.vcpus) {
            Ok(report) => reply!("pace ok frames={}", report.frames),
            Err(mismatch) => report_mismatch("pace", &mismatch),
        }
        Ok(())
    }

    /// Steps and gaps since the last report, which this one is now.
    fn steps(&self) -> impl core::fmt::Display {
        let steps = || PACE.steps[..self.lane.vcpus as usize].iter();
        let over = steps()
            .map(|steps| steps.over.swap(0, Ordering::Relaxed))
            .sum();
        let [mut done, mut pass, mut largest] = [[0; VCPUS_MAX]; 3];
        for (index, steps) in steps().enumerate() {
            done[index] = steps.done.load(Ordering::Relaxed);
            pass[index] = steps.pass.load(Ordering::Relaxed);
            largest[index] = steps.largest.swap(0, Ordering::Relaxed);
        }
        let vcpus = self.lane.vcpus as usize;
        StepsText {
            vcpus,
            done,
            pass,
            largest,
            over,
        }
    }

    fn frames(&self, extent: Extent) -> Result<u64, Refusal> {
        match extent {
            Extent::All => Ok(self.lane.frames),
            Extent::Percent(part) => Ok(self.lane.frames * part / 100),
            Extent::Mib(mib) => match mib.checked_mul(FRAMES_PER_MIB) {
                Some(frames) if frames <= self.lane.frames => Ok(frames),
                _ => Err("not so much memory"),
            },
        }
    }

    fn fill(&mut self, extent: Extent, seed: u64) -> Result<(), Refusal> {
        self.not_churning()?;
        let frames = self.frames(extent)?;
        if frames < self.lane.vcpus {
            return Err("nothing to fill");
        }
        JOURNAL.phase.store(Phase::Busy as u64, Ordering::SeqCst);
        JOURNAL.filled.store(frames, Ordering::Relaxed);
        JOURNAL.fill_seed.store(seed, Ordering::Relaxed);
        for progress in &JOURNAL.progress {
            for word in [&progress.link, &progress.begun, &progress.done] {
                word.store(0, Ordering::Relaxed);
            }
        }
        for word in [&JOURNAL.writes_len, &JOURNAL.faults, &JOURNAL.fault_what] {
            word.store(0, Ordering::Relaxed);
        }
        self.fault_told = false;
        self.run(Job::Fill { frames });
        JOURNAL.phase.store(Phase::Filled as u64, Ordering::SeqCst);
        reply!("fill ok frames={frames}");
        Ok(())
    }

    fn churn_on(&mut self, seed: u64, pattern: Pattern, access: Access) -> Result<(), Refusal> {
        self.not_churning()?;
        let was = (
            JOURNAL.churn_seed.load(Ordering::Relaxed),
            JOURNAL.pattern.load(Ordering::Relaxed),
        );
        if was != (seed, pattern.code()) {
            if (0..self.lane.vcpus).any(|vcpu| JOURNAL.done(vcpu).seq() > 0) {
                return Err("churned otherwise since the fill: fill again first");
            }
            JOURNAL.churn_seed.store(seed, Ordering::Relaxed);
            JOURNAL.pattern.store(pattern.code(), Ordering::Release);
        }
        self.start_churn(access)?;
        reply!("churn on {}", pattern.name());
        Ok(())
    }

    fn check(&mut self, unfilled: bool) -> Result<(), Refusal> {
        let journal = JournalView::read(&self.lane.ram).map_err(|_| "fill first")?;
        if let Some((mismatch, vcpu)) = fault() {
            report_mismatch("check", &mismatch);
            reply!("faults={} first by vcpu={vcpu}", journal.faults);
            return Ok(());
        }
        self.run(Job::Check);
        let mut result = vcpu_barrier::collect(self.lane.vcpus);
        if unfilled && result.is_ok() {
            self.run(Job::CheckUnfilled);
            result = result.and_then(|report| {
                let unfilled = vcpu_barrier::collect(self.lane.vcpus)?;
                Ok(Report {
                    frames: report.frames + unfilled.frames,
                    ..report
                })
            });
        }
        match result {
            Ok(Report {
                frames,
                churned,
                links,
                digest,
                ..
            }) => {
                let seqs = Seqs(self.lane.vcpus);
                reply!(
                    "check ok frames={frames} churned={churned} links={links} {seqs} \
                     digest={digest:016x}"
                );
            }
            Err(mismatch) => report_mismatch("check", &mismatch),
        }
        Ok(())
    }

    fn digest(&mut self, extent: Extent) -> Result<(), Refusal> {
        let frames = self.frames(extent)?;
        self.run(Job::Digest { frames });
        if let Ok(report) = vcpu_barrier::collect(self.lane.vcpus) {
            reply!("digest {:016x} frames={frames}", report.digest);
        }
        Ok(())
    }

    fn touch(&mut self, extent: Extent, touch: Touch) -> Result<(), Refusal> {
        let frames = self.frames(extent)?;
        self.run(Job::Touch { frames, touch });
        if let Ok(report) = vcpu_barrier::collect(self.lane.vcpus) {
            reply!("touch ok frames={}", report.frames);
        }
        Ok(())
    }

    fn write(&mut self, start: u64, count: u64, stride: u64) -> Result<(), Refusal> {
        self.not_churning()?;
        let filled = JournalView::read(&self.lane.ram)
            .map_err(|_| "fill first")?
            .filled;
        let last = count
            .checked_sub(1)
            .and_then(|n| n.checked_mul(stride))
            .and_then(|n| n.checked_add(start));
        if stride == 0 || last.is_none_or(|last| last >= filled) {
            return Err("not within the filled memory");
        }
        let number = JOURNAL.writes_len.load(Ordering::Relaxed) + 1;
        if number > WRITES_MAX as u64 {
            return Err("too many writes since the fill: fill again first");
        }
        JOURNAL.phase.store(Phase::Busy as u64, Ordering::SeqCst);
        let entry = &JOURNAL.writes[(number - 1) as usize];
        for (place, word) in [
            (&entry.start, start),
            (&entry.count, count),
            (&entry.stride, stride),
        ] {
            place.store(word, Ordering::Relaxed);
        }
        for (vcpu, place) in entry.done.iter().enumerate() {
            place.store(JOURNAL.done(vcpu as u64).seq(), Ordering::Relaxed);
        }
        self.run(Job::Write { number });
        JOURNAL.writes_len.store(number, Ordering::Relaxed);
        JOURNAL.phase.store(Phase::Filled as u64, Ordering::SeqCst);
        reply!("write ok frames={count}");
        Ok(())
    }

    fn stat(&self) {
        let Lane {
            vcpus,
            ram,
            first_gfn,
            frames,
            ..
        } = self.lane;
        let churn = if self.churn.is_some() { "on" } else { "off" };
        let [filled, faults] =
            [&JOURNAL.filled, &JOURNAL.faults].map(|word| word.load(Ordering::Relaxed));
        let mem = ram.memory_bytes;
        reply!(
            "stat vcpus={vcpus} mem={mem} first={first_gfn} frames={frames} filled={filled} \
             churn={churn} {} faults={faults}",
            Seqs(vcpus)
        );
    }

    /// Says once, unasked, that the churn has met a mismatch.
    fn tell_fault(&mut self) {
        if let (false, Some((mismatch, _))) = (self.fault_told, fault()) {
            self.fault_told = true;
            report_mismatch("churn", &mismatch);
        }
    }
}

fn fault() -> Option<(Mismatch, u64)> {
    let what = What::from_code(JOURNAL.fault_what.load(Ordering::Acquire))?;
    let [gfn, word, found, vcpu] = [
        &JOURNAL.fault_gfn,
        &JOURNAL.fault_word,
        &JOURNAL.fault_found,
        &JOURNAL.fault_vcpu,
    ]
    .map(|word| word.load(Ordering::Relaxed));
    Some((
        Mismatch {
            gfn,
            what,
            word: word as usize,
            found,
        },
        vcpu,
    ))
}

fn report_mismatch(who: &str, mismatch: &Mismatch) {
    reply!(
        "{who} bad gfn={} what={} word={} found={:x}",
        mismatch.gfn,
        mismatch.what.name(),
        mismatch.word,
        mismatch.found
    );
}

fn given(pieces: u64, result: Result<(), Trouble>) {
    match result {
        Ok(()) => reply!("give ok pieces={pieces}"),
        Err(Trouble::NoBalloon) => reply!("err there is no balloon"),
        Err(Trouble::NoAnswer) => reply!("give bad no answer"),
        Err(Trouble::Left { gfn, found }) => reply!("give bad gfn={gfn} found={found:x}"),
    }
}

/// The last gaps above the limit, `LENGTH@TSC`, the newest first.
struct Gaps;

impl core::fmt::Display for Gaps {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let count = PACE.gaps_count.load(Ordering::Acquire);
        for (n, place) in (count.saturating_sub(GAPS_SHOWN)..count).rev().enumerate() {
            let gap = &PACE.gaps[place as usize % GAPS_KEPT];
            let [length, tsc] = [&gap.length, &gap.tsc].map(|word| word.load(Ordering::Acquire));
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{length}@{tsc}")?;
        }
        Ok(())
    }
}

/// `steps=a,b pass=a,b largest=a,b over=N`.
struct StepsText {
    vcpus: usize,
    done: [u64; VCPUS_MAX],
    pass: [u64; VCPUS_MAX],
    largest: [u64; VCPUS_MAX],
    over: u64,
}

impl core::fmt::Display for StepsText {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (name, numbers) in [
            ("steps", &self.done),
            ("pass", &self.pass),
            ("largest", &self.largest),
        ] {
            write!(f, "{name}=")?;
            for (index, number) in numbers[..self.vcpus].iter().enumerate() {
                write!(f, "{}{number}", if index == 0 { "" } else { "," })?;
            }
            f.write_str(" ")?;
        }
        write!(f, "over={}", self.over)
    }
}

fn bye() -> ! {
    reply!("bye");
    sys::out_byte(SLEEP_CONTROL, POWER_OFF);
    loop {
        core::hint::spin_loop();
    }
}

/// `seq=a,b`: the finished churn writes of each vCPU.
struct Seqs(u64);

impl core::fmt::Display for Seqs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("seq=")?;
        for vcpu in 0..self.0 {
            let comma = if vcpu == 0 { "" } else { "," };
            write!(f, "{comma}{}", JOURNAL.done(vcpu).seq())?;
        }
        Ok(())
    }
}
