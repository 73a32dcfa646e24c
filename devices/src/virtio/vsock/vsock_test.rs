use std::io::Write;
use std::net::Shutdown;

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_STATUS};

use super::connection::BUFFER_BYTES;
use super::packet::*;
use super::streams::{ANSWERS_MAX, SOCKETS_MAX};
use super::test_guest::*;
use super::*;
use crate::Device;
use crate::virtio::VirtioMmioStateV1;
use crate::virtio::test_driver::*;

const HOST_PORT: u32 = 1024;
const PORTS: Ports = Ports {
    host: HOST_PORT,
    guest: GUEST_PORT,
};

#[test]
fn the_configuration_space_tells_the_cid() {
    let mut guest = Guest::new();
    assert_eq!(guest.driver.read(VIRTIO_MMIO_CONFIG), GUEST_CID as u32);
    assert_eq!(guest.driver.read(VIRTIO_MMIO_CONFIG + 4), 0);
}

#[test]
fn a_program_on_the_host_gets_a_stream_to_a_port_of_the_guest() {
    let mut guest = Guest::new();
    let (mut client, ports) = guest.stream_from_host();
    client.write_all(b"hello").unwrap();
    let (header, payload) = guest.received_one(OP_RW);
    assert_eq!(payload, b"hello");
    assert_eq!(
        (header.src_port.get(), header.dst_port.get()),
        (ports.host, ports.guest)
    );
    assert_eq!(header.buf_alloc.get() as usize, BUFFER_BYTES);
    guest.send(&packet(ports, OP_RW, 5), b"world");
    assert_eq!(heard(&mut client), b"world");
    assert!(guest.received().is_empty());
}

#[test]
fn what_follows_the_first_line_belongs_to_the_stream() {
    let mut guest = Guest::new();
    let _client = guest.client(&format!("CONNECT {GUEST_PORT}\nearly"));
    let (request, _) = guest.received_one(OP_REQUEST);
    let ports = Ports {
        host: request.src_port.get(),
        guest: GUEST_PORT,
    };
    assert!(
        guest.received().is_empty(),
        "nothing before the guest has answered"
    );
    guest.send(&packet(ports, OP_RESPONSE, 0), b"");
    assert_eq!(guest.received_one(OP_RW).1, b"early");
}

#[test]
fn a_host_program_that_says_something_else_is_turned_away() {
    for line in [
        "GET / HTTP/1.1\n",
        "CONNECT\n",
        "CONNECT -1\n",
        "CONNECT 4294967296\n",
        "CONNECT 99999999999999999999999999",
    ] {
        let mut guest = Guest::new();
        let mut client = guest.client(line);
        assert_turned_away(&mut client);
        assert!(guest.received().is_empty());
    }
}

#[test]
fn a_host_program_is_turned_away_by_a_port_where_nobody_listens() {
    let mut guest = Guest::new();
    let mut client = guest.client("CONNECT 7\n");
    let (request, _) = guest.received_one(OP_REQUEST);
    guest.send(&request.reset_of(), b"");
    assert_eq!(heard_to_end(&mut client), b"");
    assert!(guest.received().is_empty(), "a reset is not answered");
}

#[test]
fn the_guest_gets_a_stream_to_a_socket_of_the_host() {
    let mut guest = Guest::new();
    let listener = guest.listen(HOST_PORT);
    guest.send(&packet(PORTS, OP_REQUEST, 0), b"");
    guest.received_one(OP_RESPONSE);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    guest.send(&packet(PORTS, OP_RW, 3), b"ask");
    assert_eq!(heard(&mut stream), b"ask");
    stream.write_all(b"answer").unwrap();
    assert_eq!(guest.received_one(OP_RW).1, b"answer");
    guest.send(&packet(PORTS, OP_REQUEST, 0), b"");
    guest.received_one(OP_RST);
    assert_eq!(
        heard_to_end(&mut stream),
        b"",
        "a second request breaks the stream"
    );
}

#[test]
fn the_guest_is_refused_where_nobody_listens() {
    let mut guest = Guest::new();
    guest.send(&packet(PORTS, OP_REQUEST, 0), b"");
    let (reset, _) = guest.received_one(OP_RST);
    assert_eq!(
        (reset.src_port.get(), reset.dst_port.get()),
        (HOST_PORT, GUEST_PORT)
    );
    drop(guest.listen(HOST_PORT));
    guest.send(&packet(PORTS, OP_REQUEST, 0), b"");
    guest.received_one(OP_RST);
}

#[test]
fn a_low_port_of_the_host_is_asked_for_from_a_low_port_of_the_guest_only() {
    let mut guest = Guest::new();
    let listener = guest.listen(512);
    let ask = |guest: &mut Guest, port| {
        let ports = Ports {
            host: 512,
            guest: port,
        };
        guest.send(&packet(ports, OP_REQUEST, 0), b"");
        ports
    };
    for unprivileged in [1024, 1025, 1 << 30, u32::MAX] {
        let ports = ask(&mut guest, unprivileged);
        let (reset, _) = guest.received_one(OP_RST);
        assert_eq!(
            (reset.src_port.get(), reset.dst_port.get()),
            (512, unprivileged)
        );
        guest.send(&packet(ports, OP_RW, 1), b"x");
        guest.received_one(OP_RST);
        assert!(listener.accept().is_err(), "nobody on the host hears of it");
    }
    let mut taken = Vec::new();
    for privileged in [0, 1023] {
        ask(&mut guest, privileged);
        guest.received_one(OP_RESPONSE);
        taken.push(listener.accept().unwrap());
    }
}

#[test]
fn each_direction_ends_by_itself() {
    let mut guest = Guest::new();
    let (mut client, ports) = guest.stream_from_host();
    client.write_all(b"last").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let packets = guest.received();
    assert_eq!(packets[0].1, b"last");
    assert_eq!(
        (packets[1].0.op.get(), packets[1].0.flags.get()),
        (OP_SHUTDOWN, SHUTDOWN_SEND)
    );
    guest.send(&packet(ports, OP_RW, 6), b"answer");
    assert_eq!(heard(&mut client), b"answer");
    guest.send(&shutdown(ports, SHUTDOWN_SEND | SHUTDOWN_RECEIVE), b"");
    guest.received_one(OP_RST);
    assert_eq!(heard_to_end(&mut client), b"");

    let (mut client, ports) = guest.stream_from_host();
    guest.send(&shutdown(ports, SHUTDOWN_SEND), b"");
    assert_eq!(heard_to_end(&mut client), b"");
    client.write_all(b"still").unwrap();
    assert_eq!(guest.received_one(OP_RW).1, b"still");
    guest.send(&packet(ports, OP_RW, 1), b"x");
    guest.received_one(OP_RST);
}

#[test]
fn what_a_host_program_has_sent_before_it_ended_arrives() {
    let mut guest = Guest::new();
    let (mut client, ports) = guest.stream_from_host();
    client.write_all(b"bye").unwrap();
    drop(client);
    guest.send(&packet(ports, OP_RW, 5), b"lost?");
    let packets = guest.received();
    assert_eq!(packets[0].1, b"bye");
    let both = SHUTDOWN_SEND | SHUTDOWN_RECEIVE;
    assert_eq!(
        (packets[1].0.op.get(), packets[1].0.flags.get()),
        (OP_SHUTDOWN, both)
    );
    assert_eq!(packets.len(), 2);
}

#[test]
fn the_guest_gets_no_more_than_it_has_room_for() {
    let mut guest = Guest::new();
    let (mut client, ports) = guest.stream_from_host();
    let credit = |buffer: u32, passed_on: u32| Header {
        buf_alloc: buffer.into(),
        fwd_cnt: passed_on.into(),
        ..packet(ports, OP_CREDIT_UPDATE, 0)
    };
    guest.send(&credit(10, 0), b"");
    client.write_all(b"0123456789abcdef").unwrap();
    let packets = guest.received();
    assert_eq!(packets[0].1, b"0123456789");
    assert_eq!(packets[1].0.op.get(), OP_CREDIT_REQUEST);
    assert_eq!(packets.len(), 2, "it is asked once");
    guest.send(&credit(10, 4), b"");
    let packets = guest.received();
    assert_eq!(packets[0].1, b"abcd");
    guest.send(&credit(10, 99), b"");
    assert!(
        guest.received().is_empty(),
        "it has passed on more than it got"
    );
    guest.send(&credit(10, 14), b"");
    assert_eq!(guest.received()[0].1, b"ef");
}

/// Sends bytes until the device has taken `len`, whatever the program on the host reads.
fn fill(guest: &mut Guest, ports: Ports, len: usize) {
    for _ in 0..len / 0x1000 {
        guest.send(&packet(ports, OP_RW, 0x1000), &[b'x'; 0x1000]);
    }
}

/// A stream whose reader on the host has not read, with how much the host's kernel keeps of it.
fn blocked_stream(guest: &mut Guest) -> (std::os::unix::net::UnixStream, Ports, usize) {
    let (client, ports) = guest.stream_from_host();
    let mut taken = 0;
    let passed_on = loop {
        fill(guest, ports, 0x1000);
        taken += 0x1000;
        guest.send(&packet(ports, OP_CREDIT_REQUEST, 0), b"");
        let passed_on = guest.received().last().unwrap().0.fwd_cnt.get() as usize;
        if passed_on < taken {
            break passed_on;
        }
    };
    fill(
        guest,
        ports,
        BUFFER_BYTES - (taken - passed_on).next_multiple_of(0x1000),
    );
    (client, ports, passed_on)
}

#[test]
fn a_host_program_that_does_not_read_is_waited_for_within_bounds() {
    let mut guest = Guest::new();
    let (mut client, ports, _) = blocked_stream(&mut guest);
    assert!(guest.received().is_empty());
    assert!(!heard(&mut client).is_empty());
    guest.received_one(OP_CREDIT_UPDATE);
    guest.send(&packet(ports, OP_RW, 1), b"x");
    assert!(guest.received().is_empty(), "there is room again");
    drop(client);
    assert_eq!(
        guest.received_one(OP_RST).0.src_port.get(),
        ports.host,
        "what it had not read is lost"
    );

    let (mut client, ports, _) = blocked_stream(&mut guest);
    guest.received();
    fill(&mut guest, ports, 0x1000);
    guest.received_one(OP_RST);
    assert!(heard_to_end(&mut client).iter().all(|byte| *byte == b'x'));
}

#[test]
fn what_the_guest_has_sent_before_it_ended_arrives() {
    let mut guest = Guest::new();
    let (mut client, ports, _) = blocked_stream(&mut guest);
    guest.send(&shutdown(ports, SHUTDOWN_SEND | SHUTDOWN_RECEIVE), b"");
    guest.received_one(OP_RST);
    guest.send(&packet(ports, OP_RW, 1), b"x");
    guest.received_one(OP_RST);
    let mut heard_bytes = 0;
    loop {
        let mut bytes = [0; 0x1000];
        match std::io::Read::read(&mut client, &mut bytes) {
            Ok(0) => break,
            Ok(len) => heard_bytes += len,
            Err(_) => guest.driver.run_events(),
        }
    }
    assert!(heard_bytes >= BUFFER_BYTES, "{heard_bytes}");
}

#[test]
fn host_programs_are_limited_in_number() {
    let mut guest = Guest::new();
    let clients: Vec<_> = (0..SOCKETS_MAX).map(|_| guest.client("")).collect();
    let mut one_too_many = guest.client("");
    assert_turned_away(&mut one_too_many);
    let listener = guest.listen(HOST_PORT);
    guest.send(&packet(PORTS, OP_REQUEST, 0), b"");
    guest.received_one(OP_RST);
    assert!(listener.accept().is_err());
    drop(clients);
    guest.send(&packet(PORTS, OP_REQUEST, 0), b"");
    guest.received_one(OP_RESPONSE);
}

#[test]
fn a_guest_that_takes_no_answers_is_not_heard_any_more() {
    let mut guest = Guest::new();
    let garbage = packet(PORTS, OP_RW, 0);
    // One ring full is given to the device and not taken back.
    guest.give_buffers(48);
    let mut sent = 0;
    while sent < ANSWERS_MAX + 64 {
        guest.send(&garbage, b"");
        sent += 1;
    }
    guest.post(&garbage, b"");
    assert!(guest.driver.on(TRANSMIT).finished().is_empty());
    let mut answers = 0;
    loop {
        let received = guest.received();
        if received.is_empty() {
            break;
        }
        assert!(received.iter().all(|(header, _)| header.op.get() == OP_RST));
        answers += received.len();
    }
    assert_eq!(answers, sent + 1);
    assert_eq!(guest.driver.on(TRANSMIT).finished().len(), 1);
}

#[test]
fn garbage_is_answered_with_a_reset_and_harms_no_other_stream() {
    let mut guest = Guest::new();
    let (mut client, ports) = guest.stream_from_host();
    let good = packet(ports, OP_RW, 0);
    for header in [
        Header {
            src_cid: 9.into(),
            ..good
        },
        Header {
            dst_cid: 9.into(),
            ..good
        },
        Header {
            kind: 2.into(),
            ..good
        },
        Header {
            src_port: 1.into(),
            ..good
        },
        Header {
            dst_port: 1.into(),
            ..good
        },
        Header {
            src_port: 1.into(),
            op: 99.into(),
            ..good
        },
    ] {
        guest.send(&header, b"");
        guest.driver.run_events();
        let finished = guest.driver.on(RECEIVE).finished();
        assert_eq!(finished.len(), 1, "{header:?}");
        guest.give_buffers(1);
        guest.send(
            &Header {
                op: OP_RST.into(),
                ..header
            },
            b"",
        );
        assert!(guest.received().is_empty());
    }
    guest.send(&packet(ports, OP_RW, 2), b"ok");
    assert_eq!(heard(&mut client), b"ok");
    for header in [
        Header {
            op: 99.into(),
            ..good
        },
        Header {
            op: OP_RESPONSE.into(),
            ..good
        },
        Header {
            len: 1.into(),
            ..good
        },
        Header {
            len: u32::MAX.into(),
            ..good
        },
    ] {
        let (mut client, ports) = guest.stream_from_host();
        let ports_of = packet(ports, OP_RW, 0);
        let header = Header {
            src_port: ports_of.src_port,
            dst_port: ports_of.dst_port,
            ..header
        };
        guest.send(&header, b"");
        guest.received_one(OP_RST);
        assert_eq!(heard_to_end(&mut client), b"");
    }
    assert!(!guest.driver.needs_reset());
}

#[test]
fn chains_that_hold_no_packet_make_the_device_ask_for_a_reset() {
    let header = HEADER_BYTES as u32;
    for (queue, buffer) in [
        (TRANSMIT, (BUFFERS, header - 1, false)),
        (TRANSMIT, (BUFFERS, header, true)),
        (TRANSMIT, (u64::MAX - 3, header, false)),
        (RECEIVE, (BUFFERS, header, true)),
        (RECEIVE, (BUFFERS, header + 1, false)),
        (EVENT, (BUFFERS, 3, true)),
    ] {
        let mut driver = Guest::new().driver;
        driver.start_queues(0, 3);
        driver.on(queue).submit(&[buffer]);
        driver.notify();
        driver.run_events();
        assert!(driver.needs_reset(), "{queue} {buffer:x?}");
    }
}

#[test]
fn a_paused_device_leaves_its_streams_as_they_are() {
    let mut guest = Guest::new();
    let (mut client, ports) = guest.stream_from_host();
    let before = guest.driver.save_paused();
    client.write_all(b"meanwhile").unwrap();
    let mut second = std::os::unix::net::UnixStream::connect(guest.socket()).unwrap();
    second.write_all(b"CONNECT 9\n").unwrap();
    guest.driver.run_events();
    guest.driver.run_events();
    assert_eq!(guest.driver.transport.save().unwrap(), before);
    assert!(guest.driver.on(RECEIVE).finished().is_empty());

    guest.driver.transport.resume().unwrap();
    let packets = guest.received();
    let payloads: Vec<_> = packets.iter().map(|(_, payload)| &payload[..]).collect();
    assert!(payloads.contains(&&b"meanwhile"[..]), "{packets:?}");
    assert!(
        packets
            .iter()
            .any(|(header, _)| header.op.get() == OP_REQUEST)
    );
    assert_eq!(packets.len(), 2);
    guest.send(&packet(ports, OP_RW, 5), b"after");
    assert_eq!(heard(&mut client), b"after");
    assert_eq!(guest.resets(), 0, "the original's streams go on");
}

#[test]
fn a_restored_device_has_no_streams_and_says_so_first() {
    let mut guest = Guest::new();
    let (mut client, ports) = guest.stream_from_host();
    let mut copy = guest.copy();
    let mut early = copy.client("CONNECT 9\n");
    copy.driver.transport.resume().unwrap();
    assert_eq!(copy.resets(), 1);
    copy.want_events();
    assert_eq!(copy.resets(), 0, "once");
    let (request, _) = copy.received_one(OP_REQUEST);
    assert_eq!(request.dst_port.get(), 9);
    copy.send(&packet(ports, OP_RW, 1), b"x");
    copy.received_one(OP_RST);
    let (mut fresh, ports_in_copy) = copy.stream_from_host();
    copy.send(&packet(ports_in_copy, OP_RW, 2), b"ok");
    assert_eq!(heard(&mut fresh), b"ok");
    assert_eq!(heard(&mut early), b"");

    guest.driver.transport.resume().unwrap();
    guest.send(&packet(ports, OP_RW, 4), b"same");
    assert_eq!(heard(&mut client), b"same");
}

#[test]
fn a_restored_guest_that_still_holds_streams_gets_new_ones_from_other_ports() {
    let mut guest = Guest::new();
    let held: Vec<_> = (0..8).map(|_| guest.stream_from_host()).collect();
    let mut copy = guest.copy();
    copy.driver.transport.resume().unwrap();
    assert_eq!(copy.resets(), 1);
    let new: Vec<_> = (0..40).map(|_| copy.stream_from_host()).collect();
    for (_, ports) in &new {
        assert!(held.iter().all(|(_, before)| before.host != ports.host));
    }
}

#[test]
fn a_guest_without_a_buffer_for_the_reset_is_told_when_it_gives_one() {
    let mut guest = Guest::new();
    guest.stream_from_host();
    let mut copy = guest.copy();
    copy.driver.transport.resume().unwrap();
    assert_eq!(copy.resets(), 1);
    let mut copy_of_copy = copy.copy();
    copy_of_copy.driver.transport.resume().unwrap();
    copy_of_copy.client("CONNECT 9\n");
    assert!(copy_of_copy.received().is_empty(), "not before the reset");
    copy_of_copy.want_events();
    assert_eq!(copy_of_copy.resets(), 1);
    assert_eq!(copy_of_copy.received().len(), 1);
}

#[test]
fn a_driver_that_starts_anew_has_no_streams() {
    let mut guest = Guest::new();
    let (mut client, ports) = guest.stream_from_host();
    guest.driver.write(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(heard_to_end(&mut client), b"");
    let mut nobody_there = guest.client("CONNECT 1\n");
    assert_turned_away(&mut nobody_there);
    guest.driver.start_queues(0, 3);
    guest.give_buffers(4);
    guest.send(&packet(ports, OP_RW, 1), b"x");
    guest.received_one(OP_RST);
    guest.stream_from_host();
}

#[test]
fn a_state_with_a_cid_that_no_guest_has_is_refused() {
    let mut guest = Guest::new();
    let saved = guest.driver.save_paused();
    let state: VirtioMmioStateV1 = saved.decode("virtio-mmio", 1, "dev0").unwrap();
    for cid in [0, HOST_CID, u64::from(u32::MAX), 1 << 40] {
        let device =
            crate::SavedDevice::encode(KIND, VERSION, "dev0", &VsockStateV1 { guest_cid: cid })
                .unwrap();
        let state = VirtioMmioStateV1 {
            device,
            ..state.clone()
        };
        let damaged = crate::SavedDevice::encode("virtio-mmio", 1, "dev0", &state).unwrap();
        let error = guest.driver.transport.restore(&damaged).unwrap_err();
        assert!(error.to_string().contains("CID"), "{error}");
    }
}
