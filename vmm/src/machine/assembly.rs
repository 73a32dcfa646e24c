//! The machine put together, and what its owner does with it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use kvm_ioctls::VcpuFd;
use nvvmm_devices::virtio::{FreePages, NetPort, PmemRange};
use nvvmm_devices::{AcpiPower, ConsoleStreams, HostSocket, SavedDevice};
use nvvmm_snapshot::{Resource, ask_for};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use super::board::{self, Board, HostSide, POWER_REGISTERS, SERIAL, Subscriber};
use super::error::host;
use super::event_thread::EventThread;
use super::events::{Events, Interrupter, MachineEvent};
use super::gate::{Gate, Hold};
use super::vcpu::{Shared, Vcpu};
use super::{MachineError, MachineStateV1, Result, dax};
use crate::arch::boot::{self, BootParts, Entry, acpi::AcpiParts};
use crate::arch::{self, HostCpu, KvmStateV1};
use crate::disk::OpenDisk;
use crate::kvm::{Host, KvmVm};
use crate::memory::{GuestMemory, RamSlot, WriteLog};
use crate::spec::VmSpec;
use crate::spec::files::{BootFiles, FileError, OpenedFiles};
use crate::sys::address_range::AddressRange;
use crate::threads::{ThreadKind, begin as begin_thread};
use crate::window;

/// Parts that a machine is made from.
pub struct MachineParts<'a> {
    /// vCPUs, devices, the kernel to boot.
    pub spec: &'a VmSpec,
    /// The spec's files.
    pub files: &'a OpenedFiles,
    /// Guest RAM, zero when the machine is to be loaded.
    pub memory: Arc<GuestMemory>,
    /// The same RAM as KVM memory slots.
    pub slots: &'a [RamSlot],
    /// Streams of the console.
    pub console: ConsoleStreams,
    /// The host's side of the spec's vsock device.
    pub vsock: Option<Arc<HostSocket>>,
    /// The same RAM, as far as the spec's balloon can give it back.
    pub free_pages: Option<Arc<dyn FreePages>>,
    /// Switch KVM's dirty log on ([`WriteLog`]).
    pub dirty_log: bool,
}

/// A machine. All methods may be called from any thread; the life cycle (create, load or restore,
/// start, stop) is the owner's to keep in order.
///
/// Dropping it stops it.
pub struct Machine {
    spec: VmSpec,
    boot: Option<BootFiles>,
    /// The disks, in the order of the spec.
    pub(super) disks: Vec<OpenDisk>,
    nets: Vec<Arc<NetPort>>,
    // The vCPUs before the VM, and both before the memory: the guest can write memory while either
    // lives.
    vcpus: Vec<Arc<Vcpu>>,
    pub(super) vm: KvmVm,
    pub(super) cpu: HostCpu,
    pub(super) memory: Arc<GuestMemory>,
    slots: Vec<RamSlot>,
    pub(super) board: Board,
    pub(super) shared: Arc<Shared>,
    threads: Mutex<Threads>,
}

/// A window: an image that a pmem device shows.
#[derive(Clone, Copy, Debug)]
pub struct ShownWindow {
    /// Its number: that of the pmem device, among those.
    pub index: usize,
    /// The slot of the pmem device.
    pub device: u8,
    /// Guest physical address of its first byte.
    pub gpa: u64,
}

#[derive(Default)]
struct Threads {
    /// Those of the event thread, until it is started.
    subscribers: Vec<Subscriber>,
    vcpus: Vec<JoinHandle<()>>,
    events: Option<EventThread>,
    started: bool,
}

impl Threads {
    /// Those of a machine that cannot be started any more.
    fn ended() -> Threads {
        Threads {
            started: true,
            ..Default::default()
        }
    }
}

impl Machine {
    /// Builds KVM VM, vCPUs and devices. Nothing runs, and no guest memory is touched.
    ///
    /// # Errors
    /// What the host lacks or refuses, or the spec asks too much, in words for the user.
    pub fn create(parts: MachineParts) -> Result<Machine> {
        let host = Host::kept_or_opened()?;
        let MachineParts {
            spec,
            files,
            memory,
            slots,
            console,
            vsock,
            free_pages,
            dirty_log,
        } = parts;
        let vcpus_max = host.vcpus_max().min(usize::from(VmSpec::VCPUS_MAX));
        if spec.vcpus == 0 || usize::from(spec.vcpus) > vcpus_max {
            return Err(MachineError::Spec(format!(
                "a machine has 1 to {vcpus_max} vCPUs here, not {}",
                spec.vcpus
            )));
        }
        let vm = arch::create_vm(host)?;
        let cpu = HostCpu::read(&vm)?;
        vm.set_memory(Arc::clone(&memory), slots, dirty_log)?;
        let events = Events::new().map_err(super::error::host("make the event queue"))?;
        let (in_memory, disks): (Vec<_>, Vec<_>) = { files.disks()?.into_iter() }
            .zip(spec.disks())
            .partition(|(_, spec)| spec.dax);
        let in_memory = in_memory.iter().map(|(disk, _)| disk);
        let host_side = HostSide {
            disks: disks
                .into_iter()
                .map(|(disk, _)| disk.into_backend())
                .collect(),
            dax: dax::show(&vm, spec, cpu.physical_bits(), in_memory)?,
            console,
            vsock,
            free_pages,
            nets: files.nets().to_vec(),
        };
        let built = board::build(&vm, &memory, spec, host_side, &events.interrupter())?;
        let vcpus = (0..spec.vcpus)
            .map(|index| {
                let fd = arch::create_vcpu(&vm, &cpu, index, spec.vcpus)?;
                Ok(Arc::new(Vcpu::new(index.into(), fd)?))
            })
            .collect::<Result<Vec<_>>>()?;
        let shared = Shared {
            gate: Gate::new(vcpus.len()),
            events,
            ports: built.ports,
            mmio: built.mmio,
            first_entry: Mutex::default(),
            is_flat: AtomicBool::new(false),
        };
        Ok(Machine {
            spec: spec.clone(),
            boot: files.boot().ok().cloned(),
            disks: files.disks()?,
            nets: files.nets().to_vec(),
            vcpus,
            vm,
            cpu,
            memory,
            slots: slots.to_vec(),
            board: built.board,
            shared: Arc::new(shared),
            threads: Mutex::new(Threads {
                subscribers: built.subscribers,
                ..Default::default()
            }),
        })
    }

    /// Loads the spec's kernel into guest memory and the vCPUs' registers.
    ///
    /// # Errors
    /// [`MachineError::Boot`] for what the user can mend.
    pub fn load(&self) -> Result<()> {
        let files = self.boot.as_ref();
        let files = files.ok_or(MachineError::Boot(FileError::NoKernel.into()))?;
        let acpi = AcpiParts {
            serial: SERIAL,
            virtio: &self.board.virtio,
            power: POWER_REGISTERS,
        };
        let parts = BootParts {
            kernel: &files.kernel,
            initramfs: files.initramfs.as_ref(),
            cmdline: &self.spec.cmdline,
            vcpus: self.spec.vcpus,
            acpi: &acpi,
        };
        let entry = boot::load(&*self.memory, &parts)?;
        let is_flat = matches!(entry, Entry::Flat { .. });
        self.shared.is_flat.store(is_flat, Ordering::Relaxed);
        if entry.has_identity() {
            self.begin_identity()?;
        }
        for vcpu in &self.vcpus {
            arch::set_entry(&vcpu.fd(), vcpu.index, entry)?;
        }
        Ok(())
    }

    /// Takes over a saved state instead of [`Machine::load`]. Guest memory must be in place, and
    /// whatever resolves faults in it must be running: KVM writes its clock pages. Devices are
    /// left paused; [`Machine::start`] with `running`, or [`Machine::resume_devices`], resumes
    /// them. The guest gets another identity.
    ///
    /// # Errors
    /// The host lacks something, or the state is that of another machine. The machine must not be
    /// started then.
    pub fn restore(&self, state: &MachineStateV1) -> Result<()> {
        let fds = self.vcpu_fds();
        arch::state::restore(
            &self.vm,
            &self.cpu,
            &fds.iter().map(|fd| &**fd).collect::<Vec<_>>(),
            &state.kvm,
        )?;
        self.board.restore(&state.devices)?;
        self.note_kind(state);
        self.renew_identity()
    }

    /// Notes which kind of guest the state is of.
    pub(super) fn note_kind(&self, state: &MachineStateV1) {
        let is_flat = state.kvm.vcpus.first().is_some_and(arch::is_flat);
        self.shared.is_flat.store(is_flat, Ordering::Relaxed);
    }

    /// Starts the event thread and the vCPU threads. With `running`, devices are resumed and the
    /// guest runs; else the vCPUs are held by [`Hold::Pause`], and devices are paused, as they are
    /// after a pause: the machine can be saved.
    ///
    /// # Errors
    /// A thread cannot be started; the machine is stopped then.
    pub fn start(&self, running: bool) -> Result<()> {
        let started = self.start_threads();
        if started.is_err() {
            self.stop();
        }
        started?;
        if running {
            self.resume_devices()?;
            self.resume_vcpus(Hold::Pause);
            return Ok(());
        }
        let at_rest = self
            .pause_vcpus(Hold::Pause)
            .and_then(|()| self.quiesce_devices());
        if at_rest.is_err() {
            self.stop();
        }
        at_rest
    }

    fn start_threads(&self) -> Result<()> {
        let mut threads = self.threads();
        if std::mem::replace(&mut threads.started, true) {
            return Err(MachineError::State("the machine was started already"));
        }
        register_signal_handler(kick_signal(), on_kick)
            .map_err(host("install the vCPU signal handler"))?;
        let subscribers = std::mem::take(&mut threads.subscribers);
        let power = Arc::clone(&self.board.power);
        threads.events = Some(EventThread::start(
            subscribers,
            power,
            Arc::clone(&self.shared),
        )?);
        for vcpu in &self.vcpus {
            let (vcpu, shared) = (Arc::clone(vcpu), Arc::clone(&self.shared));
            ask_for(Resource::Thread).map_err(host("start a vCPU thread"))?;
            let handle = std::thread::Builder::new()
                .name(format!("nvvmm-vcpu{}", vcpu.index))
                .spawn(move || {
                    begin_thread(ThreadKind::Vcpu);
                    vcpu.run(&shared);
                })
                .map_err(host("start a vCPU thread"))?;
            threads.vcpus.push(handle);
        }
        Ok(())
    }

    fn threads(&self) -> MutexGuard<'_, Threads> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The vCPUs' descriptors. Their threads must be at the gate.
    pub(super) fn vcpu_fds(&self) -> Vec<MutexGuard<'_, VcpuFd>> {
        self.vcpus.iter().map(|vcpu| vcpu.fd()).collect()
    }

    fn request_exits(&self) {
        self.vcpus.iter().for_each(|vcpu| vcpu.request_exit());
    }

    fn kick(&self, threads: &Threads) {
        for (vcpu, thread) in self.vcpus.iter().zip(&threads.vcpus) {
            if let Err(error) = thread.kill(kick_signal()) {
                // Only a thread that has ended cannot be signalled, and that one is in no guest.
                tracing::debug!(%error, vcpu = vcpu.index, "signalling a vCPU thread");
            }
        }
    }

    /// Takes every vCPU out of the guest, for a reason. When this returns none has I/O pending, and
    /// all stay out at least until [`Machine::resume_vcpus`] for the same reason. A vCPU that
    /// waits for a fault in guest memory to be resolved is waited for.
    ///
    /// # Errors
    /// [`MachineError::State`] when the machine was not started.
    pub fn pause_vcpus(&self, hold: Hold) -> Result<()> {
        if self.threads().vcpus.is_empty() {
            return Err(MachineError::State("the machine does not run"));
        }
        self.hold_vcpus(hold);
        self.shared.gate.wait_held();
        Ok(())
    }

    /// The same without waiting: vCPUs leave the guest as soon as they can, those that wait for a
    /// fault in guest memory when that is resolved. Waits for nobody who does.
    pub fn hold_vcpus(&self, hold: Hold) {
        let threads = self.threads();
        let gate = &self.shared.gate;
        gate.hold(hold, || self.request_exits(), || self.kick(&threads));
    }

    /// Ends a reason to hold vCPUs; they go on when it was the last.
    pub fn resume_vcpus(&self, hold: Hold) {
        self.shared.gate.lift(hold);
    }

    /// Presses the power button.
    ///
    /// # Errors
    /// The guest's interrupt could not be raised.
    pub fn press_power_button(&self) -> Result<()> {
        let pressed = self.power_registers().press_button();
        pressed.map_err(host("press the power button"))
    }

    /// True while the guest has not read that the power button was pressed.
    pub fn is_power_button_unread(&self) -> bool {
        self.power_registers().is_button_unread()
    }

    pub(super) fn power_registers(&self) -> MutexGuard<'_, AcpiPower> {
        let registers = self.board.power_registers.lock();
        registers.unwrap_or_else(PoisonError::into_inner)
    }

    /// Time at which the last vCPU went on after they were held. `None` while one is held or about
    /// to be held.
    pub fn vcpus_went_on_at(&self) -> Option<Instant> {
        self.shared.gate.let_through_at()
    }

    /// True when vCPUs are held, or about to be held, for this reason.
    pub fn is_held(&self, hold: Hold) -> bool {
        self.shared.gate.has(hold)
    }

    /// Pauses the devices. vCPUs must be paused. Write faults that device I/O causes must still be
    /// served while this waits for I/O in flight.
    ///
    /// # Errors
    /// [`MachineError::Device`]; devices run on.
    pub fn quiesce_devices(&self) -> Result<()> {
        self.board.pause()
    }

    /// Lets paused devices go on: pending interrupts are raised, queues looked at.
    ///
    /// # Errors
    /// [`MachineError::Device`].
    pub fn resume_devices(&self) -> Result<()> {
        self.board.resume()
    }

    /// Shows the guest `content` through a pmem device that is free. The guest must be told by
    /// other means that it is there.
    ///
    /// # Errors
    /// [`MachineError::NoWindow`], or what KVM refuses.
    pub fn show_window(&self, content: &Arc<AddressRange>) -> Result<ShownWindow> {
        if self.board.pmem.is_empty() {
            return Err(MachineError::NoWindow(
                "the VM has no pmem devices for windows: an older nvvmm started it",
            ));
        }
        let mut devices = self.board.pmem.iter().enumerate();
        let Some((index, (slot, backing))) = devices.find(|(_, (_, backing))| backing.is_empty())
        else {
            return Err(MachineError::NoWindow("all windows of the VM are in use"));
        };
        let range = PmemRange {
            gpa: window::place::gpa(self.spec.memory_bytes, index),
            size_bytes: content.size_bytes() as u64,
        };
        if (range.gpa + range.size_bytes - 1)
            .checked_shr(self.cpu.physical_bits())
            .unwrap_or(0)
            > 0
        {
            return Err(MachineError::NoWindow(
                "this host's CPUs have no addresses for a window behind that much RAM",
            ));
        }
        self.vm.remove_read_only_memory(index as u32)?;
        self.vm
            .add_read_only_memory(index as u32, range.gpa, content)?;
        backing.offer(range);
        Ok(ShownWindow {
            index,
            device: *slot,
            gpa: range.gpa,
        })
    }

    /// Ends window `index` if no driver of the guest uses it. A driver that does may read its
    /// memory until the driver releases it.
    ///
    /// # Errors
    /// KVM refuses a step.
    pub fn withdraw_window(&self, index: usize) -> Result<()> {
        if let Some((_, backing)) = self.board.pmem.get(index) {
            backing.withdraw();
        }
        self.end_released_windows()
    }

    /// Ends the windows that the guest has released.
    ///
    /// # Errors
    /// KVM refuses a step.
    pub fn end_released_windows(&self) -> Result<()> {
        let devices = self.board.pmem.iter().enumerate();
        for (index, _) in devices.filter(|(_, (_, backing))| backing.is_empty()) {
            self.vm.remove_read_only_memory(index as u32)?;
        }
        Ok(())
    }

    /// There is a window `index`.
    pub fn shows_window(&self, index: usize) -> bool {
        self.board
            .pmem
            .get(index)
            .is_some_and(|(_, backing)| !backing.is_empty())
    }

    /// There is any window.
    pub fn shows_windows(&self) -> bool {
        (0..self.board.pmem.len()).any(|index| self.shows_window(index))
    }

    /// State of all devices, which must be paused.
    ///
    /// # Errors
    /// [`MachineError::Device`] when one runs.
    pub fn save_devices(&self) -> Result<Vec<SavedDevice>> {
        self.board.save()
    }

    /// State of KVM and all vCPUs, which must be paused.
    ///
    /// # Errors
    /// [`MachineError::State`] when they run; else what KVM refuses.
    pub fn save_kvm(&self) -> Result<KvmStateV1> {
        if !self.shared.gate.is_paused() {
            return Err(MachineError::State("vCPUs must be paused to save them"));
        }
        let fds = self.vcpu_fds();
        Ok(arch::state::save(
            &self.vm,
            &self.cpu,
            &fds.iter().map(|fd| &**fd).collect::<Vec<_>>(),
            &self.memory,
        )?)
    }

    /// The networks of the cards, in the order of the spec.
    pub fn nets(&self) -> &[Arc<NetPort>] {
        &self.nets
    }

    /// Blocks until something happens that the owner has to act on.
    pub fn wait_event(&self) -> MachineEvent {
        self.shared.events.wait()
    }

    /// Wakes the thread in [`Machine::wait_event`].
    pub fn interrupter(&self) -> Interrupter {
        self.shared.events.interrupter()
    }

    /// Ends all threads and carries the rest of the console output out. The machine cannot be
    /// started again.
    pub fn stop(&self) {
        // The lock is not kept while a vCPU is waited for: whoever makes its access go on may have
        // to hold the others.
        let Threads { vcpus, events, .. } = {
            let mut threads = self.threads();
            let gate = &self.shared.gate;
            gate.stop(|| self.request_exits(), || self.kick(&threads));
            std::mem::replace(&mut *threads, Threads::ended())
        };
        for handle in vcpus {
            if handle.join().is_err() {
                tracing::error!("a vCPU thread did not end in order");
            }
        }
        if let Some(events) = events {
            events.stop();
            self.board
                .console
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .finish();
        }
    }

    /// Takes the console's streams of a stopped machine, for the machine that replaces it.
    pub fn take_console(&self) -> ConsoleStreams {
        let mut console = self
            .board
            .console
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        console.take_streams()
    }

    /// Time at which the first vCPU entered the guest for the first time, or for the first time
    /// since a rewind.
    pub fn first_entry(&self) -> Option<Instant> {
        *self.shared.first_entry()
    }

    fn slot_size_bytes(&self, slot: usize) -> Result<u64> {
        let ram = self.slots.get(slot);
        Ok(ram
            .ok_or(MachineError::State("there is no such memory slot"))?
            .size_bytes)
    }
}

/// KVM's dirty log. Fails when the machine was created without it.
impl WriteLog for Machine {
    fn peek_slot(&self, slot: usize) -> io::Result<Vec<u64>> {
        let size_bytes = self.slot_size_bytes(slot).map_err(io::Error::other)?;
        self.vm
            .dirty_log(slot, size_bytes)
            .map_err(io::Error::other)
    }

    fn take_slot(&self, slot: usize) -> io::Result<Vec<u64>> {
        let size_bytes = self.slot_size_bytes(slot).map_err(io::Error::other)?;
        let mut seen = self
            .vm
            .dirty_log(slot, size_bytes)
            .map_err(io::Error::other)?;
        self.vm
            .clear_dirty_log(slot, size_bytes, &mut seen)
            .map_err(io::Error::other)?;
        Ok(seen)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The signal that gets a vCPU thread out of `KVM_RUN`.
fn kick_signal() -> libc::c_int {
    SIGRTMIN()
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // Nothing to do: the signal's only purpose is to interrupt KVM_RUN (module `gate`).
}
