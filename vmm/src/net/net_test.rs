use std::net::{TcpListener, UdpSocket};
use std::num::NonZeroU16;

use nvvmm_devices::virtio::{Mac, NetPolicy, NetRate, Protocol, Published};
use nvvmm_test_profile::has_passt;

use super::*;

fn card(source: NetSource) -> NetSpec {
    NetSpec {
        source,
        mac: Mac::local([0, 1, 2, 3, 4, 5]),
        mtu: 65520,
        queues: 1,
        netns: None,
        rate: NetRate::default(),
        policy: NetPolicy::default(),
    }
}

fn published(protocol: Protocol, host_port: u16) -> Published {
    Published {
        protocol,
        address: Some([127, 0, 0, 1].into()),
        host_port,
        guest_port: 80,
        count: 1,
    }
}

/// A port that nobody has, most likely also a moment later.
fn free_port() -> NonZeroU16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    NonZeroU16::new(listener.local_addr().unwrap().port()).unwrap()
}

#[test]
fn passt_listens_at_the_published_ports_and_ends_with_the_card() {
    if !has_passt() {
        return;
    }
    let port = free_port().get();
    let ports = vec![
        published(Protocol::Tcp, port),
        published(Protocol::Udp, port),
    ];
    let source = NetSource::Passt { published: ports };
    let nets = OpenNets::open([card(source)].iter()).unwrap();
    assert_eq!(nets.ports().len(), 1);
    assert_eq!(nets.ports()[0].name(), "passt");
    assert!(TcpListener::bind(("127.0.0.1", port)).is_err());
    assert!(UdpSocket::bind(("127.0.0.1", port)).is_err());
    drop(nets);
    let is_free = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        TcpListener::bind(("127.0.0.1", port)).is_ok()
    });
    assert!(is_free, "passt ends when the stream to it is closed");
}

#[test]
fn a_port_that_somebody_has_is_refused_by_its_number() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let source = NetSource::Passt {
        published: vec![published(Protocol::Tcp, port)],
    };
    let error = OpenNets::open([card(source)].iter()).err().unwrap();
    assert!(matches!(error, NetError::Port { .. }), "{error}");
    assert!(
        error.to_string().contains(&format!("127.0.0.1:{port}")),
        "{error}"
    );
}

#[test]
fn what_passt_says_when_it_does_not_start_is_the_error() {
    if !has_passt() {
        return;
    }
    // More bytes than an MTU can have.
    let source = NetSource::Passt {
        published: vec![Published {
            count: 3,
            guest_port: u16::MAX,
            ..published(Protocol::Tcp, free_port().get().min(65000))
        }],
    };
    let error = OpenNets::open([card(source)].iter()).err().unwrap();
    let NetError::Passt(said) = &error else {
        panic!("{error}");
    };
    assert!(said.to_lowercase().contains("port"), "{said}");
}

#[test]
fn descriptors_that_are_no_network_are_refused() {
    for fd in [-1, 1_000_000] {
        let error = OpenNets::open([card(NetSource::Fd { fd })].iter()).err();
        assert!(matches!(error, Some(NetError::Descriptor { .. })));
    }
    let file = tempfile::tempfile().unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    let error = OpenNets::open([card(NetSource::Fd { fd })].iter())
        .err()
        .unwrap();
    assert!(
        error
            .to_string()
            .contains("neither a TAP device nor a stream"),
        "{error}"
    );
    let (stream, _peer) = UnixStream::pair().unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&stream);
    let nets = OpenNets::open([card(NetSource::Fd { fd })].iter()).unwrap();
    assert_eq!(nets.ports()[0].name(), format!("fd {fd}"));
}

#[test]
fn tap_devices_and_namespaces_that_are_not_there_are_named() {
    let tap = NetSource::Tap {
        name: "nowhere0".to_owned(),
    };
    let error = OpenNets::open([card(tap)].iter()).err().unwrap();
    assert!(error.to_string().contains("'nowhere0'"), "{error}");
    for name in ["nowhere", "../../proc/1/ns/net", ""] {
        let spec = NetSpec {
            netns: Some(name.to_owned()),
            ..card(NetSource::None)
        };
        let error = OpenNets::open([spec].iter()).err().unwrap();
        assert!(matches!(error, NetError::Namespace { .. }), "{error}");
    }
}

#[test]
fn ports_are_written_as_people_and_passt_do() {
    let range = Published {
        count: 11,
        ..published(Protocol::Udp, 8000)
    };
    assert_eq!(host_range(&range), "127.0.0.1:8000-8010");
    assert_eq!(
        ports::passt_option(&range),
        ["-u", "127.0.0.1/8000-8010:80-90"]
    );
    let all = Published {
        address: None,
        ..published(Protocol::Tcp, 8080)
    };
    assert_eq!(host_range(&all), "8080");
    assert_eq!(ports::passt_option(&all), ["-t", "8080:80"]);
    let six = Published {
        address: Some("::1".parse().unwrap()),
        ..all
    };
    assert_eq!(host_range(&six), "[::1]:8080");
    assert_eq!(ports::passt_option(&six), ["-t", "::1/8080:80"]);
}
