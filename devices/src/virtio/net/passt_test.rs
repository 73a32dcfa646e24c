//! A card at a real passt: the test plays the guest.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use virtio_bindings::virtio_net::VIRTIO_NET_F_MRG_RXBUF;

use super::*;
use crate::virtio::test_driver::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const DHCP_MAGIC: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
const OFFER: u8 = 2;

/// Starts a passt. `None` where none can run.
fn start() -> Option<(UnixStream, Child)> {
    if !nvvmm_test_profile::has_passt() {
        return None;
    }
    let (own, theirs) = UnixStream::pair().unwrap();
    fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let mut command = Command::new("passt");
    command
        .args(["--foreground", "--quiet", "--no-map-gw", "--fd"])
        .arg(theirs.as_raw_fd().to_string())
        .stderr(Stdio::null());
    Some((own, command.spawn().unwrap()))
}

/// A UDP packet to all, from port 68 to port 67, without checksums that anybody needs.
fn dhcp_discover() -> Vec<u8> {
    let mut dhcp = vec![1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef];
    dhcp.resize(28, 0);
    dhcp.extend(MAC);
    dhcp.resize(236, 0);
    dhcp.extend(DHCP_MAGIC);
    dhcp.extend([53, 1, 1, 255]);
    dhcp.resize(300, 0);
    let mut ip = vec![0x45, 0];
    ip.extend(u16::to_be_bytes(20 + 8 + dhcp.len() as u16));
    ip.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    ip.extend([0, 0, 0, 0, 255, 255, 255, 255]);
    let sum: u32 = { ip.chunks(2) }
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0xff; 6];
    frame.extend(MAC);
    frame.extend([8, 0]);
    frame.extend(ip);
    frame.extend([0, 68, 0, 67]);
    frame.extend(u16::to_be_bytes(8 + dhcp.len() as u16));
    frame.extend([0, 0]);
    frame.extend(dhcp);
    frame
}

#[test]
fn passt_offers_the_guest_an_address_by_dhcp() {
    let Some((stream, mut child)) = start() else {
        return;
    };
    let backend = StreamBackend::new("passt", stream).unwrap();
    let port = Arc::new(NetPort::new(Box::new(backend)));
    let options = NetOptions {
        mac: MAC,
        ..NetOptions::default()
    };
    let mut driver = Driver::new(Box::new(Net::new(Arc::clone(&port), options).unwrap()));
    driver.start_queues(1 << VIRTIO_NET_F_MRG_RXBUF, 3);
    let buffers: Vec<u64> = (0..16).map(|at| HIGH_REGION + at * 0x1000).collect();
    driver.on(0);
    for address in &buffers {
        driver.submit(&[(*address, 0x1000, true)]);
    }
    driver.notify();
    let discover = dhcp_discover();
    driver.store(BUFFERS, &[0; HEADER_BYTES]);
    driver.store(BUFFERS + HEADER_BYTES as u64, &discover);
    let length = (HEADER_BYTES + discover.len()) as u32;
    driver.on(1).submit(&[(BUFFERS, length, false)]);
    driver.notify();
    let mut next = buffers.iter();
    let mut offered = None;
    for _ in 0..500 {
        driver.run_events();
        for (_, length) in driver.on(0).finished() {
            let packet = driver.load(*next.next().unwrap(), length as usize);
            let frame = &packet[HEADER_BYTES..];
            let dhcp = frame
                .get(42..)
                .filter(|_| frame[12..14] == [8, 0] && frame[23] == 17);
            if let Some(dhcp) = dhcp.filter(|dhcp| dhcp.get(236..240) == Some(&DHCP_MAGIC[..])) {
                assert_eq!(dhcp[4..8], [0xde, 0xad, 0xbe, 0xef]);
                assert!(
                    dhcp[240..]
                        .windows(3)
                        .any(|option| option == [53, 1, OFFER])
                );
                offered = Some(<[u8; 4]>::try_from(&dhcp[16..20]).unwrap());
            }
        }
        if offered.is_some() || port.is_gone() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    if port.is_gone() {
        eprintln!("passt does not start here: nothing is tested");
    } else {
        assert_ne!(offered.expect("an offer"), [0; 4]);
        drop((driver, port));
    }
    child.wait().unwrap();
}
