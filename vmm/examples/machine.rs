//! Runs one machine on plain memory, without a pool: for trying out kernels, and save and restore
//! on their own.
//!
//!     cargo run --example machine -- --kernel vmlinuz --initramfs initrd --memory-mib 256 --cpus 2
//!
//! `--save-restore-after S` pauses the machine after S seconds, saves it, carries state and a copy
//! of the memory over into a new machine in the same process, and lets that one go on; `--times N`
//! does so N times.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use nvvmm::disk::DiskUser;
use nvvmm::machine::{Hold, Machine, MachineEvent, MachineParts, MachineStateV1};
use nvvmm::memory::{GuestRam, WriteLog};
use nvvmm::spec::{DiskSource, DiskSpec, VmSpec, files::OpenedFiles};
use nvvmm_devices::ConsoleStreams;
use vm_memory::{Bytes, GuestAddress};

#[derive(Parser)]
struct Args {
    /// bzImage, ELF vmlinux or flat guest.
    #[arg(long)]
    kernel: std::path::PathBuf,
    /// Initial RAM disk.
    #[arg(long)]
    initramfs: Option<std::path::PathBuf>,
    /// Kernel command line.
    #[arg(long, default_value = "")]
    cmdline: String,
    /// Guest RAM in MiB.
    #[arg(long, default_value_t = 256)]
    memory_mib: u64,
    /// vCPUs.
    #[arg(long, default_value_t = 1)]
    cpus: u8,
    /// Raw disk images.
    #[arg(long)]
    disk: Vec<std::path::PathBuf>,
    /// Move the machine into a new one after so many seconds.
    #[arg(long)]
    save_restore_after: Option<u64>,
    /// Number of moves.
    #[arg(long, default_value_t = 1)]
    times: u32,
    /// Write all dirtied frame counts when moving.
    #[arg(long)]
    dirty_log: bool,
}

fn build(spec: &VmSpec, ram: &GuestRam, dirty_log: bool) -> Result<Machine> {
    let console = ConsoleStreams::stdio(true)?;
    let files = OpenedFiles::open(spec, &DiskUser::OF_FILES)?;
    let parts = MachineParts {
        spec,
        files: &files,
        memory: Arc::clone(ram.memory()),
        slots: ram.slots(),
        console,
        vsock: None,
        free_pages: None,
        dirty_log,
    };
    Ok(Machine::create(parts)?)
}

fn copy_memory(from: &GuestRam, to: &GuestRam) -> Result<()> {
    let mut buffer = vec![0u8; 1 << 20];
    for slot in from.slots() {
        for at in (0..slot.size_bytes).step_by(buffer.len()) {
            let gpa = GuestAddress(slot.gpa + at);
            from.memory().read_slice(&mut buffer, gpa)?;
            if buffer.iter().any(|&byte| byte != 0) {
                to.memory().write_slice(&buffer, gpa)?;
            }
        }
    }
    Ok(())
}

/// Saves the machine, ends it, and goes on in a new one.
fn move_machine(
    spec: &VmSpec,
    machine: Machine,
    ram: GuestRam,
    args: &Args,
) -> Result<(Machine, GuestRam)> {
    machine.pause_vcpus(Hold::Pause)?;
    machine.quiesce_devices()?;
    let state = MachineStateV1 {
        devices: machine.save_devices()?,
        kvm: machine.save_kvm()?,
    };
    if args.dirty_log {
        for slot in 0..ram.slots().len() {
            let frames: u32 = machine
                .take_slot(slot)?
                .iter()
                .map(|word| word.count_ones())
                .sum();
            eprintln!("[slot {slot}: {frames} frames dirty]");
        }
    }
    for (index, vcpu) in state.kvm.vcpus.iter().enumerate() {
        eprintln!(
            "[vCPU {index}: rip {:#x} rflags {:#x}]",
            vcpu.regs.rip, vcpu.regs.rflags
        );
    }
    machine.stop();
    drop(machine);
    let bytes = postcard::to_allocvec(&state)?;
    eprintln!("[saved: {} bytes of state]", bytes.len());
    let (state, rest): (MachineStateV1, _) = postcard::take_from_bytes(&bytes)?;
    if !rest.is_empty() {
        bail!("{} bytes of state left over", rest.len());
    }
    let new_ram = GuestRam::reserve(ram.size_bytes())?;
    copy_memory(&ram, &new_ram)?;
    let machine = build(spec, &new_ram, args.dirty_log)?;
    machine.restore(&state)?;
    machine.start(true)?;
    eprintln!("[restored]");
    Ok((machine, new_ram))
}

fn main() -> Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let args = Args::parse();
    let disks = args.disk.iter().map(|path| DiskSpec {
        source: DiskSource::File(path.clone()),
        read_only: false,
        ..DiskSpec::default()
    });
    let spec = VmSpec::builder(&args.kernel)
        .initramfs(args.initramfs.clone())
        .cmdline(&args.cmdline)
        .vcpus(args.cpus)
        .memory_bytes(args.memory_mib << 20)
        .disks(disks)
        .build();
    let mut ram = GuestRam::reserve(spec.memory_bytes)?;
    let mut machine = build(&spec, &ram, args.dirty_log)?;
    machine.load().context("loading the guest")?;
    machine.start(true)?;
    let mut left = if args.save_restore_after.is_some() {
        args.times
    } else {
        0
    };
    loop {
        if left > 0 {
            let (interrupter, after) =
                (machine.interrupter(), args.save_restore_after.unwrap_or(0));
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_secs(after));
                interrupter.interrupt();
            });
        }
        match machine.wait_event() {
            MachineEvent::Interrupted if left > 0 => {
                left -= 1;
                (machine, ram) = move_machine(&spec, machine, ram, &args)?;
            }
            MachineEvent::Interrupted => {}
            MachineEvent::PoweredOff => {
                machine.stop();
                eprintln!("[powered off]");
                return Ok(());
            }
            MachineEvent::Reset => {
                machine.stop();
                eprintln!("[reset]");
                return Ok(());
            }
            MachineEvent::Failed { vcpu, what } | MachineEvent::TripleFault { vcpu, what, .. } => {
                machine.stop();
                bail!("vCPU {vcpu}: {what}");
            }
        }
    }
}
