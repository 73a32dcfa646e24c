use std::time::Duration;

use super::*;
use crate::irq::CountingIrq;
use crate::sys::poll_ready;
use std::os::fd::AsRawFd;

const DATA: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
const SCR: u64 = 7;

fn port() -> (SerialPort, ConsoleOut, Arc<CountingIrq>) {
    let irq = Arc::new(CountingIrq::default());
    let output = ConsoleOut::new().unwrap();
    (
        SerialPort::new("com1", irq.clone(), output.clone()).unwrap(),
        output,
        irq,
    )
}

fn read(port: &mut SerialPort, offset: u64) -> u8 {
    let mut byte = [0];
    port.read(offset, &mut byte);
    byte[0]
}

fn has_room_signal(port: &SerialPort) -> bool {
    let room = port.input_room();
    let ready = poll_ready(room.as_raw_fd(), libc::POLLIN, Duration::ZERO).unwrap();
    if ready {
        room.read().unwrap();
    }
    ready
}

#[test]
fn what_the_guest_writes_is_output() {
    let (mut port, output, irq) = port();
    for byte in b"hello" {
        assert_ne!(
            read(&mut port, LSR) & 0x20,
            0,
            "the transmitter is always empty"
        );
        port.write(DATA, &[*byte]);
    }
    assert_eq!(output.scrollback(), b"hello");
    assert_eq!(irq.raised(), 0);
    port.write(IER, &[2]);
    assert_eq!(irq.raised(), 1, "empty transmitter");
}

#[test]
fn input_is_taken_as_the_fifo_has_room() {
    let (mut port, _, irq) = port();
    port.write(IER, &[1]);
    let input: Vec<u8> = (0..100).collect();
    assert_eq!(port.enqueue_input(&input), 64);
    assert_eq!(irq.raised(), 1);
    assert_eq!(port.enqueue_input(&input[64..]), 0);
    assert!(!has_room_signal(&port));
    for expected in 0..64 {
        assert_eq!(read(&mut port, LSR) & 1, 1);
        assert_eq!(read(&mut port, DATA), expected);
    }
    assert_eq!(read(&mut port, LSR) & 1, 0);
    assert!(has_room_signal(&port));
    assert_eq!(port.enqueue_input(&input[64..]), 36);
    assert_eq!(irq.raised(), 2);
    assert_eq!(read(&mut port, DATA), 64);
}

#[test]
fn input_waits_during_loop_back() {
    let (mut port, output, _) = port();
    port.write(MCR, &[0x10]);
    assert!(has_room_signal(&port));
    assert_eq!(port.enqueue_input(b"x"), 0);
    port.write(DATA, b"y");
    assert_eq!(read(&mut port, DATA), b'y');
    assert!(output.scrollback().is_empty());
    has_room_signal(&port);
    port.write(MCR, &[0x08]);
    assert!(has_room_signal(&port));
    assert_eq!(port.enqueue_input(b"x"), 1);
}

#[test]
fn wide_accesses_see_one_register() {
    let (mut port, _, _) = port();
    port.write(SCR, &[0x42, 0x43]);
    let mut bytes = [0; 2];
    port.read(SCR, &mut bytes);
    assert_eq!(bytes, [0x42, 0xff]);
    port.read(0x1_0000, &mut bytes);
    assert_eq!(bytes, [0xff, 0xff]);
    port.write(SCR, &[]);
    port.read(SCR, &mut []);
}

#[test]
fn state_comes_back_and_the_pending_interrupt_with_it() {
    let (mut original, _, irq) = port();
    original.write(LCR, &[0x80]);
    original.write(DATA, &[1]);
    original.write(IER, &[0]);
    original.write(LCR, &[0x03]);
    original.write(IER, &[1]);
    original.write(SCR, &[0x5a]);
    assert_eq!(original.enqueue_input(b"ab"), 2);
    assert!(matches!(
        original.save(),
        Err(LifecycleError::NotPaused { .. })
    ));
    original.pause().unwrap();
    assert_eq!(
        original.enqueue_input(b"c"),
        0,
        "a paused port takes no input"
    );
    let saved = original.save().unwrap();
    assert_eq!(
        saved.payload,
        [1, 0, 1, 4, 3, 0x61, 8, 0xb0, 0x5a, 2, b'a', b'b']
    );
    original.resume().unwrap();
    assert_eq!(irq.raised(), 2);

    let (mut copy, _, irq) = port();
    copy.restore(&saved).unwrap();
    assert_eq!(irq.raised(), 0);
    assert_eq!(copy.save().unwrap(), saved);
    has_room_signal(&copy);
    copy.resume().unwrap();
    assert_eq!(irq.raised(), 1);
    assert!(has_room_signal(&copy));
    assert_eq!(read(&mut copy, IIR) & 0xf, 4);
    assert_eq!(read(&mut copy, DATA), b'a');
    assert_eq!(read(&mut copy, DATA), b'b');
    assert_eq!(read(&mut copy, SCR), 0x5a);
    copy.pause().unwrap();
    copy.resume().unwrap();
    assert_eq!(irq.raised(), 1, "nothing is pending any more");
    has_room_signal(&copy);
    copy.pause().unwrap();
    copy.resume().unwrap();
    assert!(!has_room_signal(&copy), "no input was refused");
    copy.pause().unwrap();
    copy.enqueue_input(b"c");
    copy.resume().unwrap();
    assert!(has_room_signal(&copy));
}

#[test]
fn a_state_with_an_impossible_fifo_is_refused() {
    let (mut port, _, _) = port();
    port.pause().unwrap();
    let mut state: SerialStateV1 = port.save().unwrap().decode(KIND, VERSION, "com1").unwrap();
    state.in_buffer = vec![0; 65];
    let saved = SavedDevice::encode(KIND, VERSION, "com1", &state).unwrap();
    let error = port.restore(&saved).unwrap_err().to_string();
    assert!(error.contains("65 bytes"), "{error}");
}
