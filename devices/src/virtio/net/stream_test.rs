use super::*;
use crate::virtio::net::PACKET_BYTES_MAX;

#[test]
fn frames_are_put_together_from_whatever_parts_come() {
    let (own, mut peer) = UnixStream::pair().unwrap();
    let mut stream = StreamBackend::new("test", own).unwrap();
    let mut packet = Vec::new();
    let mut bytes = Vec::new();
    for length in [0, 1, 60, 1500] {
        bytes.extend(u32::to_be_bytes(length));
        bytes.extend(vec![length as u8; length as usize]);
    }
    let mut lengths = Vec::new();
    for byte in bytes {
        peer.write_all(&[byte]).unwrap();
        match stream.receive(0, &mut packet) {
            Ok(()) => lengths.push(packet.len() - HEADER_BYTES),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    assert_eq!(lengths, [0, 1, 60, 1500]);
    drop(peer);
    let ended = stream.receive(0, &mut packet).unwrap_err();
    assert_eq!(ended.kind(), ErrorKind::BrokenPipe);
}

#[test]
fn a_frame_that_is_partly_sent_is_sent_to_its_end_before_the_next() {
    let (own, mut peer) = UnixStream::pair().unwrap();
    peer.set_nonblocking(true).unwrap();
    let mut stream = StreamBackend::new("test", own).unwrap();
    let mut taken = 0_u32;
    let packet = |number: u32| {
        let mut packet = vec![0; PACKET_BYTES_MAX];
        packet[HEADER_BYTES..HEADER_BYTES + 4].copy_from_slice(&number.to_be_bytes());
        packet
    };
    while stream.send(0, &packet(taken)).is_ok() {
        taken += 1;
    }
    assert!(stream.unsent.len() <= LENGTH_BYTES + FRAME_BYTES_MAX);
    let mut bytes = Vec::new();
    while bytes.len() < taken as usize * (LENGTH_BYTES + FRAME_BYTES_MAX) {
        let mut part = vec![0; 5000];
        if let Ok(read) = peer.read(&mut part) {
            bytes.extend_from_slice(&part[..read]);
        }
        stream.flush(0).unwrap();
    }
    for (number, frame) in (0..taken).zip(bytes.chunks(LENGTH_BYTES + FRAME_BYTES_MAX)) {
        assert_eq!(frame[..4], (FRAME_BYTES_MAX as u32).to_be_bytes());
        assert_eq!(frame[4..8], number.to_be_bytes());
    }
}
