//! The steps of a history, and how they are chosen.

use super::model::{Model, PROCESSES, VMS};
use crate::SnapshotKind;
use crate::region::sim::Random;

const NAMES: u64 = 5;
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
    Scrub {
        process: usize,
    },
    /// Freed blocks that wait are cleaned.
    Clean {
        process: usize,
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
    match random.below(44) {
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
        _ => Step::Kill { process },
    }
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
