//! The devices of a machine, on their buses and connected to KVM.

use std::sync::{Arc, Mutex, PoisonError};

use event_manager::MutEventSubscriber;
use nvvmm_devices::virtio::{
    BalloonHost, DeviceHost, DeviceId, DiskBackend, FreePages, MMIO_LEN, MmioTransport, NetPort,
    PmemBacking, PmemRange, QUEUE_NOTIFY_OFFSET, VirtioDevice,
};
use nvvmm_devices::{
    AcpiPower, Bus, BusDevice, COM1_IRQ, COM1_PORT, Console, ConsoleOut, ConsoleStreams, Device,
    HostSocket, I8042, I8042_COMMAND_PORT, I8042_PORTS_LEN, Identity, IrqLine, LifecycleError,
    POWER_BUTTON_PRESSED, POWER_EVENTS_PORT, POWER_IRQ, POWER_PORTS_BASE, POWER_PORTS_LEN,
    POWER_RESTORED, PowerSignal, RESET_PORT, RESET_VALUE, SERIAL_PORTS_LEN, SLEEP_CONTROL_PORT,
    SLEEP_STATUS_PORT, SLEEP_TYPE_S5, SavedDevice, SerialPort,
};
use nvvmm_snapshot::{Resource, ask_for};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::error::host;
use super::slots;
use super::{Interrupter, MachineError, Result};
use crate::arch::boot::acpi::{AcpiDevice, PowerRegisters};
use crate::arch::boot::layout::{IDENTITY, virtio_gsi, virtio_mmio_gpa};
use crate::kvm::KvmVm;
use crate::memory::GuestMemory;
use crate::spec::VmSpec;

/// Something that the event thread runs.
pub(super) type Subscriber = Arc<Mutex<dyn MutEventSubscriber + Send>>;

/// Addresses of the power registers.
pub(super) const POWER_REGISTERS: PowerRegisters = PowerRegisters {
    sleep_control_port: SLEEP_CONTROL_PORT as u16,
    sleep_status_port: SLEEP_STATUS_PORT as u16,
    s5_type: SLEEP_TYPE_S5,
    reset_port: RESET_PORT as u16,
    reset_value: RESET_VALUE,
    events_port: POWER_EVENTS_PORT as u16,
    button_pressed: POWER_BUTTON_PRESSED,
    restored: POWER_RESTORED,
    gsi: POWER_IRQ,
};

/// Address of the serial port.
pub(super) const SERIAL: AcpiDevice = AcpiDevice {
    base: COM1_PORT as u32,
    gsi: COM1_IRQ,
};

/// All devices.
pub(super) struct Board {
    /// In the order in which they are paused and saved.
    devices: Vec<Arc<Mutex<dyn Device>>>,
    /// Slots with a virtio-mmio device.
    pub(super) virtio: Vec<u8>,
    pub(super) power: Arc<PowerSignal>,
    pub(super) power_registers: Arc<Mutex<AcpiPower>>,
    pub(super) console: Arc<Mutex<Console>>,
    /// The pmem devices, in the order of the spec: the slot of each, and what is behind it.
    pub(super) pmem: Vec<(u8, Arc<PmemBacking>)>,
    /// The host's side of the balloon, if there is one.
    pub(super) balloon: Option<Arc<BalloonHost>>,
    /// Saved behind the devices, if the guest has it. It has nothing to pause.
    pub(super) identity: Mutex<Identity>,
}

/// A board with its connections: the buses go to the vCPU threads, the subscribers to the event
/// thread.
pub(super) struct Built {
    pub(super) board: Board,
    pub(super) ports: Bus,
    pub(super) mmio: Bus,
    pub(super) subscribers: Vec<Subscriber>,
}

/// The host's side of the devices.
pub(super) struct HostSide {
    /// Storage of the disks, in the order of the spec.
    pub(super) disks: Vec<Arc<dyn DiskBackend>>,
    /// Places of those that the guest finds in memory, which are not among the others.
    pub(super) dax: Vec<PmemRange>,
    pub(super) console: ConsoleStreams,
    pub(super) vsock: Option<Arc<HostSocket>>,
    pub(super) free_pages: Option<Arc<dyn FreePages>>,
    /// Networks of the cards, in the order of the spec.
    pub(super) nets: Vec<Arc<NetPort>>,
}

/// Builds COM1, the power registers, and the virtio devices that `spec` lists. `owner` is woken
/// when the guest's driver releases a pmem device.
pub(super) fn build(
    vm: &KvmVm,
    memory: &Arc<GuestMemory>,
    spec: &VmSpec,
    host_side: HostSide,
    owner: &Interrupter,
) -> Result<Built> {
    let HostSide {
        disks,
        dax,
        console,
        vsock,
        free_pages,
        nets,
    } = host_side;
    let declared = slots::assign(spec)?;
    let (mut ports, mut devices) = (Bus::new(), Vec::<Arc<Mutex<dyn Device>>>::new());

    let output = ConsoleOut::new().map_err(host("make the console"))?;
    let line: Arc<dyn IrqLine> = interrupt(vm, COM1_IRQ)?;
    let serial =
        SerialPort::new("com1", line, output.clone()).map_err(host("make the serial port"))?;
    let serial = Arc::new(Mutex::new(serial));
    ports.insert(
        "com1",
        COM1_PORT,
        SERIAL_PORTS_LEN,
        Arc::clone(&serial) as Arc<Mutex<dyn BusDevice>>,
    )?;
    devices.push(Arc::clone(&serial) as Arc<Mutex<dyn Device>>);
    let console = Arc::new(Mutex::new(Console::new(serial, output, console)));

    let power = PowerSignal::new().map_err(host("make the power registers"))?;
    let line: Arc<dyn IrqLine> = interrupt(vm, POWER_IRQ)?;
    let registers = Arc::new(Mutex::new(AcpiPower::new(Arc::clone(&power), line)));
    let bus_side = Arc::clone(&registers) as Arc<Mutex<dyn BusDevice>>;
    ports.insert("power", POWER_PORTS_BASE, POWER_PORTS_LEN, bus_side)?;
    devices.push(Arc::clone(&registers) as _);
    let keyboard = Arc::new(Mutex::new(I8042::new(Arc::clone(&power))));
    ports.insert("i8042", I8042_COMMAND_PORT, I8042_PORTS_LEN, keyboard)?;

    let owner = owner.clone();
    let mut parts = DeviceHost {
        vcpus: spec.vcpus,
        disks: disks.into_iter(),
        dax: dax.into_iter(),
        nets: nets.into_iter(),
        vsock,
        free_pages,
        balloon: None,
        on_pmem_released: Arc::new(move || owner.interrupt()),
        pmem: Vec::new(),
    };
    let mut virtio = VirtioBus {
        vm,
        memory,
        mmio: Bus::new(),
        devices,
        subscribers: vec![Arc::clone(&console) as _],
    };
    for (id, kind) in &declared {
        let device = kind.spec().make(id, &mut parts)?;
        virtio.add(id, device)?;
    }
    let VirtioBus {
        mmio,
        devices,
        subscribers,
        ..
    } = virtio;
    Ok(Built {
        board: Board {
            devices,
            virtio: declared.iter().map(|(id, _)| id.slot).collect(),
            power,
            power_registers: registers,
            console,
            pmem: parts.pmem,
            balloon: parts.balloon,
            identity: Mutex::new(Identity::absent(IDENTITY)),
        },
        ports,
        mmio,
        subscribers,
    })
}

/// virtio-mmio slots as they fill.
struct VirtioBus<'a> {
    vm: &'a KvmVm,
    memory: &'a Arc<GuestMemory>,
    mmio: Bus,
    devices: Vec<Arc<Mutex<dyn Device>>>,
    subscribers: Vec<Subscriber>,
}

impl VirtioBus<'_> {
    /// Puts `device` into its slot: registers, interrupt, doorbells, event thread.
    fn add(&mut self, id: &DeviceId, device: Box<dyn VirtioDevice<GuestMemory>>) -> Result<()> {
        let base = virtio_mmio_gpa(id.slot);
        let line: Arc<dyn IrqLine> = interrupt(self.vm, virtio_gsi(id.slot))?;
        let transport = MmioTransport::new(&id.instance, device, Arc::clone(self.memory), line)?;
        for (queue, event) in (0u32..).zip(transport.queue_events().iter()) {
            self.vm
                .register_doorbell(event, base + QUEUE_NOTIFY_OFFSET, queue)?;
        }
        self.subscribers
            .push(Arc::new(Mutex::new(transport.subscriber())));
        let transport = Arc::new(Mutex::new(transport));
        self.mmio.insert(
            &id.instance,
            base,
            MMIO_LEN,
            Arc::clone(&transport) as Arc<Mutex<dyn BusDevice>>,
        )?;
        self.devices.push(transport);
        Ok(())
    }
}

/// An interrupt line to `gsi`.
fn interrupt(vm: &KvmVm, gsi: u32) -> Result<Arc<EventFd>> {
    let event = ask_for(Resource::Descriptor)
        .and_then(|()| EventFd::new(EFD_NONBLOCK))
        .map_err(host("make an interrupt line"))?;
    vm.register_irq(&event, gsi)?;
    Ok(Arc::new(event))
}

impl Board {
    fn each<T>(
        &self,
        mut action: impl FnMut(&mut dyn Device) -> std::result::Result<T, LifecycleError>,
    ) -> Result<Vec<T>> {
        let each = self.devices.iter().map(|device| {
            Ok(action(
                &mut *device.lock().unwrap_or_else(PoisonError::into_inner),
            )?)
        });
        each.collect()
    }

    /// Pauses every device. When one cannot be paused, those before it are resumed.
    pub(super) fn pause(&self) -> Result<()> {
        if let Err(error) = self.each(|device| device.pause()) {
            self.resume()?;
            return Err(error);
        }
        Ok(())
    }

    pub(super) fn resume(&self) -> Result<()> {
        self.each(|device| device.resume()).map(|_| ())
    }

    /// Has each device look at its host's side anew, and tell its driver what has changed.
    pub(super) fn look_anew(&self) -> Result<()> {
        for device in &self.devices {
            let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
            device.look_anew().map_err(host("look at a device anew"))?;
        }
        Ok(())
    }

    pub(super) fn save(&self) -> Result<Vec<SavedDevice>> {
        let mut saved = self.each(|device| device.save())?;
        let identity = self.identity.lock();
        saved.extend(identity.unwrap_or_else(PoisonError::into_inner).save()?);
        Ok(saved)
    }

    /// Gives each device of a machine that has run the state of an earlier moment. Input of the
    /// console that the guest has not taken is of a later one, and is dropped.
    pub(super) fn rewind(&self, saved: &[SavedDevice]) -> Result<()> {
        self.restore(saved)?;
        self.console
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .forget_input();
        Ok(())
    }

    /// Gives each device its state. All of the state must be used, and all devices must have one.
    pub(super) fn restore(&self, saved: &[SavedDevice]) -> Result<()> {
        let (identity, mut left): (Vec<_>, Vec<_>) =
            { saved.iter() }.partition(|saved| Identity::is_state(saved));
        if let [_, second, ..] = identity[..] {
            left.push(second);
        }
        let own = self.identity.lock();
        own.unwrap_or_else(PoisonError::into_inner)
            .restore(identity.first().copied())?;
        for device in &self.devices {
            let mut device = device.lock().unwrap_or_else(PoisonError::into_inner);
            let found = left
                .iter()
                .position(|s| s.kind == device.kind() && s.instance == device.instance());
            let Some(found) = found else {
                return Err(MachineError::OtherDevices(format!(
                    "it has no {} {:?}",
                    device.kind(),
                    device.instance()
                )));
            };
            device.restore(left.swap_remove(found))?;
        }
        match left.first() {
            None => Ok(()),
            Some(extra) => Err(MachineError::OtherDevices(format!(
                "it has a {} {:?} that this machine does not have",
                extra.kind, extra.instance
            ))),
        }
    }
}
