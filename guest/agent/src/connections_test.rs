use std::io::{ErrorKind, Read};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use super::*;

fn ip(line: &str) -> bool {
    let status = Command::new("ip").args(line.split(' ')).status();
    status.is_ok_and(|status| status.success())
}

/// A connection to an address of this host, and its other end.
fn connected_to(address: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (stream, listener.accept().unwrap().0)
}

#[test]
fn connections_to_elsewhere_end_with_an_error_and_those_within_live_on() {
    if !crate::sys::enter_own_network() || !ip("link set lo up") {
        println!("no network namespace can be made here: nothing is tested");
        return;
    }
    for address in ["192.0.2.1/24", "192.0.2.2/24"] {
        assert!(ip(&format!("address add {address} dev lo")));
    }
    // What is sent to the second address comes from the first: two ends at two addresses.
    assert!(ip(
        "route replace local 192.0.2.2 dev lo table local src 192.0.2.1"
    ));
    let listener = TcpListener::bind("192.0.2.1:0").unwrap();
    let (mut local, other) = connected_to("127.0.0.1");
    let (mut same, other_of_same) = connected_to("192.0.2.1");
    let (mut elsewhere, _other) = connected_to("192.0.2.2");
    assert_eq!(
        elsewhere.local_addr().unwrap().ip().to_string(),
        "192.0.2.1"
    );
    match end_all() {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            println!("this kernel ends no connections: nothing is tested");
            return;
        }
        // The end of one may be the end of the other.
        ended => assert!((1..=2).contains(&ended.unwrap())),
    }
    let patience = Some(Duration::from_secs(5));
    elsewhere.set_read_timeout(patience).unwrap();
    let error = elsewhere.read(&mut [0]).unwrap_err();
    let told = [ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset];
    assert!(told.contains(&error.kind()), "{error}");
    for (own, other) in [(&mut local, other), (&mut same, other_of_same)] {
        other.shutdown(Shutdown::Both).unwrap();
        assert_eq!(own.read(&mut [0]).unwrap(), 0);
    }
    let port = listener.local_addr().unwrap().port();
    TcpStream::connect(("192.0.2.1", port)).expect("who listens still does");
}

#[test]
fn messages_that_are_cut_off_are_none() {
    let socket = Socket {
        family: libc::AF_INET as u8,
        id: [7; SOCKET_BYTES],
    };
    let whole = request(DESTROY, ACKNOWLEDGE, &socket);
    let (kind, body) = messages(&whole).next().unwrap();
    assert_eq!((kind, body.len()), (DESTROY, REQUEST_BYTES));
    for length in 0..whole.len() {
        assert_eq!(messages(&whole[..length]).next(), None);
    }
    assert!(failure(&[1]).is_err());
    assert_eq!(
        failure(&(-3_i32).to_ne_bytes()).unwrap_err().raw_os_error(),
        Some(3)
    );
}
