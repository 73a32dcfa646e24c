use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};

use super::backlog::Backlog;
use super::*;
use crate::HostSocket;
use crate::{BusDevice, CountingIrq, Device, SerialPort};

const DATA: u64 = 0;

/// A serial port with its console, and an event loop that the test turns.
struct Host {
    serial: Arc<Mutex<SerialPort>>,
    console: Arc<Mutex<Console>>,
    events: EventManager<Box<dyn MutEventSubscriber>>,
}

impl Host {
    fn new(streams: ConsoleStreams) -> Self {
        let output = ConsoleOut::new().unwrap();
        let serial =
            SerialPort::new("com1", Arc::new(CountingIrq::default()), output.clone()).unwrap();
        let serial = Arc::new(Mutex::new(serial));
        let console = Arc::new(Mutex::new(Console::new(
            Arc::clone(&serial),
            output,
            streams,
        )));
        let mut events: EventManager<Box<dyn MutEventSubscriber>> = EventManager::new().unwrap();
        events.add_subscriber(Box::new(Arc::clone(&console)));
        Self {
            serial,
            console,
            events,
        }
    }

    fn with_socket(path: &Path) -> Self {
        let socket = Some(HostSocket::bind(path).unwrap());
        Self::new(ConsoleStreams {
            socket,
            ..ConsoleStreams::default()
        })
    }

    fn with_stdin_and_socket(path: &Path) -> (Self, PipeWriter) {
        let (read_end, stdin) = pipe().unwrap();
        let host = Self::new(ConsoleStreams {
            input: Some(file(read_end)),
            socket: Some(HostSocket::bind(path).unwrap()),
            ..ConsoleStreams::default()
        });
        (host, stdin)
    }

    /// Turns the event loop until there is nothing to do. A loop that finds something to do for
    /// ever is a failure.
    fn run(&mut self) {
        for _ in 0..10_000 {
            if self.events.run_with_timeout(0).unwrap() == 0 {
                return;
            }
        }
        panic!("the console keeps the event thread busy with nothing");
    }

    fn guest_writes(&mut self, bytes: &[u8]) {
        let mut serial = self.serial.lock().unwrap();
        for byte in bytes {
            serial.write(DATA, &[*byte]);
        }
    }

    /// Bytes that the guest finds in the receive FIFO, at most `limit`.
    fn guest_reads(&mut self, limit: usize) -> Vec<u8> {
        let mut serial = self.serial.lock().unwrap();
        let mut received = Vec::new();
        let mut register = [0];
        while received.len() < limit {
            serial.read(5, &mut register);
            if register[0] & 1 == 0 {
                break;
            }
            serial.read(DATA, &mut register);
            received.push(register[0]);
        }
        received
    }

    fn client(&mut self, path: &Path) -> UnixStream {
        let client = UnixStream::connect(path).unwrap();
        client.set_nonblocking(true).unwrap();
        self.run();
        client
    }
}

fn file(end: impl Into<OwnedFd>) -> File {
    File::from(end.into())
}

/// All that is there now.
fn read_available(mut stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Ends with WouldBlock, or at the end of the stream; what was read before that is kept.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

fn read_exactly(pipe: &mut PipeReader, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    pipe.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn output_goes_to_standard_output_and_to_every_client() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("console");
    let (mut stdout, write_end) = pipe().unwrap();
    let mut host = Host::new(ConsoleStreams {
        output: Some(file(write_end)),
        socket: Some(HostSocket::bind(&path).unwrap()),
        ..ConsoleStreams::default()
    });
    let (first, second) = (host.client(&path), host.client(&path));
    host.guest_writes(b"boot\r\n");
    host.run();
    assert_eq!(read_exactly(&mut stdout, 6), b"boot\r\n");
    assert_eq!(read_available(&first), b"boot\r\n");
    assert_eq!(read_available(&second), b"boot\r\n");
}

#[test]
fn the_console_of_the_next_machine_goes_on_with_the_same_clients_and_streams() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("console");
    let (mut stdout, write_end) = pipe().unwrap();
    let (read_end, mut stdin) = pipe().unwrap();
    let mut first = Host::new(ConsoleStreams {
        input: Some(file(read_end)),
        output: Some(file(write_end)),
        socket: Some(HostSocket::bind(&path).unwrap()),
        ..ConsoleStreams::default()
    });
    let mut client = first.client(&path);
    first.guest_writes(b"one ");
    first.run();
    // Written, and not carried out when the machine ends.
    first.guest_writes(b"last words ");
    let streams = {
        let mut console = first.console.lock().unwrap();
        console.finish();
        console.take_streams()
    };
    drop(first);
    client.write_all(b"typed in between").unwrap();

    let mut second = Host::new(streams);
    second.guest_writes(b"two");
    second.run();
    assert_eq!(read_available(&client), b"one last words two");
    assert_eq!(read_exactly(&mut stdout, 18), b"one last words two");
    assert_eq!(second.guest_reads(16), b"typed in between");
    stdin.write_all(b"stdin too").unwrap();
    second.run();
    assert_eq!(second.guest_reads(9), b"stdin too");
    let late = second.client(&path);
    second.guest_writes(b"!");
    second.run();
    assert_eq!(read_available(&late), b"two!");
}

#[test]
fn a_new_client_starts_with_the_latest_output_and_gets_every_byte_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("console");
    let mut host = Host::with_socket(&path);
    host.guest_writes(&vec![b'.'; 70 << 10]);
    host.run();
    host.guest_writes(b"seen late");
    let client = host.client(&path);
    host.guest_writes(b", seen live");
    host.run();
    let seen = read_available(&client);
    assert_eq!(seen.len(), (64 << 10) + 11);
    assert!(seen.ends_with(b"..seen late, seen live"));
}

#[test]
fn output_that_comes_while_a_client_connects_reaches_the_others_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("console");
    let mut host = Host::with_socket(&path);
    let first = host.client(&path);
    // The event thread finds the connection before it finds the output.
    let second = UnixStream::connect(&path).unwrap();
    second.set_nonblocking(true).unwrap();
    host.guest_writes(b"once");
    host.run();
    assert_eq!(read_available(&first), b"once");
    assert_eq!(read_available(&second), b"once");
}

#[test]
fn input_of_clients_and_standard_input_reaches_the_guest_as_it_has_room() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("console");
    let (mut host, mut stdin) = Host::with_stdin_and_socket(&path);
    stdin.write_all(b"typed ").unwrap();
    host.run();
    let mut client = host.client(&path);
    client.write_all(b"sent").unwrap();
    host.run();
    assert_eq!(host.guest_reads(99), b"typed sent");

    let long: Vec<u8> = (0..20_000_u32).map(|byte| byte as u8).collect();
    client.write_all(&long).unwrap();
    let mut received = Vec::new();
    while received.len() < long.len() {
        host.run();
        let part = host.guest_reads(7);
        assert!(
            !part.is_empty(),
            "input stopped after {} bytes",
            received.len()
        );
        received.extend(part);
    }
    assert_eq!(received, long);
}

#[test]
fn input_waits_while_the_port_is_paused() {
    let (read_end, mut stdin) = pipe().unwrap();
    let mut host = Host::new(ConsoleStreams {
        input: Some(file(read_end)),
        ..ConsoleStreams::default()
    });
    host.serial.lock().unwrap().pause().unwrap();
    stdin.write_all(b"later").unwrap();
    host.run();
    assert!(host.guest_reads(99).is_empty());
    host.serial.lock().unwrap().resume().unwrap();
    host.run();
    assert_eq!(host.guest_reads(99), b"later");
}

#[test]
fn what_was_sent_before_the_end_of_input_still_arrives() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("console");
    let (mut host, mut stdin) = Host::with_stdin_and_socket(&path);
    let bytes = vec![b'x'; 30_000];
    stdin.write_all(&bytes).unwrap();
    drop(stdin);
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(&bytes).unwrap();
    drop(client);
    let mut count = 0;
    loop {
        host.run();
        let part = host.guest_reads(64);
        if part.is_empty() {
            break;
        }
        count += part.len();
    }
    assert_eq!(count, 60_000);
}

#[test]
fn a_client_that_only_listens_on_stays_and_one_that_leaves_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("console");
    let mut host = Host::with_socket(&path);
    let client = host.client(&path);
    client.shutdown(std::net::Shutdown::Write).unwrap();
    host.run();
    host.guest_writes(b"one");
    host.run();
    assert_eq!(read_available(&client), b"one");
    drop(client);
    host.run();
    host.guest_writes(b"two");
    host.run();
    assert_eq!(read_available(&host.client(&path)), b"onetwo");
}

#[test]
fn a_client_that_does_not_read_loses_output_and_is_told_and_nobody_waits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("console");
    let mut host = Host::with_socket(&path);
    let slow = host.client(&path);
    let quick = host.client(&path);
    let mut quick_count = 0;
    for _ in 0..64 {
        host.guest_writes(&[b'o'; 32 << 10]);
        host.run();
        quick_count += read_available(&quick).len();
    }
    host.guest_writes(b"the end");
    host.run();
    quick_count += read_available(&quick).len();
    assert_eq!(quick_count, (2 << 20) + 7);
    let mut seen = Vec::new();
    loop {
        let part = read_available(&slow);
        if part.is_empty() {
            break;
        }
        seen.extend(part);
        host.run();
    }
    assert!(seen.ends_with(b"the end"));
    assert!(seen.len() < 2 << 20);
    let text = String::from_utf8(seen).unwrap();
    let skipped: u64 = text
        .split("[nvvmm: ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let note = format!("\r\n[nvvmm: {skipped} B of console output skipped]\r\n");
    assert_eq!(skipped + (text.len() - note.len()) as u64, (2 << 20) + 7);
}

#[test]
fn a_client_too_many_is_turned_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("console");
    let mut host = Host::with_socket(&path);
    let clients: Vec<_> = (0..17).map(|_| host.client(&path)).collect();
    host.guest_writes(b"hi");
    host.run();
    assert_eq!(read_available(&clients[15]), b"hi");
    assert!(read_available(&clients[16]).is_empty());
}

#[test]
fn standard_output_that_nobody_reads_does_not_stop_the_guest() {
    let (mut stdout, write_end) = pipe().unwrap();
    let mut host = Host::new(ConsoleStreams {
        output: Some(file(write_end)),
        ..ConsoleStreams::default()
    });
    host.guest_writes(&vec![b'a'; 200 << 10]);
    host.run();
    let mut seen = 0;
    while seen < 200 << 10 {
        seen += read_exactly(&mut stdout, 4096).len();
        host.run();
    }
    drop(stdout);
    host.run();
    host.guest_writes(b"into the void");
    host.run();
}

#[test]
fn regular_files_serve_as_input_and_output() {
    let directory = tempfile::tempdir().unwrap();
    let (input, output) = (directory.path().join("in"), directory.path().join("out"));
    let typed: Vec<u8> = (0..10_000_u32).map(|byte| byte as u8).collect();
    std::fs::write(&input, &typed).unwrap();
    let mut host = Host::new(ConsoleStreams {
        input: Some(File::open(&input).unwrap()),
        output: Some(File::create(&output).unwrap()),
        ..ConsoleStreams::default()
    });
    let mut received = Vec::new();
    while received.len() < typed.len() {
        host.run();
        let part = host.guest_reads(64);
        assert!(
            !part.is_empty(),
            "input stopped after {} bytes",
            received.len()
        );
        received.extend(part);
    }
    assert_eq!(received, typed);
    host.guest_writes(b"last words");
    // No turn of the event loop: the process is about to end.
    host.console.lock().unwrap().finish();
    assert_eq!(std::fs::read(&output).unwrap(), b"last words");
}

#[test]
fn a_dead_socket_file_is_replaced_and_a_live_one_or_another_file_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("console");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "the listener is gone, its file is not");
    let socket = HostSocket::bind(&path).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777,
        0o600
    );
    assert_eq!(
        HostSocket::bind(&path).err().unwrap().kind(),
        std::io::ErrorKind::AddrInUse
    );
    drop(socket);
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert!(HostSocket::bind(&path).is_err());
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[test]
fn a_backlog_keeps_the_latest_and_counts_the_rest() {
    let mut backlog = Backlog::new(8);
    assert!(backlog.is_empty());
    backlog.push(b"01234567");
    assert_eq!(backlog.write_some(&mut &mut [0; 3][..], 8).unwrap(), 3);
    backlog.push(b"89a");
    assert_eq!(backlog.take(), b"3456789a");
    backlog.push(b"0123456789");
    backlog.push(b"ab");
    assert_eq!(
        backlog.take(),
        b"\r\n[nvvmm: 4 B of console output skipped]\r\n456789ab"
    );
    assert!(backlog.is_empty());
    backlog.push(b"0123");
    let mut written = Vec::new();
    assert_eq!(backlog.write_some(&mut written, 3).unwrap(), 3);
    assert_eq!(backlog.write_some(&mut written, 3).unwrap(), 1);
    assert_eq!(backlog.write_some(&mut written, 3).unwrap(), 0);
    assert_eq!(written, b"0123");
}
