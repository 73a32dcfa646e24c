use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};

use super::*;

fn of(socket: impl AsFd) -> String {
    let found = nix::sys::stat::fstat(socket).expect("a socket");
    describe(std::process::id() as Pid, found.st_ino).expect("it is in a table")
}

#[test]
fn sockets_of_this_process_are_told_with_their_addresses() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let at = listener.local_addr().expect("its address");
    assert_eq!(of(&listener), format!("TCP, listens at {at}"));
    let stream = TcpStream::connect(at).expect("a stream");
    let from = stream.local_addr().expect("its address");
    assert_eq!(of(&stream), format!("TCP, {from} to {at}"));
    let datagrams = UdpSocket::bind("[::1]:0").or_else(|_| UdpSocket::bind("127.0.0.1:0"));
    let datagrams = datagrams.expect("a port");
    let at = datagrams.local_addr().expect("its address");
    assert_eq!(of(&datagrams), format!("UDP, {at}"));

    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    let at = path.display();
    assert_eq!(of(&listener), format!("unix stream, listens at {at}"));
    let (one, _other) = UnixStream::pair().expect("sockets");
    assert_eq!(of(&one), "unix stream, connected, no path");
}

#[test]
fn a_socket_that_no_table_has_and_garbage_are_nothing() {
    assert_eq!(describe(std::process::id() as Pid, u64::MAX), None);
    for line in [
        "",
        "x",
        "0: zz:1 0:0 01 a b c d e 7",
        "0: 0100007F 00000000:0000 0A 1 2 3 4 5 7",
    ] {
        let table = format!("head\n{line}\n");
        assert_eq!(internet(&table, "TCP", 7), None, "{line}");
        assert_eq!(unix(&table, 7), None, "{line}");
    }
}
