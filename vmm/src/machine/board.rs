//! The devices of a machine, on their buses and connected to KVM.

use std::sync::{Arc, Mutex, PoisonError};

use event_manager::MutEventSubscriber;
use nvvmm_devices::virtio::{
    Block, BlockOptions, MMIO_LEN, MmioTransport, Pmem, PmemSlot, QUEUE_NOTIFY_OFFSET, Rng,
    VirtioDevice, Vsock,
};
use nvvmm_devices::{
    AcpiPower, Bus, BusDevice, COM1_IRQ, COM1_PORT, Console, ConsoleOut, ConsoleStreams, Device,
    HostSocket, I8042, I8042_COMMAND_PORT, I8042_PORTS_LEN, IrqLine, POWER_PORTS_BASE,
    POWER_PORTS_LEN, PowerSignal, RESET_PORT, RESET_VALUE, SERIAL_PORTS_LEN, SLEEP_CONTROL_PORT,
    SLEEP_STATUS_PORT, SLEEP_TYPE_S5, SavedDevice, SerialPort,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::error::host;
use super::{Interrupter, MachineError, Result};
use crate::boot::acpi::{AcpiDevice, PowerRegisters};
use crate::boot::layout::{VIRTIO_DEVICES_MAX, VIRTIO_GSI, VIRTIO_MMIO, VIRTIO_MMIO_SIZE_BYTES};
use crate::kvm::KvmVm;
use crate::memory::GuestMemory;
use crate::spec::VmSpec;

/// Something that the event thread runs.
pub(super) type Subscriber = Arc<Mutex<dyn MutEventSubscriber + Send>>;

/// Where the guest finds the power registers.
pub(super) const POWER_REGISTERS: PowerRegisters = PowerRegisters {
    sleep_control_port: SLEEP_CONTROL_PORT as u16,
    sleep_status_port: SLEEP_STATUS_PORT as u16,
    s5_type: SLEEP_TYPE_S5,
    reset_port: RESET_PORT as u16,
    reset_value: RESET_VALUE,
};

/// Where the guest finds the serial port.
pub(super) const SERIAL: AcpiDevice = AcpiDevice {
    base: COM1_PORT as u32,
    gsi: COM1_IRQ,
};

/// All devices.
pub(super) struct Board {
    /// In the order in which they are paused and saved.
    devices: Vec<Arc<Mutex<dyn Device>>>,
    /// virtio-mmio windows in the order of their slots.
    pub(super) virtio: Vec<AcpiDevice>,
    pub(super) power: Arc<PowerSignal>,
    pub(super) console: Arc<Mutex<Console>>,
    /// What is behind each window.
    pub(super) windows: Vec<Arc<PmemSlot>>,
}

/// A board, and what it is connected by: the buses go to the vCPU threads, the subscribers to the
/// event thread.
pub(super) struct Built {
    pub(super) board: Board,
    pub(super) ports: Bus,
    pub(super) mmio: Bus,
    pub(super) subscribers: Vec<Subscriber>,
}

/// Builds the devices that `spec` asks for: COM1, power, virtio-rng in slot 0, disks in the slots
/// after it, then virtio-vsock, then windows, so that nothing is elsewhere in a machine without
/// them. `owner` is woken when the guest lets go of a window.
pub(super) fn build(
    vm: &KvmVm,
    memory: &Arc<GuestMemory>,
    spec: &VmSpec,
    console: ConsoleStreams,
    vsock: Option<Arc<HostSocket>>,
    owner: &Interrupter,
) -> Result<Built> {
    let disks_max = VIRTIO_DEVICES_MAX - 1 - usize::from(spec.vsock) - usize::from(spec.windows);
    if spec.disks.len() > disks_max {
        return Err(MachineError::Spec(format!(
            "a machine can have at most {disks_max} disks, not {}",
            spec.disks.len()
        )));
    }
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
    let registers = Arc::new(Mutex::new(AcpiPower::new(Arc::clone(&power))));
    let bus_side = Arc::clone(&registers) as Arc<Mutex<dyn BusDevice>>;
    ports.insert("power", POWER_PORTS_BASE, POWER_PORTS_LEN, bus_side)?;
    devices.push(registers);
    let keyboard = Arc::new(Mutex::new(I8042::new(Arc::clone(&power))));
    ports.insert("i8042", I8042_COMMAND_PORT, I8042_PORTS_LEN, keyboard)?;

    let mut slots = VirtioSlots {
        vm,
        memory,
        mmio: Bus::new(),
        devices,
        subscribers: vec![Arc::clone(&console) as _],
    };
    let mut virtio = vec![slots.add(0, "rng0", Box::new(Rng::new()))?];
    for (index, disk) in spec.disks.iter().enumerate() {
        let instance = format!("disk{index}");
        let options = BlockOptions {
            read_only: disk.read_only,
            serial: instance.clone(),
        };
        let block = Block::open(&disk.path, &options).map_err(MachineError::Disk)?;
        virtio.push(slots.add(index + 1, &instance, Box::new(block))?);
    }
    if spec.vsock {
        let socket = vsock.ok_or(MachineError::State("a vsock device needs a socket"))?;
        let vsock = Vsock::new(socket).map_err(host("make the vsock device"))?;
        virtio.push(slots.add(virtio.len(), "vsock0", Box::new(vsock))?);
    }
    let mut windows = Vec::new();
    for index in 0..spec.windows {
        let owner = owner.clone();
        let window = Arc::new(PmemSlot::new(Box::new(move || owner.interrupt())));
        let device = Box::new(Pmem::new(Arc::clone(&window)));
        virtio.push(slots.add(virtio.len(), &format!("window{index}"), device)?);
        windows.push(window);
    }
    let VirtioSlots {
        mmio,
        devices,
        subscribers,
        ..
    } = slots;
    Ok(Built {
        board: Board {
            devices,
            virtio,
            power,
            console,
            windows,
        },
        ports,
        mmio,
        subscribers,
    })
}

/// virtio-mmio slots as they fill.
struct VirtioSlots<'a> {
    vm: &'a KvmVm,
    memory: &'a Arc<GuestMemory>,
    mmio: Bus,
    devices: Vec<Arc<Mutex<dyn Device>>>,
    subscribers: Vec<Subscriber>,
}

impl VirtioSlots<'_> {
    /// Puts `device` into slot `slot`: registers, interrupt, doorbells, event thread.
    fn add(
        &mut self,
        slot: usize,
        instance: &str,
        device: Box<dyn VirtioDevice<GuestMemory>>,
    ) -> Result<AcpiDevice> {
        let base = VIRTIO_MMIO + slot as u64 * VIRTIO_MMIO_SIZE_BYTES;
        let gsi = VIRTIO_GSI + slot as u32;
        let line: Arc<dyn IrqLine> = interrupt(self.vm, gsi)?;
        let transport = MmioTransport::new(instance, device, Arc::clone(self.memory), line)?;
        for (queue, event) in (0u32..).zip(transport.queue_events().iter()) {
            self.vm
                .register_doorbell(event, base + QUEUE_NOTIFY_OFFSET, queue)?;
        }
        self.subscribers
            .push(Arc::new(Mutex::new(transport.subscriber())));
        let transport = Arc::new(Mutex::new(transport));
        self.mmio.insert(
            instance,
            base,
            MMIO_LEN,
            Arc::clone(&transport) as Arc<Mutex<dyn BusDevice>>,
        )?;
        self.devices.push(transport);
        // The windows lie below 4 GiB.
        Ok(AcpiDevice {
            base: base as u32,
            gsi,
        })
    }
}

/// An interrupt line to `gsi`.
fn interrupt(vm: &KvmVm, gsi: u32) -> Result<Arc<EventFd>> {
    let event = EventFd::new(EFD_NONBLOCK).map_err(host("make an interrupt line"))?;
    vm.register_irq(&event, gsi)?;
    Ok(Arc::new(event))
}

impl Board {
    fn each<T>(
        &self,
        mut action: impl FnMut(&mut dyn Device) -> std::result::Result<T, nvvmm_devices::LifecycleError>,
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

    pub(super) fn save(&self) -> Result<Vec<SavedDevice>> {
        self.each(|device| device.save())
    }

    /// Gives each device its state. All of the state must be used, and all devices must have one.
    pub(super) fn restore(&self, saved: &[SavedDevice]) -> Result<()> {
        let mut left: Vec<&SavedDevice> = saved.iter().collect();
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
