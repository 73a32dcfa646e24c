//! The classic way, to compare with: a checkpoint writes every page to a file, a restart reads them
//! back.
//!
//! It is as good as that way can be: it is told which memory is in use, writes and reads in large
//! pieces with several threads, makes the file before the pause, and does all that need not be in
//! the pause after it. A file on hugetlbfs, which has no write(2), is written through a mapping.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use nvvmm::{
    VmError,
    checkpoint::{
        blob::SavedVm,
        phases::{Phases, micros_of},
        report::{PhaseTime, RestoreReport},
        went_on_at,
    },
    machine::{Hold, Machine, MachineStateV1},
    memory::GuestRam,
    sys::address_range::AddressRange,
    vm::RunningVm,
};

use super::{
    bench_pool::{BenchPool, map_new_file},
    guest::Guest,
};

/// Bytes that a thread writes or reads at a time.
const PIECE_BYTES: u64 = 4 << 20;

/// A copied checkpoint: a file with memory, and one with the rest. They go when this is dropped.
#[derive(Debug)]
pub struct CopiedCheckpoint {
    memory: PathBuf,
    state: PathBuf,
    memory_bytes: u64,
    /// Time that the guest stood still, in microseconds.
    pub pause_us: f64,
    /// Phases, in order.
    pub phases: Vec<PhaseTime>,
}

impl CopiedCheckpoint {
    /// The file with the guest's memory, linear in RAM offset.
    pub fn memory_path(&self) -> &Path {
        &self.memory
    }

    /// Size of the part of RAM, from its start, that is in the file.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// The machine without its memory.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn saved(&self) -> Result<SavedVm, VmError> {
        let encoded =
            fs::read(&self.state).map_err(|e| VmError::io("read the machine's state", &e))?;
        Ok(SavedVm::decode(&encoded)?)
    }
}

/// Takes a copied checkpoint of a guest that uses `memory_bytes` of its RAM, from its start.
///
/// # Errors
/// The machine cannot be stopped or saved, or the medium is full.
pub fn checkpoint(
    pool: &BenchPool,
    guest: &Guest,
    memory_bytes: u64,
    threads: usize,
) -> Result<CopiedCheckpoint, VmError> {
    let (memory, state) = (pool.file_beside("memory"), pool.small_file("state"));
    let kept = Kept::make(pool, &memory, memory_bytes)?;
    let mut checkpoint = CopiedCheckpoint {
        memory,
        state,
        memory_bytes,
        pause_us: 0.0,
        phases: Vec::new(),
    };
    let vm = guest.vm();
    let mut phases = Phases::begin();
    let paused_at = Instant::now();
    let machine_state = freeze(vm, &kept, memory_bytes, threads, &mut phases);
    phases
        .run("ResumeDevices", || vm.machine.resume_devices())
        .map_err(failed)?;
    phases.run("ResumeVcpus", || vm.machine.resume_vcpus(Hold::Operation));
    let resumed_at = Instant::now();
    let saved = SavedVm {
        spec: vm.spec.clone(),
        machine: machine_state?,
        disks: None,
    };
    let encoded = saved.encode()?;
    phases
        .run("WriteState", || fs::write(&checkpoint.state, encoded))
        .map_err(|e| VmError::io("write the machine's state", &e))?;
    let went_on_at = went_on_at(&vm.machine, &mut phases, paused_at, resumed_at);
    checkpoint.pause_us = micros_of(went_on_at - paused_at);
    checkpoint.phases = phases.into_times();
    Ok(checkpoint)
}

fn freeze(
    vm: &RunningVm,
    kept: &Kept,
    memory_bytes: u64,
    threads: usize,
    phases: &mut Phases,
) -> Result<MachineStateV1, VmError> {
    let machine = &vm.machine;
    phases
        .run("PauseVcpus", || machine.pause_vcpus(Hold::Operation))
        .map_err(failed)?;
    phases
        .run("QuiesceDevices", || machine.quiesce_devices())
        .map_err(failed)?;
    let devices = phases
        .run("SaveDevices", || machine.save_devices())
        .map_err(failed)?;
    let kvm = phases
        .run("SaveVcpus", || machine.save_kvm())
        .map_err(failed)?;
    let ram = vm.engine.ram().reservation();
    phases
        .run("WriteMemory", || {
            in_pieces(memory_bytes, threads, |at, size| kept.write(ram, at, size))
        })
        .map_err(|e| VmError::io("write the guest's memory", &e))?;
    Ok(MachineStateV1 { kvm, devices })
}

/// Restarts a guest from a copied checkpoint, in fresh memory of `pool`.
///
/// # Errors
/// Whatever keeps a VM from running.
pub fn restart(
    pool: &BenchPool,
    checkpoint: &CopiedCheckpoint,
    threads: usize,
) -> Result<Guest, VmError> {
    let started = Instant::now();
    let phases = std::sync::Arc::new(Mutex::new(Phases::begun_at(started)));
    let saved = checkpoint.saved()?;
    let file =
        File::open(&checkpoint.memory).map_err(|e| VmError::io("open the guest's memory", &e))?;
    let memory_bytes = checkpoint.memory_bytes;
    let guest_settings = pool.guest_settings();
    let name = guest_settings.name.clone();
    let mut report = RestoreReport {
        snapshot: "copied".into(),
        vm: name,
        phases: Vec::new(),
        first_instruction_us: 0.0,
        frames_mapped: memory_bytes / 4096,
        once: false,
        prefault: false,
        clock: Default::default(),
        connections: None,
        notes: Vec::new(),
    };
    Guest::start(guest_settings, |builder, console| {
        let spec = saved.spec.clone();
        let timed = std::sync::Arc::clone(&phases);
        let vm = builder.fresh(&spec, console, move |machine: &Machine, ram: &GuestRam| {
            let mut phases = timed
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let ram: &AddressRange = ram.reservation();
            phases
                .run("ReadMemory", || {
                    in_pieces(memory_bytes, threads, |at, size| {
                        ram.copy_from_file(at as usize, size as usize, file.as_fd(), at)
                    })
                })
                .map_err(|e| VmError::io("read the guest's memory", &e))?;
            phases
                .run("RestoreState", || machine.restore(&saved.machine))
                .map_err(failed)
        })?;
        let taken = std::mem::replace(
            &mut *phases
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
            Phases::begin(),
        );
        report.phases = taken.into_times();
        vm.note_restore(started, report);
        Ok(vm)
    })
}

/// Does `work` for each piece of `size_bytes`, given by where it begins and its length, with
/// several threads.
fn in_pieces(
    size_bytes: u64,
    threads: usize,
    work: impl Fn(u64, u64) -> io::Result<()> + Sync,
) -> io::Result<()> {
    let next = AtomicU64::new(0);
    let worker = || loop {
        let at = next.fetch_add(PIECE_BYTES, Ordering::Relaxed);
        if at >= size_bytes {
            return Ok(());
        }
        work(at, PIECE_BYTES.min(size_bytes - at))?;
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(worker)).collect();
        let mine = worker();
        others.into_iter().fold(mine, |result, other| {
            result.and(
                other
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("a thread failed"))),
            )
        })
    })
}

/// The file that memory is written to.
enum Kept {
    ByCalls(File),
    /// For hugetlbfs, which has no write(2).
    ThroughMapping(AddressRange),
}

impl Kept {
    fn make(pool: &BenchPool, path: &Path, size_bytes: u64) -> Result<Self, VmError> {
        let made = if pool.has_write() {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
                .map(Self::ByCalls)
        } else {
            map_new_file(path, size_bytes).map(Self::ThroughMapping)
        };
        made.map_err(|e| VmError::io(format_args!("make {}", path.display()), &e))
    }

    fn write(&self, ram: &AddressRange, at: u64, size_bytes: u64) -> io::Result<()> {
        let (offset, size) = (at as usize, size_bytes as usize);
        match self {
            Self::ByCalls(file) => ram.copy_to_file(offset, size, file.as_fd(), at),
            Self::ThroughMapping(file) => ram.copy_to(offset, size, file, offset),
        }
    }
}

fn failed(error: impl std::fmt::Display) -> VmError {
    VmError::failed(error.to_string())
}

impl Drop for CopiedCheckpoint {
    fn drop(&mut self) {
        for path in [&self.memory, &self.state] {
            // The state is only there when the checkpoint succeeded.
            let _ = fs::remove_file(path);
        }
    }
}
