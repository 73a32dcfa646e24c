use std::io::{ErrorKind, Read, Write};
use std::num::NonZeroU64;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::Duration;

use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INTERRUPT_ACK,
    VIRTIO_MMIO_INTERRUPT_STATUS,
};
use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_ANNOUNCE, VIRTIO_NET_S_LINK_UP,
};

use super::*;
use crate::virtio::test_driver::*;
use crate::{BusDevice, Device};

const RECEIVE: usize = 0;
const SEND: usize = 1;
const CONTROL: usize = 2;
const UP: u16 = VIRTIO_NET_S_LINK_UP as u16;
const MERGED: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF
    | 1 << VIRTIO_NET_F_STATUS
    | 1 << VIRTIO_NET_F_CTRL_VQ
    | 1 << VIRTIO_NET_F_GUEST_ANNOUNCE;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

fn options() -> NetOptions {
    NetOptions {
        mac: MAC,
        mtu: 65520,
        pairs: 1,
        ..NetOptions::default()
    }
}

fn card_with(options: NetOptions) -> (Box<Net>, UnixStream, Arc<NetPort>) {
    let (own, peer) = UnixStream::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    let backend = StreamBackend::new("test", own).unwrap();
    let port = Arc::new(NetPort::new(Box::new(backend)));
    let net = Net::new(Arc::clone(&port), options).unwrap();
    (Box::new(net), peer, port)
}

fn started(features: u64) -> (Driver, UnixStream, Arc<NetPort>) {
    let (net, peer, port) = card_with(options());
    let mut driver = Driver::new(net);
    driver.start_queues(features, 3);
    (driver, peer, port)
}

/// An Ethernet frame of a kind that is not IP.
fn frame(length: usize, fill: u8) -> Vec<u8> {
    let mut frame = vec![fill; length];
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

fn give(peer: &mut UnixStream, frame: &[u8]) {
    peer.write_all(&(frame.len() as u32).to_be_bytes()).unwrap();
    peer.write_all(frame).unwrap();
}

/// Whole frames that the card has sent so far.
fn sent(peer: &mut UnixStream, kept: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let mut bytes = [0; 4096];
    while let Ok(read) = peer.read(&mut bytes) {
        if read == 0 {
            break;
        }
        kept.extend_from_slice(&bytes[..read]);
    }
    let mut frames = Vec::new();
    while let Some(length) = kept.first_chunk::<4>() {
        let end = 4 + u32::from_be_bytes(*length) as usize;
        if kept.len() < end {
            break;
        }
        frames.push(kept[4..end].to_vec());
        kept.drain(..end);
    }
    frames
}

fn send(driver: &mut Driver, frame: &[u8]) {
    driver.store(BUFFERS, &[0; HEADER_BYTES]);
    driver.store(BUFFERS + HEADER_BYTES as u64, frame);
    let length = (HEADER_BYTES + frame.len()) as u32;
    driver.on(SEND).submit(&[(BUFFERS, length, false)]);
    driver.notify();
    driver.run_events();
}

fn status(driver: &mut Driver) -> u16 {
    let mut status = [0; 2];
    driver
        .transport
        .read(u64::from(VIRTIO_MMIO_CONFIG) + 6, &mut status);
    u16::from_le_bytes(status)
}

/// True, once, after the driver was told of a change of the configuration.
fn was_told(driver: &mut Driver) -> bool {
    let told = driver.read(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG != 0;
    driver.write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_CONFIG);
    told
}

fn wait_for(driver: &mut Driver, mut done: impl FnMut(&mut Driver) -> bool) {
    for _ in 0..500 {
        driver.run_events();
        if done(driver) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it does not come");
}

fn command(driver: &mut Driver, bytes: &[u8]) -> u8 {
    driver.store(BUFFERS, bytes);
    driver.store(BUFFERS + 0x100, &[0xee]);
    let buffers = [
        (BUFFERS, bytes.len() as u32, false),
        (BUFFERS + 0x100, 1, true),
    ];
    assert_eq!(driver.on(CONTROL).request(&buffers), 1);
    driver.load(BUFFERS + 0x100, 1)[0]
}

#[test]
fn a_card_at_a_stream_has_no_offloads() {
    let (mut driver, ..) = started(MERGED);
    let offered = driver.offered_features();
    assert_eq!(offered & MERGED, MERGED);
    assert_eq!(offered & 1 << VIRTIO_NET_F_CSUM, 0);
    let mut fields = [0; 12];
    driver
        .transport
        .read(u64::from(VIRTIO_MMIO_CONFIG), &mut fields);
    assert_eq!(fields, config::fields(MAC, UP, 1, 65520));
}

#[test]
fn frames_go_out_in_order_with_their_length_before_them() {
    let (mut driver, mut peer, port) = started(MERGED);
    let mut kept = Vec::new();
    for length in [14, 60, 1500] {
        send(&mut driver, &frame(length, length as u8));
    }
    let lengths = [14, 60, 1500].map(|length| frame(length, length as u8));
    assert_eq!(sent(&mut peer, &mut kept), lengths);
    assert_eq!(port.counters.sent_frames.load(Ordering::Relaxed), 3);
    assert_eq!(driver.on(SEND).finished().len(), 3);
}

#[test]
fn a_frame_in_several_buffers_is_seen_at_once() {
    let (mut driver, mut peer, port) = started(MERGED);
    let whole = frame(2500, 3);
    give(&mut peer, &whole);
    driver.on(RECEIVE).submit(&[(BUFFERS, 1000, true)]);
    driver.submit(&[(BUFFERS + 0x1000, 1000, true)]);
    driver.notify();
    driver.run_events();
    assert_eq!(driver.finished(), [], "the third buffer is missing");
    driver.submit(&[(BUFFERS + 0x2000, 1000, true)]);
    driver.notify();
    driver.run_events();
    let written: Vec<u32> = { driver.finished().into_iter() }
        .map(|(_, len)| len)
        .collect();
    assert_eq!(written, [1000, 1000, 512]);
    let header = driver.load(BUFFERS, HEADER_BYTES);
    assert_eq!(header[10..12], 3_u16.to_le_bytes());
    let mut got = driver.load(BUFFERS + HEADER_BYTES as u64, 988);
    got.extend(driver.load(BUFFERS + 0x1000, 1000));
    got.extend(driver.load(BUFFERS + 0x2000, 512));
    assert_eq!(got, whole);
    assert_eq!(port.counters.received_bytes.load(Ordering::Relaxed), 2500);
}

#[test]
fn a_frame_that_the_whole_ring_has_no_room_for_is_dropped() {
    let (mut driver, mut peer, port) = started(MERGED);
    give(&mut peer, &frame(2000, 1));
    give(&mut peer, &frame(60, 2));
    driver.on(RECEIVE);
    for _ in 0..64 {
        driver.submit(&[(BUFFERS, 20, true)]);
    }
    driver.notify();
    driver.run_events();
    assert_eq!(port.counters.dropped_frames.load(Ordering::Relaxed), 1);
    assert_eq!(port.counters.received_frames.load(Ordering::Relaxed), 1);
    assert_eq!(driver.finished().len(), 4, "72 bytes in buffers of 20");
}

#[test]
fn without_merged_buffers_a_frame_that_does_not_fit_is_dropped() {
    let (mut driver, mut peer, port) = started(1 << VIRTIO_NET_F_STATUS);
    give(&mut peer, &frame(2000, 1));
    give(&mut peer, &frame(60, 2));
    driver.on(RECEIVE).submit(&[(BUFFERS, 1000, true)]);
    driver.notify();
    driver.run_events();
    assert_eq!(driver.finished(), [(0, 72)]);
    assert_eq!(driver.load(BUFFERS + 12, 60), frame(60, 2));
    assert_eq!(port.counters.dropped_frames.load(Ordering::Relaxed), 1);
}

#[test]
fn frames_wait_in_the_ring_while_the_other_side_reads_nothing() {
    let (mut driver, mut peer, _port) = started(MERGED);
    let mut kept = Vec::new();
    let mut count = 0;
    while driver.on(SEND).finished().len() == usize::from(count > 0) {
        count += 1;
        send(&mut driver, &frame(60000, count));
        assert!(count < 200, "the stream has no end");
    }
    let mut frames = Vec::new();
    wait_for(&mut driver, |_| {
        frames.extend(sent(&mut peer, &mut kept));
        frames.len() == usize::from(count)
    });
    // A frame is read when it is sent: the last one was the one in memory then.
    assert!(
        frames
            .iter()
            .zip(1..)
            .all(|(got, at)| *got == frame(60000, at))
    );
}

#[test]
fn rubbish_of_the_guest_is_dropped_or_has_the_device_reset() {
    for (buffers, resets) in [
        (vec![(BUFFERS, 4, false)], false),
        (vec![(BUFFERS, 25, false)], false),
        (vec![(BUFFERS, 0x20000, false)], false),
        (
            vec![(BUFFERS, u32::MAX, false), (BUFFERS, u32::MAX, false)],
            true,
        ),
        (vec![(BUFFERS, 100, false), (BUFFERS, 8, true)], true),
        (vec![(BUFFERS, 100, true)], true),
        (vec![(0x20_0000, 100, false)], true),
    ] {
        let (mut driver, mut peer, port) = started(MERGED);
        driver.on(SEND).submit(&buffers);
        driver.notify();
        driver.run_events();
        assert_eq!(driver.needs_reset(), resets, "{buffers:?}");
        assert_eq!(sent(&mut peer, &mut Vec::new()), Vec::<Vec<u8>>::new());
        let dropped = port.counters.dropped_frames.load(Ordering::Relaxed);
        assert_eq!(dropped, u64::from(!resets), "{buffers:?}");
    }
}

#[test]
fn a_header_that_asks_for_what_was_not_offered_is_dropped() {
    let (mut driver, mut peer, port) = started(MERGED);
    for header in [[1, 0], [0, 1], [0, 4], [0, 3], [0, 99]] {
        driver.store(BUFFERS, &[0; 100]);
        driver.store(BUFFERS, &header);
        driver.on(SEND).request(&[(BUFFERS, 100, false)]);
    }
    assert_eq!(port.counters.dropped_frames.load(Ordering::Relaxed), 5);
    assert_eq!(sent(&mut peer, &mut Vec::new()), Vec::<Vec<u8>>::new());
}

#[test]
fn receive_buffers_that_are_none_have_the_device_reset() {
    for buffers in [
        vec![(BUFFERS, 100, false)],
        vec![(BUFFERS, 11, true)],
        vec![(0x20_0000, 100, true)],
    ] {
        let (mut driver, mut peer, _port) = started(MERGED);
        give(&mut peer, &frame(60, 1));
        driver.on(RECEIVE).submit(&buffers);
        driver.notify();
        driver.run_events();
        assert!(driver.needs_reset(), "{buffers:?}");
    }
}

#[test]
fn unknown_commands_are_answered_ok_and_malformed_ones_have_the_device_reset() {
    let (mut driver, ..) = started(MERGED);
    assert_eq!(command(&mut driver, &[0, 0, 1]), 0);
    assert_eq!(command(&mut driver, &[77, 3]), 0);
    assert_eq!(
        command(&mut driver, &[VIRTIO_NET_CTRL_ANNOUNCE as u8, 0]),
        0
    );
    // One pair is all there is.
    assert_eq!(
        command(&mut driver, &[VIRTIO_NET_CTRL_MQ as u8, 0, 1, 0]),
        0
    );
    assert_eq!(
        command(&mut driver, &[VIRTIO_NET_CTRL_MQ as u8, 0, 2, 0]),
        1
    );
    assert_eq!(
        command(&mut driver, &[VIRTIO_NET_CTRL_MQ as u8, 0, 0, 0]),
        1
    );
    driver
        .on(CONTROL)
        .submit(&[(BUFFERS, 1, false), (BUFFERS, 1, true)]);
    driver.notify();
    driver.run_events();
    assert!(driver.needs_reset());
}

#[test]
fn a_restored_card_takes_its_link_down_and_up_and_has_the_driver_announce_itself() {
    let (mut original, ..) = started(MERGED);
    assert!(!was_told(&mut original));
    let saved = original.save_paused();
    let (net, mut peer, port) = card_with(NetOptions {
        mac: [2; 6],
        ..options()
    });
    let mut copy = original.restore_copy(net, &saved).unwrap();
    assert!(!was_told(&mut copy), "it is still paused");
    copy.transport.resume().unwrap();
    copy.run_events();
    assert!(was_told(&mut copy));
    send(&mut copy, &frame(60, 1));
    assert_eq!(port.counters.dropped_frames.load(Ordering::Relaxed), 1);
    assert_eq!(status(&mut copy), 0);
    wait_for(&mut copy, was_told);
    assert_eq!(status(&mut copy), UP | VIRTIO_NET_S_ANNOUNCE as u16);
    assert_eq!(command(&mut copy, &[VIRTIO_NET_CTRL_ANNOUNCE as u8, 0]), 0);
    assert_eq!(status(&mut copy), UP);
    let mut mac = [0; 6];
    copy.transport.read(u64::from(VIRTIO_MMIO_CONFIG), &mut mac);
    assert_eq!(mac, MAC, "the guest knows this one");
    copy.on(SEND).finished();
    send(&mut copy, &frame(60, 9));
    assert_eq!(sent(&mut peer, &mut Vec::new()), [frame(60, 9)]);
}

#[test]
fn a_card_whose_driver_looks_at_nothing_comes_up_all_the_same() {
    let (mut original, ..) = started(MERGED);
    let saved = original.save_paused();
    let (net, mut peer, _port) = card_with(options());
    let mut copy = original.restore_copy(net, &saved).unwrap();
    copy.transport.resume().unwrap();
    give(&mut peer, &frame(60, 4));
    copy.on(RECEIVE).submit(&[(BUFFERS, 1600, true)]);
    copy.notify();
    copy.run_events();
    assert_eq!(copy.on(RECEIVE).finished(), []);
    wait_for(&mut copy, |copy| !copy.on(RECEIVE).finished().is_empty());
    assert_eq!(copy.load(BUFFERS + 12, 60), frame(60, 4));
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let (mut original, ..) = started(MERGED);
    let saved = original.save_paused();
    struct Narrow;
    impl NetBackend for Narrow {
        fn name(&self) -> String {
            "tap narrow0".to_owned()
        }
        fn mtu(&self) -> Option<u16> {
            Some(1500)
        }
        fn fd(&self, _pair: usize) -> Option<RawFd> {
            None
        }
        fn send(&mut self, _pair: usize, _packet: &[u8]) -> io::Result<()> {
            Ok(())
        }
        fn receive(&mut self, _pair: usize, _packet: &mut Vec<u8>) -> io::Result<()> {
            Err(ErrorKind::WouldBlock.into())
        }
    }
    let port = Arc::new(NetPort::new(Box::new(Narrow)));
    let net = Box::new(Net::new(port, options()).unwrap());
    let refused = original.restore_copy(net, &saved).err().unwrap();
    assert!(
        refused.to_string().contains("tap narrow0 carries 1500 B"),
        "{refused}"
    );
}

#[test]
fn the_link_goes_down_when_the_other_side_ends() {
    let (mut driver, mut peer, port) = started(MERGED);
    driver.on(RECEIVE).submit(&[(BUFFERS, 1600, true)]);
    driver.submit(&[(BUFFERS + 0x1000, 1600, true)]);
    driver.notify();
    driver.run_events();
    assert_eq!(status(&mut driver), UP);
    give(&mut peer, &frame(60, 8));
    drop(peer);
    driver.run_events();
    assert_eq!(
        driver.finished().len(),
        1,
        "what came before the end is there"
    );
    assert_eq!(status(&mut driver), 0);
    assert!(was_told(&mut driver));
    assert!(port.is_gone());
}

#[test]
fn a_peer_that_does_not_keep_to_the_protocol_is_as_good_as_gone() {
    let (mut driver, mut peer, port) = started(MERGED);
    peer.write_all(&[0xff; 64]).unwrap();
    driver.on(RECEIVE).submit(&[(BUFFERS, 1600, true)]);
    driver.notify();
    driver.run_events();
    assert!(port.is_gone());
    assert_eq!(status(&mut driver), 0);
}

#[test]
fn frames_to_denied_addresses_are_not_sent() {
    let (mut driver, mut peer, port) = started(MERGED);
    let mut packet = frame(60, 0);
    packet[12..14].copy_from_slice(&[8, 0]);
    packet[14] = 0x45;
    packet[30..34].copy_from_slice(&[169, 254, 169, 254]);
    send(&mut driver, &packet);
    packet[30..34].copy_from_slice(&[192, 0, 2, 1]);
    send(&mut driver, &packet);
    assert_eq!(sent(&mut peer, &mut Vec::new()), [packet]);
    assert_eq!(port.counters.denied_frames.load(Ordering::Relaxed), 1);
}

#[test]
fn a_limit_leaves_frames_in_the_ring_and_goes_on_by_itself() {
    let (net, mut peer, _port) = card_with(NetOptions {
        rate: NetRate {
            frames_per_s: NonZeroU64::new(20),
            ..NetRate::default()
        },
        ..options()
    });
    let mut driver = Driver::new(net);
    driver.start_queues(MERGED, 3);
    for _ in 0..21 {
        send(&mut driver, &frame(60, 5));
        give(&mut peer, &frame(60, 6));
    }
    let mut kept = Vec::new();
    assert_eq!(sent(&mut peer, &mut kept).len(), 20);
    driver.on(RECEIVE);
    for _ in 0..21 {
        driver.submit(&[(BUFFERS + 0x1000, 100, true)]);
    }
    driver.notify();
    driver.run_events();
    assert_eq!(driver.finished().len(), 20);
    wait_for(&mut driver, |_| !sent(&mut peer, &mut kept).is_empty());
    wait_for(&mut driver, |driver| {
        !driver.on(RECEIVE).finished().is_empty()
    });
}

#[test]
fn a_card_without_a_network_has_its_link_down_and_drops_frames() {
    let port = Arc::new(NetPort::new(Box::new(NoNetwork)));
    let net = Net::new(Arc::clone(&port), options()).unwrap();
    let mut driver = Driver::new(Box::new(net));
    driver.start_queues(MERGED, 3);
    assert_eq!(status(&mut driver), 0);
    send(&mut driver, &frame(60, 1));
    assert_eq!(port.counters.dropped_frames.load(Ordering::Relaxed), 1);
    assert!(!port.is_gone(), "there never was one");
}

#[test]
fn a_driver_that_begins_anew_finds_a_working_card() {
    let (mut driver, mut peer, _port) = started(MERGED);
    // A packet is half in the guest.
    give(&mut peer, &frame(2000, 1));
    driver.on(RECEIVE).submit(&[(BUFFERS, 1000, true)]);
    driver.notify();
    driver.run_events();
    driver.start_queues(MERGED, 3);
    give(&mut peer, &frame(60, 2));
    driver.on(RECEIVE).submit(&[(BUFFERS, 1000, true)]);
    driver.notify();
    driver.run_events();
    assert_eq!(driver.finished(), [(0, 72)]);
    send(&mut driver, &frame(60, 3));
    assert_eq!(sent(&mut peer, &mut Vec::new()), [frame(60, 3)]);
}

/// A peer that writes frames as fast as the stream takes them.
struct Flood {
    bytes: Vec<u8>,
    at: usize,
}

impl Flood {
    fn new() -> Self {
        let mut bytes = 1000_u32.to_be_bytes().to_vec();
        bytes.extend(frame(1000, 9));
        Self { bytes, at: 0 }
    }

    /// Writes until the stream is full. Gives the number of bytes.
    fn write(&mut self, peer: &mut UnixStream) -> usize {
        let mut written = 0;
        while let Ok(now) = peer.write(&self.bytes[self.at..]) {
            self.at = (self.at + now) % self.bytes.len();
            written += now;
        }
        written
    }
}

#[test]
fn a_flood_from_the_host_is_read_as_far_as_the_guest_has_buffers() {
    let (mut driver, mut peer, _port) = started(MERGED);
    let mut flood = Flood::new();
    driver.run_events();
    assert!(flood.write(&mut peer) > 0);
    let mut waiting = true;
    for _ in 0..20 {
        // Nobody looks at the stream: that takes neither time nor memory.
        assert!(waiting || driver.count_events() == 0);
        assert!(waiting || flood.write(&mut peer) == 0);
        driver.on(RECEIVE).submit(&[(BUFFERS, 1100, true)]);
        driver.notify();
        driver.run_events();
        assert_eq!(driver.finished().len(), 1);
        // What was read ahead, and no more. The card looks once more when it has no buffer.
        assert!(flood.write(&mut peer) <= 256 << 10);
        driver.run_events();
        flood.write(&mut peer);
        waiting = false;
    }
}

#[test]
fn a_flood_from_the_guest_waits_in_its_ring_and_takes_no_time() {
    let (mut driver, mut peer, port) = started(MERGED);
    let mut count: u64 = 0;
    // Until one stays in the ring.
    loop {
        send(&mut driver, &frame(60000, 1));
        count += 1;
        if driver.finished().is_empty() {
            break;
        }
        assert!(count < 200, "the stream has no end");
    }
    for _ in 0..1000 {
        driver.on(SEND).notify();
        assert!(driver.count_events() <= 1);
        assert!(driver.finished().is_empty());
    }
    // The stream has all that the card took, but for a part of one frame.
    let mut bytes = Vec::new();
    let whole = sent(&mut peer, &mut bytes).len() as u64;
    assert!(whole + 1 >= count - 1, "{whole} of {count}");
    assert_eq!(port.counters.dropped_frames.load(Ordering::Relaxed), 0);
}
