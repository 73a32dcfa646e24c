//! Checks that an image is consistent, so that a restart need not check again.

use std::collections::HashSet;

use super::{
    Connection, HeldKind, Image, Mapped, Mapping, OpenFile, PageRun, Process, SocketState, Thread,
    What,
};
use crate::arch::{PAGE_BYTES, TASK_END};
use crate::special::SocketPair;

const SIGINFO_BYTES: usize = 128;
const SIGNALS: usize = 64;
const LIMITS_MAX: usize = 16;
/// Of a filter of system calls: an instruction, and all of them.
const INSTRUCTION_BYTES: usize = 8;
const FILTER_BYTES_MAX: usize = 4096 * INSTRUCTION_BYTES;
const DESCRIPTOR_MAX: i32 = 1 << 30;

fn is_exit_signal(signal: i32) -> bool {
    (0..=SIGNALS as i32).contains(&signal)
}

type Verdict = Result<(), &'static str>;

fn ensure(condition: bool, otherwise: &'static str) -> Verdict {
    if condition { Ok(()) } else { Err(otherwise) }
}

impl Image {
    pub(super) fn validate(&self) -> Verdict {
        ensure(!self.processes.is_empty(), "it has no process")?;
        let mut numbers = HashSet::new();
        for (index, process) in self.processes.iter().enumerate() {
            let has_parent = match process.parent {
                None => index == 0,
                Some(parent) => (parent as usize) < index,
            };
            ensure(has_parent, "a process comes before its parent")?;
            for thread in &process.threads {
                ensure(
                    thread.tid > 0 && numbers.insert(thread.tid),
                    "a thread's number is wrong or there twice",
                )?;
            }
            self.validate_process(process)?;
        }
        ensure(
            self.barriers.is_empty() || self.barriers.len() == self.processes.len(),
            "registrations for memory barriers are missing",
        )?;
        self.files
            .iter()
            .try_for_each(|file| self.validate_file(file))?;
        let mut faults = self.pairs.iter().filter_map(SocketPair::fault);
        faults.next().map_or(Ok(()), Err)?;
        self.validate_settings()?;
        self.validate_held()?;
        self.validate_ended(&mut numbers)?;
        self.validate_terminals()?;
        for pipe in &self.pipes {
            ensure(
                pipe.held.len() <= pipe.capacity_bytes as usize,
                "a pipe holds more than it can",
            )?;
        }
        Ok(())
    }

    fn validate_file(&self, file: &OpenFile) -> Verdict {
        match &file.what {
            What::PipeEnd { pipe, .. } | What::NamedPipe { pipe, .. } => {
                ensure((*pipe as usize) < self.pipes.len(), "a pipe is missing")
            }
            What::Stdio { stream, .. } => ensure(
                (0..=2).contains(stream),
                "a standard stream has a wrong number",
            ),
            What::File { .. } | What::Device { .. } => Ok(()),
            What::Special(state) => state.fault().map_or(Ok(()), Err),
            What::PollSet { entries } => entries.iter().try_for_each(|entry| {
                let valid = (0..DESCRIPTOR_MAX).contains(&entry.fd);
                ensure(
                    valid && (entry.file as usize) < self.files.len(),
                    "a poll set's file is missing",
                )
            }),
            What::SocketEnd { pair, .. } => ensure(
                (*pair as usize) < self.pairs.len(),
                "a pair of sockets is missing",
            ),
            What::Socket(socket) => socket.fault().map_or(Ok(()), Err),
            What::Held { held } => ensure(self.has_held(*held), "a held file is missing"),
            What::Terminal { terminal, .. } => ensure(
                (*terminal as usize) < self.terminals.len(),
                "a terminal is missing",
            ),
            What::ProcessFile { pid } => ensure(
                self.processes.iter().any(|process| process.pid == *pid)
                    || self.ended.iter().any(|child| child.pid == *pid),
                "a descriptor of a process has no process",
            ),
        }
    }

    /// Checks the lists that came with version 3.
    fn validate_settings(&self) -> Verdict {
        ensure(
            self.settings.is_empty() || self.settings.len() == self.processes.len(),
            "settings of processes are missing",
        )?;
        let is_file = |file: u32| (file as usize) < self.files.len();
        for (settings, process) in self.settings.iter().zip(&self.processes) {
            ensure(
                is_exit_signal(settings.exit_signal),
                "an exit signal is none",
            )?;
            ensure(
                settings.threads.len() == process.threads.len(),
                "settings of threads are missing",
            )?;
            ensure(
                settings.locks.iter().all(|lock| is_file(lock.file)),
                "a locked file is missing",
            )?;
            let is_time = |(_, nanoseconds): (i64, i64)| (0..1_000_000_000).contains(&nanoseconds);
            let mut timers = settings.timers.iter();
            ensure(
                timers.all(|timer| timer.id >= 0 && is_time(timer.interval) && is_time(timer.left)),
                "a timer has a time or number that is none",
            )?;
        }
        for attached in &self.attached {
            ensure(
                attached.owner.is_none_or(|owner| self.has_owner(owner)),
                "the owner of a file is none of its processes",
            )?;
            let locks = &attached.record_locks;
            ensure(
                is_file(attached.file) && locks.iter().all(|lock| lock.file == attached.file),
                "a file that something is attached to is missing",
            )?;
        }
        Ok(())
    }

    /// True if this type and number are those of a thread, process or group of the image.
    fn has_owner(&self, (kind, number): (i32, i32)) -> bool {
        self.processes.iter().any(|process| match kind {
            0 => process.threads.iter().any(|thread| thread.tid == number),
            1 => process.pid == number,
            2 => process.pid == number && process.group == number,
            _ => false,
        })
    }

    /// Checks the list of terminals, which came with version 5.
    fn validate_terminals(&self) -> Verdict {
        let (mut numbers, mut sessions) = (HashSet::new(), HashSet::new());
        for terminal in &self.terminals {
            terminal.fault().map_or(Ok(()), Err)?;
            ensure(numbers.insert(terminal.number), "a terminal is there twice")?;
            let session = terminal.session;
            let is_session =
                |process: &Process| (process.pid, process.session) == (session, session);
            ensure(
                session == 0
                    || terminal.is_open
                        && sessions.insert(session)
                        && self.processes.iter().any(is_session),
                "a terminal is of a session that is none",
            )?;
            let mut without = terminal.without.iter();
            ensure(
                without.all(|pid| self.processes.iter().any(|process| process.pid == *pid)),
                "a process without its terminal is missing",
            )?;
        }
        Ok(())
    }

    fn validate_ended(&self, numbers: &mut HashSet<i32>) -> Verdict {
        for child in &self.ended {
            ensure(
                child.pid > 0 && numbers.insert(child.pid),
                "an ended child's number is wrong or there twice",
            )?;
            let (signal, code) = (child.status & 0xff, child.status >> 8);
            let exited = signal == 0 && (0..=0xff).contains(&code);
            let killed = (1..=SIGNALS as i32).contains(&signal) && code == 0;
            ensure(exited || killed, "an ended child has a status that is none")?;
            ensure(is_exit_signal(child.exit_signal), "an exit signal is none")?;
            ensure(
                (child.parent as usize) < self.processes.len() && child.name.len() < 16,
                "an ended child has no parent, or too long a name",
            )?;
        }
        Ok(())
    }

    fn validate_process(&self, process: &Process) -> Verdict {
        let leader = process.threads.first().ok_or("a process has no thread")?;
        ensure(
            leader.tid == process.pid,
            "a process's first thread is not its leader",
        )?;
        process.threads.iter().try_for_each(validate_thread)?;
        ensure(
            process.actions.len() == SIGNALS,
            "signal actions are missing",
        )?;
        ensure(
            process.limits.len() <= LIMITS_MAX,
            "there are too many limits",
        )?;
        ensure(
            process
                .pending
                .iter()
                .all(|info| info.len() == SIGINFO_BYTES),
            "a signal has a wrong size",
        )?;
        let ordered = process
            .descriptors
            .windows(2)
            .all(|pair| pair[0].fd < pair[1].fd);
        ensure(ordered, "descriptors are not in order")?;
        for descriptor in &process.descriptors {
            let valid = (0..DESCRIPTOR_MAX).contains(&descriptor.fd);
            ensure(
                valid && (descriptor.file as usize) < self.files.len(),
                "a descriptor's file is missing",
            )?;
        }
        self.validate_memory(process)
    }

    fn validate_memory(&self, process: &Process) -> Verdict {
        let mut taken = Vec::new();
        for mapping in &process.mappings {
            taken.push((mapping.start, mapping.end));
            self.validate_mapping(process, mapping)?;
        }
        ensure(
            process.vdso.is_multiple_of(PAGE_BYTES),
            "the vDSO is not on a page",
        )?;
        let vdso_end = process
            .vdso
            .checked_add(self.kernel.vdso_bytes)
            .ok_or("the vDSO is too large")?;
        ensure(
            self.kernel.vdso_bytes > 0 && vdso_end <= TASK_END,
            "there is no place for the vDSO",
        )?;
        taken.push((process.vdso, vdso_end));
        taken.sort_unstable();
        ensure(
            taken.windows(2).all(|pair| pair[0].1 <= pair[1].0),
            "mappings overlap",
        )
    }

    fn validate_mapping(&self, process: &Process, mapping: &Mapping) -> Verdict {
        let (start, end) = (mapping.start, mapping.end);
        let whole_pages = start.is_multiple_of(PAGE_BYTES) && end.is_multiple_of(PAGE_BYTES);
        ensure(
            whole_pages && start > 0 && start < end && end <= TASK_END,
            "a mapping has wrong addresses",
        )?;
        match mapping.what {
            Mapped::PrivateFile { file, offset } | Mapped::SharedFile { file, offset, .. } => {
                let known = (file as usize) < process.mapped_files.len();
                ensure(
                    known && offset.is_multiple_of(PAGE_BYTES),
                    "a mapping's file is missing",
                )?;
            }
            Mapped::PrivateHeld { held, offset } | Mapped::SharedHeld { held, offset, .. } => {
                ensure(
                    self.has_held(held) && offset.is_multiple_of(PAGE_BYTES),
                    "a mapping's file is missing",
                )?;
            }
            Mapped::Anonymous | Mapped::Droppable => {}
        }
        ensure(
            mapping.what.is_private() || mapping.pages.is_empty(),
            "a mapping has pages that cannot be its own",
        )?;
        self.validate_pages(&mapping.pages, start, end)?;
        let mut from = start;
        for (address, pages) in &mapping.guards {
            from =
                run_end(from, end, *address, *pages).ok_or("a guard is outside of its mapping")?;
        }
        Ok(())
    }

    /// Checks pages that are to be between two addresses.
    fn validate_pages(&self, pages: &[PageRun], start: u64, end: u64) -> Verdict {
        let mut from = start;
        for run in pages {
            from = run_end(from, end, run.address, run.pages)
                .ok_or("a page is outside of its mapping")?;
            let image_end = run.image_page.checked_add(run.pages);
            ensure(
                image_end.is_some_and(|end| end <= self.pages),
                "a page is not one of the image's",
            )?;
        }
        Ok(())
    }

    /// The open file of the listener that accepted a connection.
    pub fn listener(&self, connection: &Connection) -> Option<u32> {
        let kind = self.pairs.get(connection.pair as usize)?.kind;
        let listens = |file: &OpenFile| match &file.what {
            What::Socket(socket) => {
                let is_listener = matches!(socket.state, SocketState::Listening { .. });
                is_listener && (socket.kind, &socket.address) == (kind, &connection.address)
            }
            _ => false,
        };
        let found = self.files.iter().position(listens);
        found.map(|index| index as u32)
    }

    fn has_held(&self, held: u32) -> bool {
        (held as usize) < self.held.len()
    }

    /// Checks the lists that came with version 4.
    fn validate_held(&self) -> Verdict {
        for file in &self.held {
            let end = file.size_bytes.checked_next_multiple_of(PAGE_BYTES);
            let end = end.filter(|end| *end <= i64::MAX as u64);
            let end = end.ok_or("a held file is longer than any")?;
            self.validate_pages(&file.pages, 0, end)?;
            ensure(file.mode <= 0o7777, "a held file has no permissions")?;
        }
        ensure(
            self.segments.iter().all(|mark| {
                let file = self.held.get(mark.held as usize);
                file.is_some_and(|file| matches!(file.kind, HeldKind::Segment { .. }))
            }),
            "a segment of memory is missing",
        )?;
        ensure(
            self.confined.is_empty() || self.confined.len() == self.processes.len(),
            "confinement of processes is missing",
        )?;
        let mut pairs = HashSet::new();
        let mut connections = self.connections.iter();
        ensure(
            connections.all(|connection| {
                let known = (connection.pair as usize) < self.pairs.len();
                known && pairs.insert(connection.pair) && self.listener(connection).is_some()
            }),
            "a connection has no pair, or nobody listens where it was accepted",
        )?;
        let mut filters = self.confined.iter().flat_map(|confined| &confined.filters);
        let valid = |program: &[u8]| {
            let len = program.len();
            len > 0 && len.is_multiple_of(INSTRUCTION_BYTES) && len <= FILTER_BYTES_MAX
        };
        ensure(
            filters.all(|filter| valid(&filter.program)),
            "a filter of system calls has no program, or too long a one",
        )
    }
}

/// The end of a run of whole pages, if it lies between two addresses.
fn run_end(from: u64, end: u64, address: u64, pages: u64) -> Option<u64> {
    let run_end = pages
        .checked_mul(PAGE_BYTES)
        .and_then(|bytes| address.checked_add(bytes));
    let fits = address.is_multiple_of(PAGE_BYTES) && pages > 0 && address >= from;
    run_end.filter(|run_end| fits && *run_end <= end)
}

fn validate_thread(thread: &Thread) -> Verdict {
    ensure(
        thread
            .pending
            .iter()
            .all(|info| info.len() == SIGINFO_BYTES),
        "a signal has a wrong size",
    )?;
    ensure(thread.name.len() < 16, "a thread's name is too long")?;
    ensure(
        thread.affinity.len() <= 1024 && thread.xstate.len() <= 16 << 10,
        "a thread's state is too large",
    )?;
    ensure(
        thread.credentials.ids.more_groups.len() <= 1 << 13,
        "a thread has too many groups",
    )
}
