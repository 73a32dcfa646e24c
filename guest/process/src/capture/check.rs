//! Refuses, by name, what an image cannot hold: before anything is frozen, and again once all
//! processes stand still.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::files::{self, Kind};
use super::held;
use super::observed::{Observation, Observed};
use super::options::CaptureOptions;
use super::outside::Outside;
use super::relations;
use crate::arch::PAGE_BYTES;
use crate::error::{Error, Pid, ProcessPart, Refusal};
use crate::freeze::FrozenThread;
use crate::image::{HeldKind, SocketState};
use crate::observe::{self, Descriptor, Listing, Mapping, Pagemap, Pages, Status, identity};
use crate::sys::{self, FileTable};

/// Processes that could be captured.
#[derive(Debug)]
pub struct Checked {
    observed: Observation,
    options: CaptureOptions,
    /// One of them waits for a child that starts a program (vfork(2)), and has its memory so long.
    is_starting: bool,
}

impl Checked {
    /// The frames that are likely to be handed to the sink: the number of the first one and how
    /// many, for each run. The processes run, so this is out of date when it is there.
    pub fn frames(&self) -> Result<Vec<(u64, u64)>, Error> {
        let mut listing = Listing::default();
        let mut pagemap = Pagemap::open(self.observed.processes[0].pid)?;
        for process in &self.observed.processes {
            pagemap.go_on_with(process.pid)?;
            let own = process.mappings.iter();
            for mapping in own.filter(|mapping| !mapping.shared && !mapping.is_vdso()) {
                // Pages of a window that it did not write are in an image already.
                let pages = match files::is_of_window(mapping) {
                    true => Pages::WrittenOfWindow,
                    false => Pages::Own,
                };
                pagemap.list(mapping.start, mapping.end, pages, &mut listing)?;
            }
        }
        let runs = listing.runs.iter();
        let mut frames: Vec<_> = runs.map(|run| (run.frame, run.pages)).collect();
        // Forked processes have frames in common.
        frames.sort_unstable();
        frames.dedup();
        Ok(frames)
    }

    /// Number of processes, and of their threads.
    pub fn counts(&self) -> (usize, usize) {
        let processes = self.observed.processes.iter();
        let threads = processes.map(|process| process.threads.len()).sum();
        (self.observed.processes.len(), threads)
    }

    /// Differences that a restart would make, each with its place.
    pub fn remarks(&self) -> Vec<Refusal> {
        let mut remarks = Vec::new();
        for process in &self.observed.processes {
            for descriptor in &process.descriptors {
                let remark = self.remark(process.pid, descriptor);
                let part = ProcessPart::Descriptor(descriptor.fd);
                remarks.extend(remark.map(|remark| process.refuse(part, remark)));
            }
        }
        remarks
    }

    fn remark(&self, pid: Pid, descriptor: &Descriptor) -> Option<String> {
        let outside = &self.observed.outside;
        match files::kind(pid, descriptor, self.options, outside).ok()? {
            Kind::Stdio => Some(format!(
                "leads outside ({}): the restart gives it another one",
                descriptor.name.display()
            )),
            Kind::Socket => {
                let state = files::socket(pid, descriptor, outside).ok()?.state;
                let shown = observe::socket(pid, descriptor.inode).unwrap_or_default();
                (state == SocketState::Reset)
                    .then(|| format!("is a connection ({shown}): it comes back reset"))
            }
            _ => None,
        }
    }
}

/// The mode in which a thread may read, write and end only.
const SECCOMP_STRICT: u32 = 1;
/// In the status of a process that ended by a signal: it left a core dump.
const CORE_DUMPED: i32 = 0x80;
/// Looks at processes that run, until what is refused in all of them is known.
const LOOKS: u32 = 5;
/// The longest time that a child may take to start a program.
const START_LIMIT: Duration = Duration::from_secs(5);
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Checks that a process could be captured as it is now. The process is not stopped for this.
///
/// Processes of a tree come and go meanwhile, and some that are looked at have ended, or are not
/// what they will be. So a refusal counts that is there each time; the capture itself looks again
/// when all stand still.
pub fn check(pid: Pid, options: CaptureOptions) -> Result<Checked, Error> {
    if let Some(ended) = observe::ended(pid)? {
        let reason = match ended.has_threads {
            true => "has ended its main thread, but not its others",
            false => "has ended, and its parent has not waited for it",
        };
        let refusal = Refusal::new(pid, ProcessPart::Process, reason);
        return Err(Error::Refused(vec![refusal]));
    }
    // Read now, so that the freeze need not wait for it.
    observe::kernel()?;
    let began = Instant::now();
    let (mut checked, mut refused) = look(pid, options)?;
    let mut looks = 1;
    while options.tree && !refused.is_empty() {
        if looks >= LOOKS && !(checked.is_starting && began.elapsed() < START_LIMIT) {
            break;
        }
        std::thread::sleep(PAUSE);
        let (again, now) = look(pid, options)?;
        refused.retain(|refusal| now.contains(refusal));
        checked = again;
        looks += 1;
    }
    if refused.is_empty() {
        Ok(checked)
    } else {
        Err(Error::Refused(refused))
    }
}

fn look(pid: Pid, options: CaptureOptions) -> Result<(Checked, Vec<Refusal>), Error> {
    let mut pids = vec![pid];
    let mut next = 0;
    while options.tree && next < pids.len() {
        match observe::children(pids[next]) {
            Err(Error::Gone(_)) if next > 0 => {}
            children => pids.extend(children?),
        }
        next += 1;
    }
    // A process that ended has no memory to look at.
    pids.retain(|child| *child == pid || observe::is_zombie(*child).is_ok_and(|ended| !ended));
    let observed = Observation::of_running(&pids, options)?;
    let mut refusals = refusals(&observed, options);
    for process in &observed.processes {
        for (tid, status) in process
            .threads
            .iter()
            .filter(|(_, status)| status.tracer != 0)
        {
            let reason = format!("is traced by process {}", observe::named(status.tracer));
            refusals.push(process.refuse(ProcessPart::Thread(*tid), reason));
        }
    }
    let checked = Checked {
        is_starting: observed.has_vfork(),
        observed,
        options,
    };
    Ok((checked, refusals))
}

/// Finds all that prevents a capture of these processes, except for what only a freeze shows.
pub fn refusals(observed: &Observation, options: CaptureOptions) -> Vec<Refusal> {
    let all = &observed.processes;
    let mut refusals = Vec::new();
    for process in all {
        whole_process(process, &mut refusals);
        family(process, all, options, &mut refusals);
        relations::find(process, observed, &mut refusals);
        for (tid, status) in &process.threads {
            thread(process, *tid, status, &mut refusals);
        }
        for mapping in process.mappings.iter().filter(|mapping| !mapping.is_vdso()) {
            if let Some(reason) = mapping_refusal(process, mapping, &observed.outside) {
                refusals.push(process.refuse(ProcessPart::Address(mapping.start), reason));
            }
        }
        for descriptor in &process.descriptors {
            let kind = files::kind(process.pid, descriptor, options, &observed.outside);
            let reason = match kind {
                Ok(Kind::ProcessFile(other)) if !observed.has(other) => format!(
                    "is a descriptor for process {}, which is not captured with it",
                    observe::named(other)
                ),
                Ok(Kind::Socket) if process.has_other_root() => {
                    match files::socket(process.pid, descriptor, &observed.outside) {
                        Ok(socket) if socket.path().is_some() => {
                            "is a socket at a path in another root directory".into()
                        }
                        _ => continue,
                    }
                }
                Ok(_) => continue,
                Err(reason) if descriptor.kind() == libc::S_IFSOCK => {
                    socket(process.pid, descriptor, &reason)
                }
                Err(reason) => reason,
            };
            refusals.push(process.refuse(ProcessPart::Descriptor(descriptor.fd), reason));
        }
    }
    refusals
}

/// The refusal of a socket, with its address.
fn socket(pid: Pid, descriptor: &Descriptor, reason: &str) -> String {
    let known = observe::socket(pid, descriptor.inode);
    let shown = known.unwrap_or_else(|| descriptor.name.display().to_string());
    let rest = reason.strip_prefix("is a socket").unwrap_or_default();
    format!("is a socket ({shown}){rest}")
}

impl FrozenThread {
    /// The refusal of what only a freeze shows of a thread.
    pub(super) fn refusal(&self, process: &Observed) -> Option<Refusal> {
        let reason = if !self.registers.is_64_bit() {
            "runs 32-bit code"
        } else {
            return None;
        };
        Some(process.refuse(ProcessPart::Thread(self.tid), reason))
    }
}

fn whole_process(process: &Observed, refusals: &mut Vec<Refusal>) {
    const NAMESPACES: [&str; 10] = [
        "cgroup",
        "ipc",
        "mnt",
        "net",
        "pid",
        "pid_for_children",
        "time",
        "time_for_children",
        "user",
        "uts",
    ];
    let mut refuse = |reason: String| refusals.push(process.refuse(ProcessPart::Process, reason));
    let link = |pid: &str, name: &str| std::fs::read_link(format!("/proc/{pid}/{name}")).ok();
    let pid = process.pid.to_string();
    for name in NAMESPACES {
        let name = format!("ns/{name}");
        if link(&pid, &name) != link("self", &name) {
            refuse(format!("is in another namespace ({name})"));
        }
    }
    if identity(Path::new(&format!("/proc/{pid}/root"))) != identity(&process.root) {
        refuse("has a root directory that was deleted".into());
    }
    let directory = link(&pid, "cwd").unwrap_or_default();
    if identity(Path::new(&format!("/proc/{pid}/cwd"))) != identity(&directory) {
        refuse("has a working directory that was deleted".into());
    }
    let program = format!("/proc/{pid}/exe");
    if elf_class(Path::new(&program)) == Some(1) {
        refuse("is a 32-bit program".into());
    }
    if let Err(reason) =
        files::mapped_file(Path::new(&program), &link(&pid, "exe").unwrap_or_default())
    {
        refuse(format!("runs a program {reason}"));
    }
    if process.vdso.is_none() {
        refuse("has no vDSO".into());
    }
    if let Err(error) = observe::timers(process.pid) {
        refuse(format!(
            "has timers (timer_create) that cannot be read: {error}"
        ));
    }
}

fn family(
    process: &Observed,
    all: &[Observed],
    options: CaptureOptions,
    refusals: &mut Vec<Refusal>,
) {
    if !options.tree && !process.children.is_empty() {
        let reason = format!(
            "has children, such as {}, which must be captured with it (--tree)",
            observe::named(process.children[0])
        );
        refusals.push(process.refuse(ProcessPart::Process, reason));
    }
    for child in process.children.iter().filter(|_| options.tree) {
        // Looked at while it ended, or came after the others were looked at.
        if all.iter().all(|other| other.pid != *child) {
            let reason = format!("has a child, {}, that just ended", observe::named(*child));
            refusals.push(process.refuse(ProcessPart::Process, reason));
        }
    }
    for child in &process.ended {
        let how = if child.has_threads {
            "whose main thread has ended, but not its others"
        } else if child.status & CORE_DUMPED != 0 {
            "that ended with a core dump and was not waited for"
        } else {
            continue;
        };
        let reason = format!("has a child, {}, {how}", observe::named(child.pid));
        refusals.push(process.refuse(ProcessPart::Process, reason));
    }
}

fn thread(process: &Observed, tid: Pid, status: &Status, refusals: &mut Vec<Refusal>) {
    let mut refuse = |reason: &str| refusals.push(process.refuse(ProcessPart::Thread(tid), reason));
    match status.state {
        'Z' | 'X' => refuse("has ended, but other threads of its process have not"),
        _ => {}
    }
    if status.seccomp == SECCOMP_STRICT {
        refuse("is confined by seccomp (SECCOMP_SET_MODE_STRICT)");
    }
    if status.is_flusher {
        refuse("writes back to disks for others (PR_SET_IO_FLUSHER)");
    }
    if sys::core_cookie(tid) != 0 {
        refuse("shares its core with chosen threads only (PR_SCHED_CORE)");
    }
    if sys::schedule(tid)
        .is_ok_and(|schedule| schedule.policy & !libc::SCHED_RESET_ON_FORK == libc::SCHED_DEADLINE)
    {
        refuse("has deadline scheduling");
    }
    for table in [
        FileTable::Memory,
        FileTable::Descriptors,
        FileTable::Directories,
    ] {
        if sys::share_table(process.pid, tid, table).is_ok_and(|same| !same) {
            refuse("has descriptors, directories or memory of its own, apart from its process's");
        }
    }
}

/// The kinds of memory that are named by the kernel, and what they are.
const NAMED: [(&str, &str); 2] = [
    ("/[aio]", "is a ring of asynchronous I/O (io_setup)"),
    ("socket:", "is memory of a socket"),
];

/// The properties of a mapping that an image does not hold (`VmFlags` in smaps).
const FLAGS: [(&[u8; 2], &str); 7] = [
    (b"io", "is memory of a device"),
    (b"pf", "is memory of a device"),
    (b"ht", "is made of huge pages (hugetlb)"),
    (b"um", "is watched by userfaultfd"),
    (b"uw", "is watched by userfaultfd"),
    (b"ss", "is a shadow stack"),
    (b"sl", "is sealed (mseal)"),
];

fn mapping_refusal(process: &Observed, mapping: &Mapping, outside: &Outside) -> Option<String> {
    let name = mapping.name.to_string_lossy();
    let by_name = NAMED
        .iter()
        .find(|(prefix, _)| name.starts_with(prefix))
        .map(|(_, reason)| *reason);
    let by_flag = || {
        FLAGS
            .iter()
            .find(|(flag, _)| mapping.has(flag))
            .map(|(_, reason)| *reason)
    };
    if let Some(reason) = by_name.or_else(by_flag) {
        return Some(reason.into());
    }
    if name.starts_with("anon_inode:") {
        return Some(format!("is memory of {name}"));
    }
    if mapping.protection_key != 0 {
        return Some("has a protection key".into());
    }
    if !mapping.is_of_file() {
        let known = name.is_empty()
            || name == "[heap]"
            || name.starts_with("[stack")
            || name.starts_with("[anon:");
        return (!known || mapping.shared)
            .then(|| format!("is of a kind that is not known ({name})"));
    }
    if files::is_of_window(mapping) {
        return None;
    }
    let link = files::map_link(process.pid, mapping);
    let reason = files::mapped_file(&link, &mapping.name).err()?;
    let id = identity(&link).unwrap_or_default();
    match files::held(&link, id, outside) {
        Ok(true) => part_of_segment(&link, mapping),
        Ok(false) => Some(format!("is of a file {reason}")),
        Err(reason) => Some(reason),
    }
}

/// Refuses a part of a segment of System V shared memory: shmat(2) maps all of it.
fn part_of_segment(link: &Path, mapping: &Mapping) -> Option<String> {
    let Ok(Some(HeldKind::Segment { .. })) = held::kind(link) else {
        return None;
    };
    let size_bytes = std::fs::metadata(link).map_or(0, |found| found.size());
    let is_whole = mapping.offset == 0
        && mapping.size_bytes() == size_bytes.next_multiple_of(PAGE_BYTES)
        && mapping.shared;
    (!is_whole).then(|| "is a part of a segment of System V shared memory".into())
}

/// Reads the class of an ELF file: 1 is 32 bits, 2 is 64 bits.
fn elf_class(program: &Path) -> Option<u8> {
    let mut head = [0; 5];
    File::open(program).ok()?.read_exact(&mut head).ok()?;
    head.starts_with(b"\x7fELF").then_some(head[4])
}
