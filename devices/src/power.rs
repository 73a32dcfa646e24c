//! Power-off and reset by the guest: ACPI hardware-reduced sleep and reset registers (ACPI 6.5
//! sections 4.8.3.7 and 4.8.3.6), and the reset pulse of the keyboard controller, which older code
//! uses. And the power button, by which the host asks for it (ACPI 6.5 section 4.8.3.2).

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::BusDevice;
use crate::irq::IrqLine;
use crate::lifecycle::{Device, LifecycleError, SavedDevice};

/// First port of the ACPI power block.
pub const POWER_PORTS_BASE: u64 = 0x600;
/// Length of the ACPI power block in ports.
pub const POWER_PORTS_LEN: u64 = 4;
/// Port of SLEEP_CONTROL_REG, one byte wide.
pub const SLEEP_CONTROL_PORT: u64 = POWER_PORTS_BASE;
/// Port of SLEEP_STATUS_REG, one byte wide.
pub const SLEEP_STATUS_PORT: u64 = POWER_PORTS_BASE + 1;
/// Port of RESET_REG, one byte wide.
pub const RESET_PORT: u64 = POWER_PORTS_BASE + 2;
/// Port of the event register, one byte wide: what has happened since it was read last.
pub const POWER_EVENTS_PORT: u64 = POWER_PORTS_BASE + 3;
/// Bit of the event register: the power button was pressed.
pub const POWER_BUTTON_PRESSED: u8 = 1 << 0;
/// Bit of the event register: the guest was restored or rewound, and its generation is another one.
pub const POWER_RESTORED: u8 = 1 << 1;
/// Interrupt that tells the guest to read the event register.
pub const POWER_IRQ: u32 = 3;
/// Value for RESET_VALUE in the FADT: the guest writes it to [`RESET_PORT`] to reset the machine.
pub const RESET_VALUE: u8 = 0x01;
/// Sleep type of the off state: first element of the `\_S5` package in the DSDT.
pub const SLEEP_TYPE_S5: u8 = 5;

/// Command and status port of the keyboard controller.
pub const I8042_COMMAND_PORT: u64 = 0x64;
/// Ports that [`I8042`] takes.
pub const I8042_PORTS_LEN: u64 = 1;

const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0x7;
const I8042_PULSE_RESET: u8 = 0xfe;

/// A request of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// Power off.
    Off,
    /// Reset, a reboot.
    Reset,
}

impl PowerEvent {
    fn code(self) -> u8 {
        match self {
            Self::Off => 1,
            Self::Reset => 2,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Off),
            2 => Some(Self::Reset),
            _ => None,
        }
    }
}

/// The guest's request, from the power devices to the machine. The first request counts: a guest
/// that asks for power-off and then for a reset is powered off.
#[derive(Debug)]
pub struct PowerSignal {
    requested: AtomicU8,
    event: EventFd,
}

impl PowerSignal {
    /// A signal with nothing requested.
    ///
    /// # Errors
    /// No eventfd could be made.
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            requested: AtomicU8::new(0),
            event: EventFd::new(EFD_NONBLOCK)?,
        }))
    }

    /// The guest's request, if there is one. It stays until [`PowerSignal::clear`].
    pub fn requested(&self) -> Option<PowerEvent> {
        PowerEvent::from_code(self.requested.load(Ordering::SeqCst))
    }

    /// Records `event` and makes the file descriptor readable.
    pub fn request(&self, event: PowerEvent) {
        let first = self
            .requested
            .compare_exchange(0, event.code(), Ordering::SeqCst, Ordering::SeqCst)
            .is_ok();
        if first {
            self.notify();
        }
    }

    /// Forgets the request, after a reset was carried out.
    pub fn clear(&self) {
        self.requested.store(0, Ordering::SeqCst);
        self.drain();
    }

    /// Makes the file descriptor unreadable again. The request itself stays.
    pub fn drain(&self) {
        // Fails only when there was nothing to take.
        let _ = self.event.read();
    }

    fn notify(&self) {
        if let Err(error) = self.event.write(1) {
            tracing::error!(%error, "cannot signal a power event");
        }
    }

    fn replace(&self, event: Option<PowerEvent>) {
        self.requested
            .store(event.map_or(0, PowerEvent::code), Ordering::SeqCst);
    }
}

/// Readable once something was requested.
impl AsRawFd for PowerSignal {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

/// The ACPI power block: sleep control, sleep status, reset and event register.
pub struct AcpiPower {
    signal: Arc<PowerSignal>,
    line: Arc<dyn IrqLine>,
    /// The event register.
    events: u8,
    paused: bool,
}

const KIND: &str = "acpi-power";
const INSTANCE: &str = "power0";
/// Version of a state without events, which programs from before the event register read, too.
const WITHOUT_EVENTS: u16 = 1;
const WITH_EVENTS: u16 = 2;

/// State of [`AcpiPower`] when its event register is empty: only the request that the machine has
/// not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiPowerStateV1 {
    /// 0 nothing, 1 off, 2 reset.
    pub requested: u8,
}

/// State of [`AcpiPower`] when the guest has not read of an event yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcpiPowerStateV2 {
    /// 0 nothing, 1 off, 2 reset.
    pub requested: u8,
    /// The event register.
    pub events: u8,
}

impl AcpiPower {
    /// A power block that reports to `signal`, and to the guest by `line`.
    pub fn new(signal: Arc<PowerSignal>, line: Arc<dyn IrqLine>) -> Self {
        Self {
            signal,
            line,
            events: 0,
            paused: false,
        }
    }

    /// Presses the power button. A guest that has a driver for it reads the event register then,
    /// and shuts down as it likes. A paused device tells the guest when it is resumed.
    ///
    /// # Errors
    /// The interrupt could not be raised; the guest sees the event when it reads the register.
    pub fn press_button(&mut self) -> io::Result<()> {
        self.tell(POWER_BUTTON_PRESSED)
    }

    /// Tells the guest that it was restored or rewound. A paused device tells it when it is
    /// resumed.
    ///
    /// # Errors
    /// The interrupt could not be raised; the guest sees the event when it reads the register.
    pub fn tell_restored(&mut self) -> io::Result<()> {
        self.tell(POWER_RESTORED)
    }

    fn tell(&mut self, event: u8) -> io::Result<()> {
        self.events |= event;
        if self.paused {
            return Ok(());
        }
        self.line.raise()
    }

    /// True while the guest has not read that the button was pressed.
    pub fn is_button_unread(&self) -> bool {
        self.events & POWER_BUTTON_PRESSED != 0
    }

    fn rejected(&self, reason: String) -> LifecycleError {
        LifecycleError::Rejected {
            kind: KIND.to_owned(),
            instance: INSTANCE.to_owned(),
            reason,
        }
    }
}

impl BusDevice for AcpiPower {
    fn read(&mut self, offset: u64, bytes: &mut [u8]) {
        // Sleep control is write-only, and the wake status bit is never set: S5 is left by a new
        // machine only.
        bytes.fill(0);
        if POWER_PORTS_BASE + offset == POWER_EVENTS_PORT
            && let [value] = bytes
        {
            *value = std::mem::take(&mut self.events);
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let &[value] = bytes else { return };
        match POWER_PORTS_BASE + offset {
            SLEEP_CONTROL_PORT if value & SLEEP_ENABLE != 0 => {
                let sleep_type = (value >> SLEEP_TYPE_SHIFT) & SLEEP_TYPE_MASK;
                if sleep_type == SLEEP_TYPE_S5 {
                    self.signal.request(PowerEvent::Off);
                } else {
                    tracing::warn!(
                        sleep_type,
                        "guest asked for a sleep state that this machine does not have"
                    );
                }
            }
            RESET_PORT if value == RESET_VALUE => self.signal.request(PowerEvent::Reset),
            _ => {}
        }
    }
}

impl Device for AcpiPower {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn instance(&self) -> &str {
        INSTANCE
    }

    fn pause(&mut self) -> Result<(), LifecycleError> {
        self.paused = true;
        Ok(())
    }

    fn resume(&mut self) -> Result<(), LifecycleError> {
        if !std::mem::take(&mut self.paused) {
            return Ok(());
        }
        if self.signal.requested().is_some() {
            self.signal.notify();
        }
        if self.events == 0 {
            return Ok(());
        }
        self.line
            .raise()
            .map_err(LifecycleError::interrupt(KIND, INSTANCE))
    }

    fn save(&self) -> Result<SavedDevice, LifecycleError> {
        if !self.paused {
            return Err(LifecycleError::NotPaused {
                kind: KIND.to_owned(),
                instance: INSTANCE.to_owned(),
            });
        }
        let requested = self.signal.requested().map_or(0, PowerEvent::code);
        match self.events {
            0 => {
                let state = AcpiPowerStateV1 { requested };
                SavedDevice::encode(KIND, WITHOUT_EVENTS, INSTANCE, &state)
            }
            events => {
                let state = AcpiPowerStateV2 { requested, events };
                SavedDevice::encode(KIND, WITH_EVENTS, INSTANCE, &state)
            }
        }
    }

    fn restore(&mut self, saved: &SavedDevice) -> Result<(), LifecycleError> {
        let AcpiPowerStateV2 {
            requested: code,
            events,
        } = match saved.version {
            WITHOUT_EVENTS => {
                let AcpiPowerStateV1 { requested } =
                    saved.decode(KIND, WITHOUT_EVENTS, INSTANCE)?;
                AcpiPowerStateV2 {
                    requested,
                    events: 0,
                }
            }
            _ => saved.decode(KIND, WITH_EVENTS, INSTANCE)?,
        };
        let requested = PowerEvent::from_code(code);
        if requested.is_none() && code != 0 {
            return Err(self.rejected(format!("{code} is no power event; the state is damaged")));
        }
        if events & !(POWER_BUTTON_PRESSED | POWER_RESTORED) != 0 {
            return Err(self.rejected(format!(
                "its event register has {events:#x}; the state is damaged"
            )));
        }
        self.signal.replace(requested);
        self.events = events;
        self.paused = true;
        Ok(())
    }
}

/// The part of a keyboard controller through which a guest can reboot. It has no state to save.
pub struct I8042 {
    signal: Arc<PowerSignal>,
}

impl I8042 {
    /// A controller that reports to `signal`.
    pub fn new(signal: Arc<PowerSignal>) -> Self {
        Self { signal }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, _offset: u64, bytes: &mut [u8]) {
        // Both buffers empty: the guest neither waits to write nor finds something to read.
        bytes.fill(0);
    }

    fn write(&mut self, _offset: u64, bytes: &[u8]) {
        if bytes == [I8042_PULSE_RESET] {
            self.signal.request(PowerEvent::Reset);
        }
    }
}

#[cfg(test)]
#[path = "power_test.rs"]
mod power_test;
