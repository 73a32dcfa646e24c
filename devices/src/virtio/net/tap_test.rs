//! A card at a real TAP device, in a network namespace of the test's own. Needs root.

use std::net::UdpSocket;
use std::process::Command;

use super::*;

/// Moves this thread into a network namespace of its own. False where that is not allowed.
fn enter_own_namespace() -> bool {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_ok()
}

fn ip(line: &str) -> bool {
    let status = Command::new("ip").args(line.split(' ')).status();
    status.is_ok_and(|status| status.success())
}

#[test]
fn frames_go_through_a_tap_device_of_several_queues() {
    let can = std::path::Path::new("/dev/net/tun").exists() && enter_own_namespace();
    if !can || !ip("tuntap add tap0 mode tap multi_queue vnet_hdr") {
        eprintln!("no TAP device can be made here: nothing is tested");
        return;
    }
    assert!(ip("link set tap0 mtu 9000 up"));
    assert!(ip("addr add 192.0.2.1/24 dev tap0"));
    assert!(ip("neigh add 192.0.2.2 lladdr 02:00:00:00:00:07 dev tap0"));
    let mut tap = TapBackend::open("tap0", 2).unwrap();
    assert_eq!((tap.pairs(), tap.mtu()), (2, Some(9000)));
    assert!(tap.offloads().checksum && tap.offloads().tcp);
    let all = Accepted {
        checksum: true,
        tcp4: true,
        tcp6: true,
        udp: true,
    };
    tap.prepare(all, 1).unwrap();
    let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
    let mut packet = Vec::new();
    let found = (0..10_000).any(|turn| {
        // The kernel drops frames until it has noticed that somebody has the device open, which
        // takes up to a second.
        if turn % 100 == 0 {
            socket.send_to(b"to the guest", "192.0.2.2:7").unwrap();
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
        let received = tap.receive(0, &mut packet);
        received.is_ok() && packet.ends_with(b"to the guest")
    });
    assert!(found, "one pair is used: all frames come there");
    // Back to where it came from: addresses and ports change places.
    let (ethernet, ip, udp) = (HEADER_BYTES, HEADER_BYTES + 14, HEADER_BYTES + 34);
    let swap = |packet: &mut [u8], at: usize, length: usize| {
        let (first, second) = packet[at..at + 2 * length].split_at_mut(length);
        first.swap_with_slice(second);
    };
    swap(&mut packet, ethernet, 6);
    swap(&mut packet, ip + 12, 4);
    swap(&mut packet, udp, 2);
    assert!(header::may_be_sent(&packet, u64::MAX));
    tap.prepare(Accepted::default(), 2).unwrap();
    tap.send(1, &packet).unwrap();
    let mut bytes = [0; 64];
    socket
        .set_read_timeout(Some(std::time::Duration::from_secs(5)))
        .unwrap();
    let (length, from) = socket.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"to the guest");
    assert_eq!(from.to_string(), "192.0.2.2:7");
    // Somebody has both queues, and there is no other device.
    assert!(TapBackend::open("nowhere0", 1).is_err());
}
