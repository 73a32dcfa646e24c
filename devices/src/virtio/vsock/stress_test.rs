//! A guest that reacts to interrupts alone, as Linux does, while its device is paused and saved
//! again and again: each program on the host that asks for a stream is answered.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS};
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use zerocopy::{FromBytes, IntoBytes};

use super::packet::*;
use super::test_guest::*;
use super::{GUEST_CID, RECEIVE, TRANSMIT};
use crate::Device;
use crate::virtio::test_driver::*;

/// Only a stream that is not answered takes so long.
const PATIENCE: Duration = Duration::from_secs(60);
const CLIENTS: usize = 4;
const STREAMS: usize = 60;
/// Descriptors of a queue, and packets that are in the transmit queue at a time: of two each.
const QUEUE: u16 = 64;
const SENT_MAX: usize = 24;
/// Distance of the rings of two queues, and of two packets that are sent.
const QUEUE_DISTANCE: u64 = 0x4000;
const SLOT_BYTES: u64 = 0x1000;

/// The guest's driver, with a program that sends back what it hears.
struct Echo {
    guest: Guest,
    /// Interrupts that were taken.
    taken: u64,
    /// Requests that were made available, and used ones that were seen, of each queue.
    made: [u16; 3],
    seen: [u16; 3],
    in_flight: usize,
    slot: u64,
    to_send: VecDeque<(Header, Vec<u8>)>,
}

impl Echo {
    /// With all buffers for receiving made available.
    fn new() -> Self {
        let mut guest = Guest::new();
        guest.driver.start_queues(1 << VIRTIO_RING_F_EVENT_IDX, 3);
        let mut echo = Self {
            guest,
            taken: 0,
            made: [0; 3],
            seen: [0; 3],
            in_flight: 0,
            slot: 0,
            to_send: VecDeque::new(),
        };
        for _ in 0..16 {
            echo.give_buffer();
        }
        echo.guest.driver.on(RECEIVE).notify();
        echo
    }

    fn give_buffer(&mut self) {
        let driver = self.guest.driver.on(RECEIVE);
        let address = BUFFERS + u64::from(driver.next_head()) * SLOT_BYTES;
        driver.submit(&[(address, SLOT_BYTES as u32, true)]);
        self.made[RECEIVE] = self.made[RECEIVE].wrapping_add(1);
    }

    /// Tells the device of what was made available since `before`, if it wants to know: by
    /// `avail_event`, which is behind the used ring.
    fn kick(&mut self, queue: usize, before: u16) {
        let at = USED_RING + queue as u64 * QUEUE_DISTANCE + 4 + u64::from(QUEUE) * 8;
        let event = self.guest.driver.load(at, 2);
        let event = u16::from_le_bytes([event[0], event[1]]);
        let now = self.made[queue];
        if now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before) {
            self.guest.driver.on(queue).notify();
        }
    }

    /// Takes an interrupt, if there is one.
    fn run(&mut self) {
        let raised = self.guest.driver.irq.raised();
        if raised == self.taken {
            return;
        }
        self.taken = raised;
        let causes = self.guest.driver.read(VIRTIO_MMIO_INTERRUPT_STATUS);
        self.guest.driver.write(VIRTIO_MMIO_INTERRUPT_ACK, causes);
        if causes == 0 {
            return;
        }
        loop {
            let (received, sent) = (self.finished(RECEIVE), self.finished(TRANSMIT));
            if received.is_empty() && sent.is_empty() {
                return;
            }
            self.in_flight -= sent.len();
            let before = self.made[RECEIVE];
            for (head, len) in &received {
                self.hear(u64::from(*head), *len as usize);
                self.give_buffer();
            }
            self.kick(RECEIVE, before);
            self.send();
        }
    }

    /// Takes what the device has finished of a queue. It is to interrupt at the next one.
    fn finished(&mut self, queue: usize) -> Vec<(u32, u32)> {
        let finished = self.guest.driver.on(queue).finished();
        self.seen[queue] = self.seen[queue].wrapping_add(finished.len() as u16);
        self.guest.driver.on(queue).set_used_event(self.seen[queue]);
        finished
    }

    fn hear(&mut self, head: u64, len: usize) {
        let bytes = self.guest.driver.load(BUFFERS + head * SLOT_BYTES, len);
        let (header, payload) = Header::read_from_prefix(&bytes).unwrap();
        let ports = Ports {
            host: header.src_port.get(),
            guest: header.dst_port.get(),
        };
        assert_eq!(header.dst_cid.get(), GUEST_CID);
        let (answer, payload) = match header.op.get() {
            OP_REQUEST => (packet(ports, OP_RESPONSE, 0), Vec::new()),
            OP_RW => {
                let len = payload.len() as u32;
                (packet(ports, OP_RW, len), payload.to_vec())
            }
            OP_SHUTDOWN => (header.reset_of(), Vec::new()),
            _ => return,
        };
        self.to_send.push_back((answer, payload));
    }

    fn send(&mut self) {
        let before = self.made[TRANSMIT];
        while self.in_flight < SENT_MAX
            && let Some((header, payload)) = self.to_send.pop_front()
        {
            let at = HIGH_REGION + self.slot * SLOT_BYTES;
            self.slot = (self.slot + 1) % u64::from(QUEUE);
            let driver = self.guest.driver.on(TRANSMIT);
            driver.store(at, header.as_bytes());
            driver.store(at + 0x100, &payload);
            let mut buffers = vec![(at, HEADER_BYTES as u32, false)];
            if !payload.is_empty() {
                buffers.push((at + 0x100, payload.len() as u32, false));
            }
            driver.submit(&buffers);
            self.made[TRANSMIT] = self.made[TRANSMIT].wrapping_add(1);
            self.in_flight += 1;
        }
        self.kick(TRANSMIT, before);
    }
}

/// Asks for a stream, and hears back what it says. Some go away early.
fn client(path: &Path, number: usize) {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("CONNECT {GUEST_PORT}\n");
    stream.write_all(request.as_bytes()).unwrap();
    if number % 7 == 3 {
        return;
    }
    let word = (number as u64).to_be_bytes();
    stream.write_all(&word).unwrap();
    let mut read = |bytes: &mut [u8]| {
        let read = stream.read_exact(bytes);
        read.unwrap_or_else(|error| panic!("stream {number} is not answered: {error}"));
    };
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        read(&mut byte);
        line.extend(byte);
    }
    assert!(line.starts_with(b"OK "), "{line:?}");
    let mut heard = [0; 8];
    read(&mut heard);
    assert_eq!(heard, word);
}

#[test]
fn every_stream_is_answered_while_the_device_is_saved_again_and_again() {
    let echo = Echo::new();
    let path = echo.guest.socket();
    let mut events: EventManager<Box<dyn MutEventSubscriber + Send>> = EventManager::new().unwrap();
    events.add_subscriber(Box::new(echo.guest.driver.transport.subscriber()));
    let echo = Mutex::new(echo);
    let lock = || echo.lock().unwrap_or_else(PoisonError::into_inner);
    let (over, snapshots) = (AtomicBool::new(false), AtomicUsize::new(0));
    let is_over = || over.load(Ordering::SeqCst);
    thread::scope(|scope| {
        scope.spawn(move || {
            while !is_over() {
                events.run_with_timeout(1).unwrap();
            }
        });
        // The vCPU, which stands still while the machine is saved.
        scope.spawn(|| {
            while !is_over() {
                lock().run();
                thread::sleep(Duration::from_micros(50));
            }
        });
        scope.spawn(|| {
            while !is_over() {
                thread::sleep(Duration::from_micros(300));
                let mut held = lock();
                held.guest.driver.save_paused();
                thread::sleep(Duration::from_micros(300));
                held.guest.driver.transport.resume().unwrap();
                snapshots.fetch_add(1, Ordering::SeqCst);
            }
        });
        let path = path.as_path();
        let of_client = |of: usize| of * STREAMS..(of + 1) * STREAMS;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|of| scope.spawn(move || of_client(of).for_each(|number| client(path, number))))
            .collect();
        let ended: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        over.store(true, Ordering::SeqCst);
        assert!(ended.iter().all(Result::is_ok), "a stream was not answered");
    });
    assert!(snapshots.load(Ordering::SeqCst) > 10);
}
