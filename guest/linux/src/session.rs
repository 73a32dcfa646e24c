//! The commands that a host can give.

use crate::answer::{self, Answer};
use crate::clocks::ClockWatch;
use crate::counter::Counter;
use crate::disk::{self, DiskChurn};
use crate::memory::{Memory, PAGES_PER_MIB};
use crate::sys::Ending;
use crate::{cpus, kernel, sys, timers};
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

type Reply = Result<Answer, String>;

/// Everything that goes on in the guest on the host's behalf.
pub struct Session {
    counter: Counter,
    clocks: ClockWatch,
    memory: Option<Memory>,
    disk_churn: DiskChurn,
    /// Lines of the kernel log that are the boot's own.
    boot_log_lines: usize,
}

fn because(what: &str) -> impl FnOnce(std::io::Error) -> String {
    move |error| format!("{what}: {error}")
}

/// The number at a position of the arguments.
fn number(arguments: &[&str], position: usize, name: &str) -> Result<u64, String> {
    let text = arguments
        .get(position)
        .ok_or_else(|| format!("{name} is missing"))?;
    text.parse()
        .map_err(|_| format!("{name} is not a number: {text}"))
}

fn number_or(arguments: &[&str], position: usize, name: &str, default: u64) -> Result<u64, String> {
    if arguments.len() > position {
        number(arguments, position, name)
    } else {
        Ok(default)
    }
}

impl Session {
    /// Starts what goes on all the time: the counter and the clock watchers.
    pub fn start() -> std::io::Result<Session> {
        let counter = Counter::start()?;
        let clocks = ClockWatch::start()?;
        // Without root the log is not readable, and there is nothing to skip.
        let boot_log_lines = kernel::complaints(0).map_or(0, |found| found.lines);
        Ok(Session {
            counter,
            clocks,
            memory: None,
            disk_churn: DiskChurn::default(),
            boot_log_lines,
        })
    }

    /// Obeys one line and answers it. An empty line is nothing.
    pub fn obey(&mut self, line: &str) {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let tag = words.first().copied().filter(|word| word.starts_with('#'));
        if tag.is_some() {
            words.remove(0);
        }
        let Some((command, arguments)) = words.split_first() else {
            return;
        };
        let reply = self.carry_out(command, arguments);
        answer::send(&answer::answer_line(tag, command, &reply));
    }

    fn carry_out(&mut self, command: &str, arguments: &[&str]) -> Reply {
        match command {
            "hello" => Ok(Answer::ok()),
            "fill" => self.fill(arguments),
            "rewrite" => self.rewrite(arguments),
            "churn" => self.churn(arguments),
            "check" => self.check(),
            "count" => Ok(Answer::ok().with("value", self.counter.value())),
            "ticks" => self.ticks(arguments),
            "clocks" => Ok(self.clocks()),
            "timers" => timers_answer(arguments),
            "cpus" => cpus_answer(),
            "disk" => self.disk(arguments),
            "rng" => rng_answer(arguments),
            "kernel" if arguments == ["boot"] => kernel_answer(0),
            "kernel" => kernel_answer(self.boot_log_lines),
            "sh" => shell(&arguments.join(" ")),
            "poweroff" => end(Ending::PowerOff),
            "reboot" => end(Ending::Reboot),
            _ => Err("unknown command".into()),
        }
    }

    fn fill(&mut self, arguments: &[&str]) -> Reply {
        let (mib, seed) = (number(arguments, 0, "MIB")?, number(arguments, 1, "SEED")?);
        let parts = number_or(arguments, 2, "PARTS", 1)?;
        if let Some(memory) = self.memory.take() {
            memory.stop_writing();
        }
        let pages = usize::try_from(mib)
            .ok()
            .and_then(|mib| mib.checked_mul(PAGES_PER_MIB));
        let memory = pages
            .and_then(|pages| Memory::fill(pages, seed, parts as usize).ok())
            .ok_or_else(|| format!("no {mib} MiB of memory"))?;
        self.memory = Some(memory);
        Ok(Answer::ok()
            .with("mib", mib)
            .with("seed", seed)
            .with("parts", parts))
    }

    fn filled(&self) -> Result<&Memory, String> {
        self.memory
            .as_ref()
            .ok_or_else(|| "no memory filled: `fill MIB SEED` first".into())
    }

    fn rewrite(&self, arguments: &[&str]) -> Reply {
        let mib = number(arguments, 0, "MIB")?;
        let pages = usize::try_from(mib)
            .ok()
            .and_then(|mib| mib.checked_mul(PAGES_PER_MIB));
        self.filled()?.rewrite(pages.ok_or("MIB is too large")?);
        Ok(Answer::ok().with("mib", mib))
    }

    fn churn(&self, arguments: &[&str]) -> Reply {
        match arguments {
            ["on"] => self.filled()?.start_writing(None),
            ["on", _] => {
                self.filled()?
                    .start_writing(Some(number(arguments, 1, "MIB_PER_SECOND")?))
            }
            ["off"] => {
                self.filled()?.stop_writing();
                Ok(())
            }
            _ => return Err("say `churn on [MIB_PER_SECOND]` or `churn off`".into()),
        }
        .map_err(because("cannot start writers"))?;
        Ok(Answer::ok())
    }

    fn check(&self) -> Reply {
        let findings = self.filled()?.check();
        Ok(Answer::judged(findings.damaged_pages == 0)
            .with("pages", findings.pages)
            .with("seed", findings.seed)
            .with_list("epochs", findings.positions.iter().map(|(epoch, _)| epoch))
            .with_list(
                "cursors",
                findings.positions.iter().map(|(_, cursor)| cursor),
            )
            .with("damaged", findings.damaged_pages)
            .with("fingerprint", format_args!("{:016x}", findings.fingerprint))
            .with_text(findings.damage.as_deref()))
    }

    fn ticks(&self, arguments: &[&str]) -> Reply {
        match arguments {
            ["on"] => self.counter.set_ticking(true),
            ["off"] => self.counter.set_ticking(false),
            _ => return Err("say `ticks on` or `ticks off`".into()),
        }
        Ok(Answer::ok())
    }

    fn clocks(&self) -> Answer {
        let seen = self.clocks.look();
        Answer::judged(seen.backwards == [0; 3])
            .with("realtime_ns", seen.last_ns[0])
            .with("monotonic_ns", seen.last_ns[1])
            .with("boottime_ns", seen.last_ns[2])
            .with_list("backwards", seen.backwards)
            .with("back_ns_max", seen.back_ns_max)
            .with_list("forward_ns_max", seen.forward_ns_max)
            .with("readings", seen.readings)
    }

    fn disk(&self, arguments: &[&str]) -> Reply {
        let files = disk::files();
        match arguments {
            ["mount"] => {
                disk::mount("/dev/vda", false).map_err(because("cannot mount /dev/vda"))?
            }
            ["mount", device] => disk::mount(device, false).map_err(because("cannot mount"))?,
            ["mount", device, "ro"] => {
                disk::mount(device, true).map_err(because("cannot mount"))?
            }
            ["umount"] => disk::unmount().map_err(because("cannot unmount"))?,
            ["sync"] => sys::sync(),
            ["write", counts @ ..] => {
                let (count, kib) = (number(counts, 0, "FILES")?, number(counts, 1, "KIB")?);
                let size_bytes = usize::try_from(kib << 10).map_err(|_| "KIB is too large")?;
                files
                    .write(count, size_bytes, number(counts, 2, "SEED")?)
                    .map_err(because("cannot write"))?;
            }
            ["verify"] => return verify(&files),
            ["churn", "on"] => self
                .disk_churn
                .start(files)
                .map_err(because("cannot start"))?,
            ["churn", "off"] => {
                self.disk_churn.stop();
                let (rounds, failed) = self.disk_churn.progress();
                return Ok(Answer::judged(failed == 0)
                    .with("rounds", rounds)
                    .with("failed", failed));
            }
            _ => return Err("say `disk mount|umount|sync|write|verify|churn`".into()),
        }
        Ok(Answer::ok())
    }
}

fn verify(files: &disk::Files) -> Reply {
    disk::forget_cached().map_err(because("cannot drop the page cache"))?;
    let verdict = files.verify().map_err(because("cannot read"))?;
    Ok(Answer::judged(verdict.damaged.is_empty())
        .with("files", verdict.files)
        .with("bytes", verdict.content_bytes)
        .with("damaged", verdict.damaged.len())
        .with_text(verdict.damaged.first().map(String::as_str)))
}

fn timers_answer(arguments: &[&str]) -> Reply {
    let length_ms = number_or(arguments, 0, "MS", 500)?;
    let beats =
        timers::run(Duration::from_millis(length_ms)).map_err(because("cannot run timers"))?;
    Ok(
        Answer::judged(beats.iter().all(|(_, beats)| beats.are_alive()))
            .with_list("cpus", beats.iter().map(|(cpu, _)| cpu))
            .with_list("fired", beats.iter().map(|(_, beats)| beats.fired))
            .with_list("slept", beats.iter().map(|(_, beats)| beats.slept))
            .with_list(
                "interrupts",
                beats.iter().map(|(_, beats)| beats.interrupts),
            ),
    )
}

fn cpus_answer() -> Reply {
    let ran = cpus::on_each(|_| sys::current_cpu()).map_err(because("cannot run on every CPU"))?;
    Ok(
        Answer::judged(ran.iter().all(|(asked, found)| asked == found))
            .with("online", ran.len())
            .with_list("ran", ran.iter().map(|(_, found)| found)),
    )
}

fn rng_answer(arguments: &[&str]) -> Reply {
    let length = number_or(arguments, 0, "BYTES", 16)?.min(4096);
    let source =
        std::fs::read_to_string("/sys/class/misc/hw_random/rng_current").unwrap_or_default();
    let mut bytes = vec![0; length as usize];
    std::fs::File::open("/dev/hwrng")
        .and_then(|mut rng| rng.read_exact(&mut bytes))
        .map_err(because("cannot read /dev/hwrng"))?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Answer::ok().with("source", source.trim()).with("hex", hex))
}

fn kernel_answer(skip: usize) -> Reply {
    let found = kernel::complaints(skip).map_err(because("cannot read the kernel log"))?;
    for line in &found.context {
        answer::send(&format!("| {line}"));
    }
    Ok(Answer::judged(found.complaints.is_empty())
        .with("complaints", found.complaints.len())
        .with("lines", found.lines)
        .with_text(found.complaints.first().map(String::as_str)))
}

/// Runs a shell command; its output goes out first, each line behind `| `.
fn shell(command: &str) -> Reply {
    let output = Command::new("/bin/sh")
        .args(["-c", &format!("exec 2>&1\n{command}")])
        .stdin(Stdio::null())
        .output()
        .map_err(because("cannot run a shell"))?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        answer::send(&format!("| {line}"));
    }
    Ok(Answer::judged(output.status.success()).with("exit", output.status.code().unwrap_or(-1)))
}

/// Ends the machine. The answer is sent before, because nothing can be sent after.
fn end(ending: Ending) -> Reply {
    answer::send(match ending {
        Ending::PowerOff => "@ poweroff ok",
        Ending::Reboot => "@ reboot ok",
    });
    // If it is not mounted or still in use, the sync that follows must suffice.
    let _ = disk::unmount();
    sys::sync();
    answer::drain();
    sys::end_machine(ending).map_err(because("the machine did not end"))?;
    Err("the machine did not end".into())
}

#[cfg(test)]
#[path = "session_test.rs"]
mod session_test;
