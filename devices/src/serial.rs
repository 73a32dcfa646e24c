//! The 16550 serial port of the machine: `vm-superio`'s register model with our lifecycle and input
//! back-pressure.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use vm_superio::Trigger;
use vm_superio::serial::{Error as UartError, Serial, SerialEvents, SerialState};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::BusDevice;
use crate::console::{ConsoleInput, ConsoleOut};
use crate::irq::IrqLine;
use crate::lifecycle::{Device, LifecycleError, SavedDevice};

/// First port of COM1.
pub const COM1_PORT: u64 = 0x3f8;
/// Number of ports of a 16550.
pub const SERIAL_PORTS_LEN: u64 = 8;
/// ISA interrupt of COM1.
pub const COM1_IRQ: u32 = 4;

const KIND: &str = "serial";
const VERSION: u16 = 1;

/// Depth of the receive FIFO that `vm-superio` models.
const FIFO_SIZE: usize = 64;
const MCR_OFFSET: u64 = 4;
const IER_RECEIVED: u8 = 1 << 0;
const IER_TRANSMIT_EMPTY: u8 = 1 << 1;
const IIR_TRANSMIT_EMPTY: u8 = 1 << 1;
const IIR_RECEIVED: u8 = 1 << 2;

/// State of a [`SerialPort`]: its registers, and the bytes in the receive FIFO.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialStateV1 {
    /// Divisor latch, low byte.
    pub baud_divisor_low: u8,
    /// Divisor latch, high byte.
    pub baud_divisor_high: u8,
    /// Interrupt enable register.
    pub interrupt_enable: u8,
    /// Interrupt identification register.
    pub interrupt_identification: u8,
    /// Line control register.
    pub line_control: u8,
    /// Line status register.
    pub line_status: u8,
    /// Modem control register.
    pub modem_control: u8,
    /// Modem status register.
    pub modem_status: u8,
    /// Scratch register.
    pub scratch: u8,
    /// Receive FIFO, oldest byte first; at most 64.
    pub in_buffer: Vec<u8>,
}

impl From<SerialState> for SerialStateV1 {
    fn from(state: SerialState) -> Self {
        Self {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.in_buffer,
        }
    }
}

impl From<SerialStateV1> for SerialState {
    fn from(state: SerialStateV1) -> Self {
        Self {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.in_buffer,
        }
    }
}

/// The UART's interrupt, which stays silent while the port is paused.
#[derive(Clone)]
struct UartIrq {
    line: Arc<dyn IrqLine>,
    silent: Arc<AtomicBool>,
}

impl Trigger for UartIrq {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        if self.silent.load(Ordering::SeqCst) {
            Ok(())
        } else {
            self.line.raise()
        }
    }
}

/// Tells the input side that the receive FIFO has room again.
#[derive(Clone)]
struct InputRoom {
    event: Arc<EventFd>,
}

impl InputRoom {
    fn signal(&self) {
        // The counter can only be full when the reader has been told already.
        let _ = self.event.write(1);
    }
}

impl SerialEvents for InputRoom {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        self.signal();
    }
}

/// A 16550 UART. Output goes to a [`ConsoleOut`] and never blocks; input is offered with
/// [`ConsoleInput::enqueue_input`], which takes what fits into the FIFO.
pub struct SerialPort {
    instance: String,
    uart: Serial<UartIrq, InputRoom, ConsoleOut>,
    irq: UartIrq,
    room: InputRoom,
    /// Input may have been refused while this port was paused, or while the saved one was.
    refused: bool,
    output: ConsoleOut,
}

impl SerialPort {
    /// A port in its power-on state.
    ///
    /// # Errors
    /// No eventfd could be made.
    pub fn new(instance: &str, line: Arc<dyn IrqLine>, output: ConsoleOut) -> io::Result<Self> {
        let irq = UartIrq {
            line,
            silent: Arc::new(AtomicBool::new(false)),
        };
        let room = InputRoom {
            event: Arc::new(EventFd::new(EFD_NONBLOCK)?),
        };
        let uart = Serial::with_events(irq.clone(), room.clone(), output.clone());
        Ok(Self {
            instance: instance.to_owned(),
            uart,
            irq,
            room,
            refused: false,
            output,
        })
    }

    fn is_paused(&self) -> bool {
        self.irq.silent.load(Ordering::SeqCst)
    }

    /// True while a condition that the guest has enabled an interrupt for is flagged and not yet
    /// read.
    fn interrupt_pending(&self) -> bool {
        let state = self.uart.state();
        let enabled = state.interrupt_enable;
        let flagged = state.interrupt_identification;
        (enabled & IER_RECEIVED != 0
            && (flagged & IIR_RECEIVED != 0 || !state.in_buffer.is_empty()))
            || (enabled & IER_TRANSMIT_EMPTY != 0 && flagged & IIR_TRANSMIT_EMPTY != 0)
    }
}

impl ConsoleInput for SerialPort {
    /// Takes as many bytes as the FIFO has room for, none while the port is paused or in loop-back.
    fn enqueue_input(&mut self, bytes: &[u8]) -> usize {
        let room = self.uart.fifo_capacity();
        self.refused |= self.is_paused();
        if self.is_paused() || room == 0 {
            return 0;
        }
        match self.uart.enqueue_raw_bytes(bytes) {
            Ok(taken) => taken,
            Err(error) => {
                // The bytes are in the FIFO; only the interrupt for them failed.
                tracing::error!(
                    instance = self.instance,
                    ?error,
                    "cannot raise the serial interrupt"
                );
                bytes.len().min(room)
            }
        }
    }

    /// Signalled when the guest can take input again, for example when it has emptied the receive
    /// FIFO.
    fn input_room(&self) -> Arc<EventFd> {
        Arc::clone(&self.room.event)
    }
}

impl BusDevice for SerialPort {
    fn read(&mut self, offset: u64, bytes: &mut [u8]) {
        // The registers are a byte wide; what a wider access would see beside them is not driven.
        bytes.fill(0xff);
        if let (Ok(offset), Some(first)) = (u8::try_from(offset), bytes.first_mut()) {
            *first = self.uart.read(offset);
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (Ok(register), Some(&value)) = (u8::try_from(offset), bytes.first()) else {
            return;
        };
        if let Err(error) = self.uart.write(register, value) {
            tracing::error!(instance = self.instance, %error, "serial port write");
        }
        // Leaving loop-back makes room for input that was refused.
        if offset == MCR_OFFSET {
            self.room.signal();
        }
    }
}

impl Device for SerialPort {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn instance(&self) -> &str {
        &self.instance
    }

    fn pause(&mut self) -> Result<(), LifecycleError> {
        self.irq.silent.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), LifecycleError> {
        if !self.irq.silent.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        // Signalled only when somebody waits for it: a ring of checkpoints resumes a hundred times
        // a second.
        if std::mem::take(&mut self.refused) {
            self.room.signal();
        }
        if self.interrupt_pending() {
            self.irq
                .line
                .raise()
                .map_err(LifecycleError::interrupt(KIND, &self.instance))?;
        }
        Ok(())
    }

    fn save(&self) -> Result<SavedDevice, LifecycleError> {
        if !self.is_paused() {
            return Err(LifecycleError::NotPaused {
                kind: KIND.to_owned(),
                instance: self.instance.clone(),
            });
        }
        SavedDevice::encode(
            KIND,
            VERSION,
            &self.instance,
            &SerialStateV1::from(self.uart.state()),
        )
    }

    fn restore(&mut self, saved: &SavedDevice) -> Result<(), LifecycleError> {
        let state: SerialStateV1 = saved.decode(KIND, VERSION, &self.instance)?;
        let in_buffer_len = state.in_buffer.len();
        self.irq.silent.store(true, Ordering::SeqCst);
        self.refused = true;
        self.uart = Serial::from_state(
            &state.into(),
            self.irq.clone(),
            self.room.clone(),
            self.output.clone(),
        )
        .map_err(|error| LifecycleError::Rejected {
            kind: KIND.to_owned(),
            instance: self.instance.clone(),
            reason: match error {
                UartError::FullFifo => {
                    format!("{in_buffer_len} bytes in a FIFO of {FIFO_SIZE}; the state is damaged")
                }
                other => other.to_string(),
            },
        })?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "serial_test.rs"]
mod serial_test;
