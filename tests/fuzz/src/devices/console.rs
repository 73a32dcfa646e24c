//! The serial port, the power registers, and the host's side of the console.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use event_manager::{EventManager, SubscriberOps};
use nvvmm_devices::{
    AcpiPower, Bus, BusDevice, COM1_PORT, Console, ConsoleOut, ConsoleStreams, CountingIrq, Device,
    HostSocket, I8042, I8042_COMMAND_PORT, I8042_PORTS_LEN, POWER_PORTS_BASE, POWER_PORTS_LEN,
    PowerEvent, PowerSignal, SERIAL_PORTS_LEN, SerialPort,
};

use super::STEPS_MAX;
use crate::script::Script;

/// Repetitions of a write that fill buffers.
const FLOOD: usize = 200;

/// Runs one input. Its first byte chooses the connections of the console.
pub(super) fn run(script: &mut Script) {
    let mut host = Host::new(script.u8());
    for _ in 0..STEPS_MAX {
        if script.is_over() {
            break;
        }
        host.step(script);
    }
    host.save_and_restore();
    // The console waits for an output that is open and not read. It does not wait for a closed one.
    host.output = None;
}

/// The machine's ports, and the other ends of the console's connections.
struct Host {
    ports: Bus,
    serial: Arc<Mutex<SerialPort>>,
    power: Arc<Mutex<AcpiPower>>,
    signal: Arc<PowerSignal>,
    requested: Option<PowerEvent>,
    /// Most bytes that the guest may have written.
    written: usize,
    /// Bytes that came out.
    printed: usize,
    input: Option<UnixStream>,
    output: Option<UnixStream>,
    clients: Vec<UnixStream>,
    socket: Option<PathBuf>,
    events: EventManager<Console>,
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread has panicked")
}

/// Makes a closed pipe an error instead of the end of the process. Rust's `main` does this, and
/// libFuzzer's does not.
static NO_SIGPIPE: LazyLock<()> = LazyLock::new(|| {
    let seen = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGPIPE, seen).expect("a signal handler");
});

pub(super) fn no_sigpipe() {
    LazyLock::force(&NO_SIGPIPE);
}

impl Host {
    fn new(connections: u8) -> Self {
        no_sigpipe();
        let mut streams = ConsoleStreams::default();
        let (mut input, mut output, mut socket) = (None, None, None);
        if connections & 1 != 0 {
            let (near, far) = UnixStream::pair().expect("a socket pair");
            streams.input = Some(File::from(OwnedFd::from(near)));
            far.set_nonblocking(true).expect("a socket option");
            input = Some(far);
        }
        if connections & 2 != 0 {
            let (near, far) = UnixStream::pair().expect("a socket pair");
            streams.output = Some(File::from(OwnedFd::from(near)));
            far.set_nonblocking(true).expect("a socket option");
            output = Some(far);
        }
        if connections & 4 != 0 {
            let path =
                std::env::temp_dir().join(format!("nvvmm-fuzz-{}.console", std::process::id()));
            streams.socket = Some(HostSocket::bind(&path).expect("a socket"));
            socket = Some(path);
        }
        let out = ConsoleOut::new().expect("an eventfd");
        let irq = Arc::new(CountingIrq::default());
        let serial = SerialPort::new("com1", irq, out.clone()).expect("an eventfd");
        let serial = Arc::new(Mutex::new(serial));
        let signal = PowerSignal::new().expect("an eventfd");
        let line = Arc::new(CountingIrq::default());
        let power = Arc::new(Mutex::new(AcpiPower::new(Arc::clone(&signal), line)));
        let mut ports = Bus::new();
        let keyboard = Arc::new(Mutex::new(I8042::new(Arc::clone(&signal))));
        let mut add = |base, len, device: Arc<Mutex<dyn BusDevice>>| {
            ports
                .insert("device", base, len, device)
                .expect("a free range");
        };
        add(COM1_PORT, SERIAL_PORTS_LEN, Arc::clone(&serial) as _);
        add(POWER_PORTS_BASE, POWER_PORTS_LEN, Arc::clone(&power) as _);
        add(I8042_COMMAND_PORT, I8042_PORTS_LEN, keyboard);
        let mut events = EventManager::new().expect("an event loop");
        events.add_subscriber(Console::new(Arc::clone(&serial), out, streams));
        Self {
            ports,
            serial,
            power,
            signal,
            requested: None,
            written: 0,
            printed: 0,
            input,
            output,
            clients: Vec::new(),
            socket,
            events,
        }
    }

    /// Does one step: a byte that chooses it, then its operands.
    fn step(&mut self, script: &mut Script) {
        match script.u8() % 12 {
            0 => self.out(COM1_PORT + u64::from(script.u8() % 9), &[script.u8()]),
            1 => {
                let port = port(script);
                let len = usize::from(script.u8() % 5);
                self.ports.read(port, &mut [0; 4][..len.min(4)]);
            }
            2 => {
                let port = port(script);
                let len = usize::from(script.u8() % 5);
                self.out(port, script.bytes(len));
            }
            3 => {
                let len = usize::from(script.u8());
                for byte in script.bytes(len) {
                    self.out(COM1_PORT, &[*byte]);
                }
            }
            4 => {
                let byte = script.u8();
                for _ in 0..FLOOD {
                    self.out(COM1_PORT, &[byte]);
                }
            }
            5 => {
                let len = usize::from(script.u8());
                if let Some(input) = &mut self.input {
                    // The buffer may be full, as for any client that types.
                    let _ = input.write(script.bytes(len));
                }
            }
            6 => self.connect(),
            7 => self.client_step(script),
            8 => self.read_output(script.u8()),
            9 => self.input = None,
            10 => self.save_and_restore(),
            _ => self.turn(),
        }
    }

    /// The guest writes to ports. The first event that it requests by the power registers counts.
    fn out(&mut self, port: u64, bytes: &[u8]) {
        self.ports.write(port, bytes);
        self.written += usize::from(port == COM1_PORT);
        let requested = self.signal.requested();
        if self.requested.is_some() {
            assert_eq!(requested, self.requested, "a request was forgotten");
        }
        self.requested = requested;
    }

    fn connect(&mut self) {
        if let Some(path) = &self.socket
            && self.clients.len() < 20
        {
            let client = UnixStream::connect(path).expect("the console listens");
            client.set_nonblocking(true).expect("a socket option");
            self.clients.push(client);
            // A client that connects while too many wait to be accepted would have to wait, too.
            self.turn();
        }
    }

    fn client_step(&mut self, script: &mut Script) {
        let (which, what) = (usize::from(script.u8()), script.u8());
        let len = usize::from(script.u8());
        let bytes = script.bytes(len);
        if self.clients.is_empty() {
            return;
        }
        let which = which % self.clients.len();
        let client = &mut self.clients[which];
        // The console may have refused the client or closed its connection.
        match what % 5 {
            0 => drop(client.write(bytes)),
            1 => drop(client.read(&mut [0; 4096])),
            2 => drop(client.shutdown(Shutdown::Write)),
            3 => drop(client.shutdown(Shutdown::Read)),
            _ => drop(self.clients.swap_remove(which)),
        }
    }

    fn read_output(&mut self, what: u8) {
        if what == 0 {
            self.output = None;
        } else if let Some(output) = &mut self.output {
            let mut bytes = [0; 255];
            match output.read(&mut bytes[..usize::from(what)]) {
                Ok(count) => {
                    self.printed += count;
                    assert!(self.printed <= self.written, "output that nobody wrote");
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
    }

    fn turn(&mut self) {
        self.events.run_with_timeout(0).expect("events");
    }

    /// Port and power registers pause, and go on in exactly the same state.
    fn save_and_restore(&mut self) {
        let devices: [Arc<Mutex<dyn Device>>; 2] =
            [Arc::clone(&self.serial) as _, Arc::clone(&self.power) as _];
        for device in devices {
            let mut device = lock(&device);
            device.pause().expect("pause");
            let saved = device.save().expect("save");
            device.restore(&saved).expect("restore");
            assert_eq!(
                device.save().expect("save"),
                saved,
                "restored to another state"
            );
            device.resume().expect("resume");
        }
    }
}

/// A port of one of the devices, or one beside it.
fn port(script: &mut Script) -> u64 {
    let bases = [COM1_PORT, COM1_PORT, POWER_PORTS_BASE, I8042_COMMAND_PORT];
    let choice = script.u8();
    bases[usize::from(choice % 4)] + u64::from(choice / 4 % 9)
}
