//! `nvvmm migrate`: a running VM goes to another host.
//!
//! Rounds: a snapshot is taken and sent, first a whole one, and then what was written since the one
//! before. The VM runs on. When a round has become small, the VM is paused, and a last difference
//! is sent. The other host builds the VM, and says so. From `Go` on the VM is there. Until then any
//! failure leaves it here, as it was.
//!
//! - [`message`]: what the two hosts say to each other
//! - [`link`]: the connection, by ssh(1)
//! - [`arrival`]: the other end, and `receiver`, a confined process of it
//! - [`decision`]: who has the VM when the connection breaks at `Go`
//! - [`names`]: snapshots of a migration

mod arrival;
mod decision;
mod link;
mod message;
mod names;
mod receiver;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use nvvmm::control::registry::Entry;
use nvvmm::control::{RuntimeDir, SnapshotRequest, VmState, VmStatus};
use nvvmm::{ErrorKind, Pool, VmError};
use nvvmm_snapshot::{Durability, MoveProgress, SendOptions, TimeText, counted, fill_random};

pub use self::arrival::arrive;
pub use self::link::Host;
use self::link::{Link, Way};
use self::message::{FromSource, FromTarget, PROTOCOL_VERSION};
use self::names::Names;
use super::args::MigrateArguments;
use super::interruption::{ends_on_signal, unless};
use super::json::moving::Migrated;
use super::progress::Progress;
use super::terminal::tell;
use super::vm_commands::{connect, kill_one, wait_until_gone};
use super::{output, pool_path};

/// A round that sends more than this part of the one before does not pay.
const SHRINKS_TO: f64 = 0.8;
/// Rounds after which that counts.
const ROUNDS_MIN: u32 = 3;
/// Tries to learn who has the VM.
const ASKED_MAX: u32 = 3;

/// Sums of a migration.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    /// Rounds, with the last one.
    pub rounds: u32,
    /// Bytes of all streams.
    pub bytes_sent: u64,
    /// Bytes of the stream that was sent while the VM stood still.
    pub bytes_sent_paused: u64,
    /// Time that the VM stood still.
    pub downtime: Duration,
    /// Time of all.
    pub total: Duration,
}

/// `nvvmm migrate`.
pub fn run(arguments: &MigrateArguments) -> Result<(), VmError> {
    let dir = RuntimeDir::of_user()?;
    let entry = dir.find(&arguments.vm)?;
    let status = connect(&entry)?.status()?;
    check_movable(&status)?;
    let mut id = [0; 8];
    fill_random(&mut id)?;
    let id = id
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    let interrupted = ends_on_signal()?;
    let migration = Migration {
        arguments,
        pool: pool_path::open(&status.pool)?,
        names: Names::new(&arguments.vm, &id)?,
        way: way(arguments),
        was_paused: status.state == VmState::Paused,
        entry,
        interrupted,
    };
    let done = migration.carry_out();
    // Also after a failure: nobody else knows of them.
    let removed = migration.names.remove_snapshots(&migration.pool, None);
    let sums = done?;
    end_here(&dir, &arguments.vm)?;
    removed?;
    if arguments.json.json {
        return output::print_json(&Migrated::of(&arguments.vm, &arguments.host, &sums));
    }
    if status.ring.is_some_and(|ring| ring.running) {
        tell("nvvmm: note: the ring of checkpoints has ended; begin one on the other host\n");
    }
    output::print(&text(arguments, &sums))
}

/// Refuses a VM of which something would stay here.
fn check_movable(status: &VmStatus) -> Result<(), VmError> {
    if let Some(outside) = status.disks.iter().find_map(|disk| disk.disk.path()) {
        let path = outside.display();
        let why = format!("the disk {path} is not in the pool, and would not be moved");
        return Err(VmError::new(ErrorKind::Refused, why)
            .with_remedy("use disks of the pool ('nvvmm disk import'), which go with the VM"));
    }
    match status.state {
        VmState::Running | VmState::Paused => Ok(()),
        _ => Err(VmError::new(
            ErrorKind::Refused,
            format!("'{}' neither runs nor is paused", status.name),
        )
        .with_remedy("'nvvmm ps' says what it waits for")),
    }
}

fn way(arguments: &MigrateArguments) -> Way {
    let mut command = vec![arguments.program.clone(), "arrive".to_owned()];
    if let Some(pool) = &arguments.to_pool {
        command.extend(["--pool".to_owned(), pool.clone()]);
    }
    if !arguments.options.is_empty() {
        command.push("--".to_owned());
        command.extend(arguments.options.iter().cloned());
    }
    Way {
        ssh: arguments.ssh.clone(),
        host: arguments.host.clone(),
        command,
        silence: arguments.silence,
    }
}

/// A VM on its way.
struct Migration<'a> {
    arguments: &'a MigrateArguments,
    entry: Entry,
    pool: Arc<Pool>,
    names: Names,
    way: Way,
    was_paused: bool,
    interrupted: Arc<AtomicBool>,
}

impl Migration<'_> {
    fn carry_out(&self) -> Result<Sums, VmError> {
        let began = Instant::now();
        let mut link = Link::open(&self.way, &self.hello(), &self.interrupted)?;
        let mut sums = Sums::default();
        let prepared = self.send_rounds(&mut link, &mut sums);
        let sent = prepared.and_then(|()| self.send_rest(&mut link, &mut sums));
        let moved = match sent {
            Ok(paused_at) => self.hand_over(link).map(|()| {
                sums.downtime = paused_at.elapsed();
                sums.total = began.elapsed();
            }),
            Err(error) => {
                let resumed = self.resume();
                link.close();
                resumed.and(Err(error))
            }
        };
        moved.map(|()| sums)
    }

    fn hello(&self) -> FromSource {
        FromSource::Hello {
            protocol: PROTOCOL_VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            id: self.names.id.clone(),
            vm: self.names.vm.clone(),
        }
    }

    /// Sends snapshots while the VM runs, until a difference is small.
    fn send_rounds(&self, link: &mut Link, sums: &mut Sums) -> Result<(), VmError> {
        let mut before = None;
        loop {
            let sent = self.send(link, sums)?;
            let kept = self.names.of_round(sums.rounds);
            self.names.remove_snapshots(&self.pool, Some(&kept))?;
            let is_small = sent <= self.arguments.until;
            let shrinks = before.is_none_or(|b: u64| (sent as f64) < SHRINKS_TO * b as f64);
            if is_small
                || sums.rounds >= self.arguments.rounds
                || sums.rounds >= ROUNDS_MIN && !shrinks
            {
                return Ok(());
            }
            before = Some(sent);
        }
    }

    /// Pauses the VM, sends the rest, and has the other host build the VM. Gives the time of the
    /// pause.
    fn send_rest(&self, link: &mut Link, sums: &mut Sums) -> Result<Instant, VmError> {
        if !self.was_paused {
            connect(&self.entry)?.pause()?;
        }
        let paused_at = Instant::now();
        sums.bytes_sent_paused = self.send(link, sums)?;
        link.say(&FromSource::Restore {
            snapshot: self.names.of_round(sums.rounds),
        })?;
        match link.answer()? {
            FromTarget::Restored => {
                tracing::info!(
                    "built over there {} after the pause",
                    TimeText(paused_at.elapsed())
                );
                Ok(paused_at)
            }
            other => Err(link.unexpected(&other)),
        }
    }

    /// Takes a snapshot, and sends it or its difference from the one before. Gives the size of the
    /// stream.
    fn send(&self, link: &mut Link, sums: &mut Sums) -> Result<u64, VmError> {
        let before = (sums.rounds > 0).then(|| self.names.of_round(sums.rounds));
        sums.rounds += 1;
        let name = self.names.of_round(sums.rounds);
        let began = Instant::now();
        connect(&self.entry)?.snapshot(SnapshotRequest {
            durability: Some(Durability::Process),
            ..name.as_str().into()
        })?;
        let taken = began.elapsed();
        link.say(&FromSource::Receive {
            snapshot: name.clone(),
        })?;
        let options = SendOptions {
            since: before.as_deref(),
            lineage: false,
            level: self.arguments.level,
            spec: String::new(),
        };
        let mut shown = self.progress()?;
        let mut on_progress = |now: MoveProgress| {
            if let Some(shown) = &mut shown {
                shown.show(now.bytes_done, Some(now.bytes_total));
            }
            unless(&self.interrupted)
        };
        let report =
            link.stream(|out| Ok(self.pool.send(&name, &options, out, &mut on_progress)?))?;
        sums.bytes_sent += report.bytes_stream;
        let sent = began.elapsed();
        match link.answer()? {
            FromTarget::Received => {}
            other => return Err(link.unexpected(&other)),
        }
        tracing::info!(
            "round {}: snapshot taken after {}, {} sent after {}, received after {}",
            sums.rounds,
            TimeText(taken),
            output::size(report.bytes_stream),
            TimeText(sent),
            TimeText(began.elapsed()),
        );
        Ok(report.bytes_stream)
    }

    fn progress(&self) -> Result<Option<Progress>, VmError> {
        let is_shown = !self.arguments.json.json;
        is_shown.then(|| Progress::of_bytes("migrate")).transpose()
    }

    /// Gives the VM to the other host.
    fn hand_over(&self, mut link: Link) -> Result<(), VmError> {
        let said = link.say(&FromSource::Go {
            paused: self.was_paused,
        });
        let answer = said.and_then(|()| link.answer());
        if let Ok(FromTarget::Taken) = answer {
            link.close();
            return Ok(());
        }
        drop(link);
        let cause = answer.err();
        match self.ask() {
            Some(true) => Ok(()),
            Some(false) => {
                self.resume()?;
                Err(cause.unwrap_or_else(|| VmError::failed("the other host has given up")))
            }
            None => Err(self.undecided(cause)),
        }
    }

    /// Asks the other host if it has the VM. `None` when it cannot be asked.
    fn ask(&self) -> Option<bool> {
        let ask = || {
            // Ctrl-C does not end this question: the answer is needed.
            let unheard = Arc::new(AtomicBool::new(false));
            let mut link = Link::open(&self.way, &self.hello(), &unheard)?;
            link.say(&FromSource::Ask)?;
            let answer = link.answer();
            link.close();
            answer
        };
        for _ in 0..ASKED_MAX {
            match ask() {
                Ok(FromTarget::Taken) => return Some(true),
                Ok(FromTarget::NotTaken) => return Some(false),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the other host was asked in vain"),
            }
        }
        None
    }

    fn undecided(&self, cause: Option<VmError>) -> VmError {
        let (vm, host) = (&self.names.vm, &self.way.host);
        let cause = cause.map_or_else(String::new, |cause| format!(" ({})", cause.message));
        VmError::failed(format!(
            "it is not known if '{vm}' runs on {host}: the connection ended when the VM was handed \
             over{cause}. Here it stays paused"
        ))
        .with_remedy(format!(
            "look there with 'nvvmm ps'. If it runs there, 'nvvmm stop {vm}' here; if it does not, \
             'nvvmm resume {vm}' here. Never do both"
        ))
    }

    /// Has the VM go on here as it was.
    fn resume(&self) -> Result<(), VmError> {
        let mut vm = connect(&self.entry)?;
        match vm.status()?.state {
            VmState::Paused if !self.was_paused => vm.resume(),
            _ => Ok(()),
        }
    }
}

/// Ends the VM here, which is paused, and runs on the other host.
fn end_here(dir: &RuntimeDir, vm: &str) -> Result<(), VmError> {
    let ended = connect(&dir.find(vm)?).and_then(|mut client| client.stop());
    match ended.and_then(|()| wait_until_gone(dir, vm)) {
        Ok(()) => Ok(()),
        Err(_) => kill_one(dir, vm),
    }
}

fn text(arguments: &MigrateArguments, sums: &Sums) -> String {
    format!(
        "{} is on {} now: stood still for {}; {}, {} sent in {}\n",
        arguments.vm,
        arguments.host,
        TimeText(sums.downtime),
        counted(u64::from(sums.rounds), "round"),
        output::size(sums.bytes_sent),
        TimeText(sums.total),
    )
}
