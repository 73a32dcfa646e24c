//! The steps of a history, and how they are chosen.

use super::contents::Saved;
use super::disks::Request;
use super::model::{Model, PROCESSES, VMS};
use crate::SnapshotKind;
use crate::region::sim::Random;

const NAMES: u64 = 5;
const DISKS: u64 = 3;
pub(super) const CHUNK_BYTES: u64 = 2 << 20;
/// Chunks of the guests' memory: maps without, with one and with two inner levels.
const MEMORY_CHUNKS: [u64; 3] = [1, 200, 600];

#[derive(Debug, Clone)]
pub(super) enum Step {
    Boot {
        process: usize,
        chunks: u64,
    },
    Write {
        vm: usize,
        place: (u32, u32),
        frames: u32,
        from: From,
    },
    Free {
        vm: usize,
        chunk: u32,
    },
    Snapshot {
        vm: usize,
        name: String,
        state_bytes: usize,
        reserve: u32,
        /// Removed by the same commit.
        replaced: Option<String>,
    },
    /// Some of the VM's frames become pages of a process image.
    Capture {
        vm: usize,
        name: String,
        first: usize,
        pages: usize,
        reserve: u32,
    },
    /// Pages of a process image become frames of the VM.
    Adopt {
        vm: usize,
        name: String,
        chunk: u32,
    },
    Restore {
        process: usize,
        name: String,
    },
    Pin {
        vm: usize,
        name: String,
    },
    Unpin {
        vm: usize,
        pin: usize,
    },
    UnpinOthers {
        vm: usize,
    },
    Consume {
        vm: usize,
    },
    Remove {
        process: usize,
        name: String,
    },
    Grow {
        process: usize,
        chunks: u64,
    },
    /// A snapshot is sent, and received under another name.
    Receive {
        process: usize,
        from: String,
        name: String,
    },
    Scrub {
        process: usize,
    },
    /// Freed blocks that wait are cleaned.
    Clean {
        process: usize,
    },
    CreateDisk {
        process: usize,
        name: String,
    },
    RemoveDisk {
        process: usize,
        name: String,
    },
    /// A copy of the first disk, or of that of a snapshot.
    CopyDisk {
        process: usize,
        name: String,
        from: Option<String>,
    },
    AttachDisk {
        vm: usize,
        name: String,
    },
    DetachDisk {
        vm: usize,
        drive: usize,
    },
    DiskRequest {
        vm: usize,
        drive: usize,
        request: Request,
    },
    /// All disks of the VM go back to what they were at a snapshot.
    RewindDisks {
        vm: usize,
        name: String,
    },
    Stop {
        vm: usize,
    },
    Close {
        process: usize,
    },
    Open {
        process: usize,
    },
    Kill {
        process: usize,
    },
}

/// The source of new blocks.
#[derive(Debug, Clone, Copy)]
pub(super) enum From {
    Anywhere,
    /// The same index of a chunk that is set aside.
    Beside,
    /// All frames of the chunk at once.
    WholeChunk,
    /// The same, of a chunk that may hold anything.
    ForCopy,
}

/// A random next step that makes sense now.
pub(super) fn next_step(random: &mut Random, model: &Model) -> Step {
    let closed = model.processes.iter().position(Option::is_none);
    let opened = model.processes.iter().position(Option::is_some);
    let (Some(first), true) = (opened, closed.is_none() || !random.once_in(6)) else {
        return Step::Open {
            process: closed.unwrap_or(0),
        };
    };
    let process = random.below(PROCESSES as u64) as usize;
    let process = if model.processes[process].is_some() {
        process
    } else {
        first
    };
    let name = format!("s{}", random.below(NAMES));
    let vms: Vec<usize> = (0..VMS).filter(|vm| model.vms[*vm].is_some()).collect();
    if vms.is_empty() || (vms.len() < VMS && random.once_in(6)) {
        if is_saved(model, &name, SnapshotKind::Vm) {
            return Step::Restore { process, name };
        }
        return Step::Boot {
            process,
            chunks: random.pick(&MEMORY_CHUNKS),
        };
    }
    let vm = random.pick(&vms);
    if random.once_in(3) {
        return disk_step(random, model, process, vm);
    }
    match random.below(47) {
        0..=9 => write_step(random, model, vm),
        10 => Step::Free {
            vm,
            chunk: pick_chunk(random, model, vm),
        },
        11..=17 => Step::Snapshot {
            vm,
            name,
            state_bytes: random.pick(&[0, 100, 4096, 9000]),
            reserve: random.pick(&[0, 3, 12]),
            replaced: random
                .once_in(2)
                .then(|| format!("s{}", random.below(NAMES)))
                .filter(|replaced| model.saved.contains_key(replaced)),
        },
        18..=20 => Step::Consume { vm },
        21..=24 => Step::Remove { process, name },
        25 => Step::Pin { vm, name },
        26..=28 => Step::Unpin {
            vm,
            pin: random.below(4) as usize,
        },
        29 | 30 => Step::Stop { vm },
        31 if random.once_in(2) => Step::Grow {
            process,
            chunks: 2 + random.below(3),
        },
        31 => Step::Close { process },
        32 | 33 => Step::Scrub { process },
        34..=36 => Step::Capture {
            vm,
            name,
            first: random.below(30) as usize,
            pages: random.below(12) as usize,
            reserve: random.pick(&[0, 3, 12]),
        },
        37..=39 if is_saved(model, &name, SnapshotKind::Process) => Step::Adopt {
            vm,
            name,
            chunk: pick_chunk(random, model, vm),
        },
        37..=39 => write_step(random, model, vm),
        40 => Step::UnpinOthers { vm },
        41 | 42 => Step::Clean { process },
        43..=45 => receive_step(random, model, process, name),
        _ => Step::Kill { process },
    }
}

fn receive_step(random: &mut Random, model: &Model, process: usize, name: String) -> Step {
    match any_of(random, model.saved.keys()) {
        Some(from) => Step::Receive {
            process,
            from,
            name,
        },
        None => Step::Clean { process },
    }
}

/// A step with disks.
fn disk_step(random: &mut Random, model: &Model, process: usize, vm: usize) -> Step {
    let drives = model.vms[vm].as_ref().map_or(0, |vm| vm.drives.len());
    let name = format!("d{}", random.below(DISKS));
    if model.disks.is_empty() {
        return Step::CreateDisk { process, name };
    }
    if drives == 0 && !random.once_in(4) || random.once_in(12) {
        let free = model.disks.keys().filter(|name| !is_attached(model, name));
        return match any_of(random, free) {
            Some(name) => Step::AttachDisk { vm, name },
            None => Step::CreateDisk { process, name },
        };
    }
    if drives == 0 || random.once_in(12) {
        let has_first = |saved: &Saved| saved.disks.contains_key("d0");
        return match random.below(6) {
            0 => Step::CreateDisk { process, name },
            1 => Step::RemoveDisk { process, name },
            2 => Step::AttachDisk { vm, name },
            _ => Step::CopyDisk {
                process,
                name,
                from: any_of(random, saved_with(model, has_first)),
            },
        };
    }
    let drive = random.below(drives as u64) as usize;
    let (first, count) = (random.below(8) as usize, 1 + random.below(3) as usize);
    let request = match random.below(15) {
        0..=4 => Request::Frames { first, count },
        5..=7 => Request::Sector {
            frame: first,
            sector: random.below(3) as usize,
        },
        8 => Request::Discard { first, count },
        9 | 10 => Request::Flush,
        11..=13 => return rewind_step(random, model, vm),
        _ => return Step::DetachDisk { vm, drive },
    };
    Step::DiskRequest { vm, drive, request }
}

/// A rewind to a snapshot that has the VM's disks, if there is one.
fn rewind_step(random: &mut Random, model: &Model, vm: usize) -> Step {
    let drives = model.vms[vm].iter().flat_map(|vm| &vm.drives);
    let drives: Vec<&str> = drives.map(|drive| drive.name.as_str()).collect();
    let has_all = |saved: &Saved| drives.iter().all(|name| saved.disks.contains_key(*name));
    match any_of(random, saved_with(model, has_all)) {
        Some(name) => Step::RewindDisks { vm, name },
        None => Step::DiskRequest {
            vm,
            drive: 0,
            request: Request::Flush,
        },
    }
}

/// The snapshots of which something is true.
fn saved_with<'m>(
    model: &'m Model,
    is_so: impl Fn(&Saved) -> bool + 'm,
) -> impl Iterator<Item = &'m String> {
    let saved = model.saved.iter();
    saved
        .filter(move |(_, saved)| is_so(saved))
        .map(|(name, _)| name)
}

fn is_attached(model: &Model, disk: &str) -> bool {
    let mut drives = model.vms.iter().flatten().flat_map(|vm| &vm.drives);
    drives.any(|drive| drive.name == disk)
}

/// One of some names, if there is any.
fn any_of<'n>(random: &mut Random, names: impl Iterator<Item = &'n String>) -> Option<String> {
    let names: Vec<&String> = names.collect();
    let one = random.below(names.len().max(1) as u64) as usize;
    names.get(one).map(|name| (*name).clone())
}

fn is_saved(model: &Model, name: &str, kind: SnapshotKind) -> bool {
    model
        .saved
        .get(name)
        .is_some_and(|saved| saved.kind == kind)
}

fn write_step(random: &mut Random, model: &Model, vm: usize) -> Step {
    let from = match random.below(16) {
        0 => From::WholeChunk,
        1 => From::ForCopy,
        2..=6 => From::Beside,
        _ => From::Anywhere,
    };
    Step::Write {
        vm,
        place: (pick_chunk(random, model, vm), random.below(500) as u32),
        frames: 1 + random.below(4) as u32,
        from,
    }
}

fn pick_chunk(random: &mut Random, model: &Model, vm: usize) -> u32 {
    let chunks = model.vms[vm]
        .as_ref()
        .map_or(1, |vm| vm.memory_bytes / CHUNK_BYTES) as u32;
    random.pick(&[0, 1, 199, 299, 599]).min(chunks - 1)
}
