//! Pairs of unix sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use crate::event_loops::PollSet;
use crate::processes::{fork, wait};
use crate::{Check, Fixture, wait_for};

pub fn scenario(name: &str, fixture: &Fixture) -> Option<Check> {
    Some(match name {
        "socket-pairs" => socket_pairs(),
        "socket-tree" => socket_tree(fixture),
        _ => return None,
    })
}

/// The maker of the pair, by the kernel.
pub fn maker(socket: &impl AsRawFd) -> [u32; 3] {
    let mut maker = [0u32; 3];
    let mut len = size_of_val(&maker) as libc::socklen_t;
    let place = maker.as_mut_ptr().cast();
    // SAFETY: the kernel writes the three numbers of a struct ucred.
    let asked = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            place,
            &mut len,
        )
    };
    assert_eq!(asked, 0);
    maker
}

/// Streams with bytes both ways, in pieces until there is no room, shut down in one direction, with
/// time limits; packets; a set that waits for one of them.
fn socket_pairs() -> Check {
    let bytes = |count: usize| (0..count).map(|at| (at * 7) as u8).collect::<Vec<u8>>();
    let (mut left, mut right) = UnixStream::pair().expect("sockets");
    left.write_all(b"to the right").expect("room");
    right.write_all(&bytes(5000)).expect("room");
    right
        .set_read_timeout(Some(Duration::from_millis(30)))
        .expect("a limit");
    let made_by = maker(&left);
    let (mut full, mut reads) = UnixStream::pair().expect("sockets");
    full.set_nonblocking(true).expect("a flag");
    let mut written = 0;
    // Small pieces: each costs the kernel more than its bytes.
    while let Ok(count) = full.write(&bytes(100)) {
        written += count;
    }
    let (mut half, mut other) = UnixStream::pair().expect("sockets");
    half.write_all(b"last words").expect("room");
    half.shutdown(Shutdown::Write).expect("a socket");
    let (packets, receives) = UnixDatagram::pair().expect("sockets");
    let set = PollSet::new();
    set.add(&left, libc::EPOLLIN as u32, 1);
    set.add(&receives, libc::EPOLLIN as u32, 2);
    Box::new(move || {
        assert_eq!(maker(&left), made_by);
        assert_eq!(set.ready(0), [(1, libc::EPOLLIN as u32)]);
        let mut words = [0; 12];
        right.read_exact(&mut words).expect("bytes");
        assert_eq!(&words, b"to the right");
        let error = right
            .read(&mut words)
            .expect_err("it waits for a while only");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let mut many = vec![0; 5000];
        left.read_exact(&mut many).expect("bytes");
        assert!(many == bytes(5000), "it has other bytes");
        let mut all = vec![0; written];
        reads.read_exact(&mut all).expect("bytes");
        assert!(
            all.chunks(100)
                .all(|part| part == &bytes(100)[..part.len()])
        );
        full.write_all(b"room again").expect("room");
        let mut last = String::new();
        other.read_to_string(&mut last).expect("an end");
        assert_eq!(last, "last words");
        other.write_all(b"still open").expect("room");
        half.read_exact(&mut [0; 10]).expect("bytes");
        packets.send(b"packet").expect("room");
        assert_eq!(set.ready(1000), [(2, libc::EPOLLIN as u32)]);
        assert_eq!(receives.recv(&mut words).expect("a packet"), 6);
        drop(right);
        assert_eq!(left.read(&mut words).expect("an end"), 0);
    })
}

/// Parent and child have one end each of a pair of sockets for packets with an order.
fn socket_tree(fixture: &Fixture) -> Check {
    let mut ends = [0i32; 2];
    // SAFETY: the kernel writes the two numbers of ends, which are nobody's yet.
    let [mine, theirs] = unsafe {
        let made = libc::socketpair(libc::AF_UNIX, libc::SOCK_SEQPACKET, 0, ends.as_mut_ptr());
        assert_eq!(made, 0);
        ends.map(|end| UnixDatagram::from(OwnedFd::from_raw_fd(end)))
    };
    let made_by = maker(&mine);
    let go = fixture.path("go");
    let child = fork(|| {
        wait_for(&go);
        let mut question = [0; 8];
        let len = theirs.recv(&mut question).expect("a question");
        theirs.send(&question[..len]).expect("room");
        i32::from(maker(&theirs) == made_by)
    });
    drop(theirs);
    Box::new(move || {
        mine.send(b"what?").expect("room");
        let mut answer = [0; 8];
        let len = mine.recv(&mut answer).expect("an answer");
        assert_eq!(&answer[..len], b"what?");
        assert_eq!(wait(child), 1, "another process has made the pair");
        assert_eq!(mine.recv(&mut answer).expect("an end"), 0);
    })
}
