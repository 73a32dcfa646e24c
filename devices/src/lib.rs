//! The devices of an nvvmm machine, and the buses that they are on.
//!
//! Nothing here knows of KVM or of the pool: a device gets guest memory (any [`vm_memory`] address
//! space), an [`IrqLine`] to raise, and its event sources through `event-manager`. The machine puts
//! devices on a [`Bus`], and pauses, saves, restores and resumes them through [`Device`].
//!
//! Lock order, outermost first: transport registers, transport worker; serial port, console output.
//! No lock of this crate is held while an event is waited for.

mod bus;
mod console;
mod host_socket;
mod identity;
mod irq;
mod lifecycle;
mod lock;
mod power;
mod serial;
mod sys;
pub mod virtio;

pub use bus::{Bus, BusDevice, BusError};
pub use console::{
    Console, ConsoleInput, ConsoleOut, ConsoleStreams, KEPT_BYTES, KeptOutput, LatestOutput,
    read_kept_output,
};
pub use host_socket::{Connector, HostSocket, connect_to_port};
pub use identity::{
    CLOCK_PAGE_BYTES, GENERATION_ID_BYTES, Generation, Identity, IdentityPlaces, IdentityStateV1,
};
pub use irq::{CountingIrq, IrqLine};
pub use lifecycle::{Device, LifecycleError, SavedDevice};
pub use power::{
    AcpiPower, I8042, I8042_COMMAND_PORT, I8042_PORTS_LEN, POWER_BUTTON_PRESSED, POWER_EVENTS_PORT,
    POWER_IRQ, POWER_PORTS_BASE, POWER_PORTS_LEN, POWER_RESTORED, PowerEvent, PowerSignal,
    RESET_PORT, RESET_VALUE, SLEEP_CONTROL_PORT, SLEEP_STATUS_PORT, SLEEP_TYPE_S5,
};
pub use serial::{COM1_IRQ, COM1_PORT, SERIAL_PORTS_LEN, SerialPort, SerialStateV1};
