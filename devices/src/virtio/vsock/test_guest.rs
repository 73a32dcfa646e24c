//! A guest with a vsock driver, and programs on the host beside it.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;
use zerocopy::{FromBytes, IntoBytes};

use super::packet::*;
use super::{EVENT, GUEST_CID, RECEIVE, TRANSMIT, Vsock};
use crate::HostSocket;
use crate::virtio::test_driver::*;

/// Room of each buffer for what the guest receives.
const BUFFER_BYTES: u32 = 0x1000;
/// Addresses of the guest's packets and of its buffers for events.
const SENT: u64 = HIGH_REGION;
const EVENTS: u64 = HIGH_REGION + 0x8_0000;
/// A port of a program in the guest.
pub(super) const GUEST_PORT: u32 = 1024;
/// Bytes that a program in the guest can take of its stream.
pub(super) const GUEST_CREDIT: u32 = 1 << 20;

pub(super) struct Guest {
    pub(super) driver: Driver,
    dir: Arc<TempDir>,
}

impl Guest {
    pub(super) fn new() -> Self {
        let dir = Arc::new(TempDir::new().unwrap());
        let mut driver = Driver::new(device(&dir));
        driver.start_queues(0, 3);
        let mut guest = Self { driver, dir };
        guest.want_events();
        guest.give_buffers(16);
        guest
    }

    /// One restored from `self` as it is now, still paused. Its socket is its own.
    pub(super) fn copy(&mut self) -> Self {
        let saved = self.driver.save_paused();
        let dir = Arc::new(TempDir::new().unwrap());
        let driver = self.driver.restore_copy(device(&dir), &saved).unwrap();
        Self { driver, dir }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.path().join("vm.vsock")
    }

    pub(super) fn give_buffers(&mut self, count: usize) {
        for _ in 0..count {
            let driver = self.driver.on(RECEIVE);
            let address = BUFFERS + u64::from(driver.next_head()) * u64::from(BUFFER_BYTES);
            driver.submit(&[(address, BUFFER_BYTES, true)]);
        }
        self.driver.on(RECEIVE).notify();
        self.driver.run_events();
    }

    pub(super) fn want_events(&mut self) {
        self.driver.on(EVENT).submit(&[(EVENTS, 4, true)]);
        self.driver.notify();
        self.driver.run_events();
    }

    /// Transport resets that the driver was told of since the last call.
    pub(super) fn resets(&mut self) -> usize {
        self.driver.run_events();
        let finished = self.driver.on(EVENT).finished();
        assert!(finished.iter().all(|(_, len)| *len == 4));
        assert_eq!(self.driver.load(EVENTS, 4), [0; 4]);
        finished.len()
    }

    /// Puts a packet into the transmit queue, in two buffers.
    pub(super) fn post(&mut self, header: &Header, payload: &[u8]) {
        self.driver.store(SENT, header.as_bytes());
        self.driver.store(SENT + 0x100, payload);
        let mut buffers = vec![(SENT, HEADER_BYTES as u32, false)];
        if !payload.is_empty() {
            buffers.push((SENT + 0x100, payload.len() as u32, false));
        }
        self.driver.on(TRANSMIT).submit(&buffers);
        self.driver.notify();
        self.driver.run_events();
    }

    /// Sends a packet, which is taken at once.
    pub(super) fn send(&mut self, header: &Header, payload: &[u8]) {
        self.post(header, payload);
        assert_eq!(self.driver.on(TRANSMIT).finished().len(), 1);
    }

    /// All that has come since the last call, with as many new buffers given.
    pub(super) fn received(&mut self) -> Vec<(Header, Vec<u8>)> {
        self.driver.run_events();
        let finished = self.driver.on(RECEIVE).finished();
        let packets = finished
            .iter()
            .map(|(head, len)| {
                let bytes = self.driver.load(
                    BUFFERS + u64::from(*head) * u64::from(BUFFER_BYTES),
                    *len as usize,
                );
                let (header, payload) = Header::read_from_prefix(&bytes).unwrap();
                assert_eq!(header.len.get() as usize, payload.len());
                assert_eq!(
                    (header.src_cid.get(), header.dst_cid.get()),
                    (HOST_CID, GUEST_CID)
                );
                (header, payload.to_vec())
            })
            .collect();
        if !finished.is_empty() {
            self.give_buffers(finished.len());
        }
        packets
    }

    /// The one packet that has come, which is of this kind.
    pub(super) fn received_one(&mut self, op: u16) -> (Header, Vec<u8>) {
        let mut packets = self.received();
        assert_eq!(packets.len(), 1, "{packets:?}");
        let packet = packets.remove(0);
        assert_eq!(packet.0.op.get(), op, "{packet:?}");
        packet
    }

    /// A program on the host says that it wants a stream.
    pub(super) fn client(&mut self, line: &str) -> UnixStream {
        let mut client = UnixStream::connect(self.socket()).unwrap();
        client.set_nonblocking(true).unwrap();
        client.write_all(line.as_bytes()).unwrap();
        self.driver.run_events();
        client
    }

    /// A stream that the host has asked for and that the guest has taken.
    pub(super) fn stream_from_host(&mut self) -> (UnixStream, Ports) {
        let mut client = self.client(&format!("CONNECT {GUEST_PORT}\n"));
        let (request, _) = self.received_one(OP_REQUEST);
        assert_eq!(request.dst_port.get(), GUEST_PORT);
        let ports = Ports {
            host: request.src_port.get(),
            guest: GUEST_PORT,
        };
        self.send(&packet(ports, OP_RESPONSE, 0), b"");
        assert_eq!(
            heard(&mut client),
            format!("OK {}\n", ports.host).as_bytes()
        );
        (client, ports)
    }

    /// Listens for streams of the guest to `port`.
    pub(super) fn listen(&self, port: u32) -> UnixListener {
        let listener =
            UnixListener::bind(self.dir.path().join(format!("vm.vsock_{port}"))).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }
}

fn device(dir: &TempDir) -> Box<Vsock> {
    let socket = HostSocket::bind(&dir.path().join("vm.vsock")).unwrap();
    Box::new(Vsock::new(Arc::new(socket)).unwrap())
}

/// The header of a packet of the guest with a payload of `len` bytes.
pub(super) fn packet(ports: Ports, op: u16, len: u32) -> Header {
    Header {
        src_cid: GUEST_CID.into(),
        dst_cid: HOST_CID.into(),
        src_port: ports.guest.into(),
        dst_port: ports.host.into(),
        len: len.into(),
        kind: TYPE_STREAM.into(),
        op: op.into(),
        flags: 0.into(),
        buf_alloc: GUEST_CREDIT.into(),
        fwd_cnt: 0.into(),
    }
}

pub(super) fn shutdown(ports: Ports, flags: u32) -> Header {
    Header {
        flags: flags.into(),
        ..packet(ports, OP_SHUTDOWN, 0)
    }
}

/// Bytes that a program on the host can read now.
pub(super) fn heard(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let error = stream.read_to_end(&mut bytes).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    bytes
}

/// Bytes that a program on the host can read, up to the end of the stream, which must have come.
pub(super) fn heard_to_end(stream: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Asserts that the device has closed the stream of a program on the host without a word.
pub(super) fn assert_turned_away(stream: &mut UnixStream) {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        // What the program has said was not heard to its end.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    assert_eq!(bytes, b"");
}
