//! The view of /proc on a process: the same before a capture and after a restart.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// Files of /proc/PID, or of each thread, by name.
pub type ProcView = BTreeMap<String, String>;

/// The lines of `status` that a restart brings back.
const STATUS: [&str; 23] = [
    "Seccomp",
    "Seccomp_filters",
    "Name",
    "Umask",
    "Tgid",
    "Uid",
    "Gid",
    "Groups",
    "NSpid",
    "Threads",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Cpus_allowed",
    "THP_enabled",
    "Speculation_Store_Bypass",
    "SpeculationIndirectBranch",
];

/// A thread needs a moment to be back in the system call that it was in.
const MOMENT: Duration = Duration::from_secs(10);

/// Takes one.
pub fn proc_view(pid: i32) -> ProcView {
    let mut found = ProcView::new();
    let read = |name: &str| {
        let bytes = fs::read(format!("/proc/{pid}/{name}"))
            .unwrap_or_else(|error| panic!("/proc/{pid}/{name}: {error}"));
        String::from_utf8_lossy(&bytes).into_owned()
    };
    found.insert("maps".to_owned(), without_seams(&read("maps")));
    for name in [
        "cmdline",
        "environ",
        "auxv",
        "limits",
        "comm",
        "personality",
        "oom_score_adj",
        "timers",
        "coredump_filter",
    ] {
        found.insert(name.to_owned(), read(name));
    }
    for name in ["exe", "cwd", "root"] {
        let target = fs::read_link(format!("/proc/{pid}/{name}")).expect("a link");
        found.insert(name.to_owned(), target.display().to_string());
    }
    for name in names(pid, "fd") {
        let target = fs::read_link(format!("/proc/{pid}/fd/{name}"))
            .expect("a link")
            .display()
            .to_string();
        // A pipe has another number.
        let target = if target.starts_with("pipe:") {
            "a pipe".to_owned()
        } else if let Some(name) = target.strip_suffix(" (deleted)") {
            without_name(name).to_owned()
        } else if target.starts_with("socket:") {
            "a socket".to_owned()
        } else {
            target
        };
        let info = read(&format!("fdinfo/{name}"));
        let mut position: Vec<String> = info.lines().filter_map(told).collect();
        // The kernel shows entries in the order of addresses of its own.
        position.sort_unstable();
        found.insert(
            format!("fd/{name}"),
            format!("{target} {}", position.join(" ")),
        );
    }
    for tid in names(pid, "task") {
        let status = read(&format!("task/{tid}/status"));
        let lines: Vec<&str> = status
            .lines()
            .filter(|line| STATUS.contains(&line.split(':').next().unwrap_or("")))
            .collect();
        found.insert(format!("task/{tid}/status"), lines.join("\n"));
        let stat = read(&format!("task/{tid}/stat"));
        let words: Vec<&str> = stat[stat.rfind(')').expect("a name")..]
            .split(' ')
            .collect();
        // priority, nice; code and stack; real-time priority and policy; data, heap, arguments,
        // environment.
        let fields =
            [18, 19, 26, 27, 28, 40, 41, 45, 46, 47, 48, 49, 50, 51].map(|field| words[field - 2]);
        found.insert(format!("task/{tid}/stat"), fields.join(" "));
        let slack = fs::read_to_string(format!("/proc/{tid}/timerslack_ns")).expect("a number");
        found.insert(format!("{tid}/timerslack_ns"), slack);
    }
    found
}

/// The part of a line of fdinfo that a restart brings back.
fn told(line: &str) -> Option<String> {
    const WHOLE: [&str; 8] = [
        "pos:",
        "flags:",
        "eventfd-count:",
        "eventfd-semaphore:",
        "sigmask:",
        "clockid:",
        "settime flags:",
        "it_interval:",
    ];
    if let Some((watch, _)) = line.split_once(" ignored_mask:") {
        return Some(watch.to_owned());
    }
    if WHOLE.iter().any(|key| line.starts_with(key)) {
        return Some(line.to_owned());
    }
    if let Some((entry, _)) = line.split_once(" pos:") {
        // What an entry waits for in any case is shown, or not, once it has fired.
        return Some(entry.replace(" events: 40000000", " events: 40000018"));
    }
    // The number of whoever locked it may be another one.
    let words: Vec<&str> = line
        .strip_prefix("lock:")?
        .split_ascii_whitespace()
        .collect();
    Some(format!("{:?} {:?}", &words[1..4], &words[6..]))
}

/// A file that was deleted has no name any more; memory has one.
fn without_name(name: &str) -> &str {
    let of_memory = ["/memfd:", "/dev/zero", "/SYSV"];
    match of_memory.iter().any(|prefix| name.starts_with(prefix)) {
        true => name,
        false => "a deleted file",
    }
}

/// Into how many mappings the kernel divides anonymous memory that is the same on both sides is its
/// own business.
fn without_seams(maps: &str) -> String {
    let mut joined: Vec<(String, String, String)> = Vec::new();
    for line in maps.lines() {
        let (range, mut what) = line.split_once(' ').expect("a range and what it is");
        let short;
        if let Some(name) = what.strip_suffix(" (deleted)") {
            // The numbers of device and inode are others.
            let name = &name[name.find('/').expect("a path")..];
            short = format!("{} {}", &what[..13], without_name(name));
            what = &short;
        }
        let (start, end) = range.split_once('-').expect("two ends");
        match joined.last_mut() {
            Some((_, last_end, last))
                if last_end == start
                    && last == what
                    && what[4..].starts_with(" 00000000 00:00 0") =>
            {
                *last_end = end.to_owned();
            }
            _ => joined.push((start.to_owned(), end.to_owned(), what.to_owned())),
        }
    }
    let lines = joined
        .iter()
        .map(|(start, end, what)| format!("{start}-{end} {what}\n"));
    lines.collect()
}

fn names(pid: i32, directory: &str) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/{directory}")).expect("a directory");
    entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("a number")
        })
        .collect()
}

/// Panics with what is different of a process, if anything is and stays so.
pub fn assert_same(before: &ProcView, pid: i32) {
    let began = Instant::now();
    let mut after = proc_view(pid);
    while *before != after && began.elapsed() < MOMENT {
        std::thread::sleep(Duration::from_millis(5));
        after = proc_view(pid);
    }
    for name in before.keys().chain(after.keys()) {
        let (old, new) = (before.get(name), after.get(name));
        assert!(
            old == new,
            "{name} was\n{}\nand is\n{}",
            show(old),
            show(new)
        );
    }
}

fn show(text: Option<&String>) -> String {
    text.map_or("not there".to_owned(), |text| text.replace('\0', " "))
}
