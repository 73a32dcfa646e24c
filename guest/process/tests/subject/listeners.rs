//! Sockets that are not pairs.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use crate::event_loops::{PollSet, owned};
use crate::processes::{fork, wait};
use crate::sockets::maker;
use crate::{Check, Fixture};

const PATIENCE: Option<Duration> = Some(Duration::from_secs(20));

pub fn scenario(name: &str, fixture: &Fixture) -> Option<Check> {
    Some(match name {
        "internet-sockets" => internet_sockets(),
        "unix-sockets" => unix_sockets(fixture),
        "netlink-sockets" => netlink_sockets(),
        "reset-connection" => reset_connection(),
        "listener-tree" => listener_tree(),
        "unix-connections" => unix_connections(fixture),
        _ => return None,
    })
}

/// Has the loopback interface run: a guest may be without.
fn loopback_up() {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    // SAFETY: an ifreq is plain numbers, and the kernel reads and writes this one only.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
        let fd = socket.as_raw_fd();
        assert_eq!(libc::ioctl(fd, libc::SIOCGIFFLAGS, &raw mut request), 0);
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as i16;
        assert_eq!(libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw const request), 0);
    }
}

fn option(socket: &impl AsFd, level: i32, option: i32) -> i32 {
    let (mut value, mut len) = (0i32, 4 as libc::socklen_t);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes the number.
    let asked = unsafe { libc::getsockopt(fd, level, option, (&raw mut value).cast(), &mut len) };
    assert_eq!(asked, 0, "{}", std::io::Error::last_os_error());
    value
}

fn set_option(socket: &impl AsFd, level: i32, option: i32, value: i32) {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel reads the number.
    let set = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), 4) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

/// Connects to a listener, and talks both ways.
fn talk(listener: &TcpListener) {
    let address = listener.local_addr().expect("an address");
    let mut client = TcpStream::connect(address).expect("somebody listens");
    let (mut server, _) = listener.accept().expect("a connection");
    client.write_all(b"question").expect("room");
    let mut bytes = [0; 8];
    server.read_exact(&mut bytes).expect("bytes");
    assert_eq!(&bytes, b"question");
    server.write_all(b"answer").expect("room");
    client.read_exact(&mut bytes[..6]).expect("bytes");
}

/// Listeners of both families with options and queues of their own, one that is in an event loop;
/// sockets for packets, one of them connected; one that does nothing.
fn internet_sockets() -> Check {
    loopback_up();
    let first = TcpListener::bind("127.0.0.1:0").expect("a port");
    let second = TcpListener::bind("[::]:0").expect("a port");
    for (name, value) in [(libc::TCP_KEEPIDLE, 77), (libc::TCP_NODELAY, 1)] {
        set_option(&first, libc::IPPROTO_TCP, name, value);
    }
    set_option(&second, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1);
    set_option(&second, libc::SOL_SOCKET, libc::SO_RCVBUF, 50_000);
    let buffer = option(&second, libc::SOL_SOCKET, libc::SO_RCVBUF);
    // SAFETY: the call takes numbers only.
    assert_eq!(unsafe { libc::listen(first.as_raw_fd(), 3) }, 0);
    first.set_nonblocking(true).expect("a flag");
    let set = PollSet::new();
    set.add(&first, libc::EPOLLIN as u32, 1);
    let packets = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let connected = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = packets.local_addr().expect("an address");
    connected.connect(address).expect("an address");
    packets.set_ttl(33).expect("an option");
    packets.set_read_timeout(PATIENCE).expect("a limit");
    // SAFETY: the call takes numbers only.
    let idle = owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) });
    let addresses = (first.local_addr().ok(), second.local_addr().ok());
    Box::new(move || {
        let now = (first.local_addr().ok(), second.local_addr().ok());
        assert_eq!(now, addresses);
        let keep_idle = option(&first, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE);
        let no_delay = option(&first, libc::IPPROTO_TCP, libc::TCP_NODELAY);
        assert_eq!((keep_idle, no_delay), (77, 1));
        assert_eq!(option(&second, libc::SOL_SOCKET, libc::SO_REUSEPORT), 1);
        assert_eq!(option(&second, libc::SOL_SOCKET, libc::SO_RCVBUF), buffer);
        assert_eq!(set.ready(0), []);
        let error = first.accept().expect_err("nobody has connected");
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let address = first.local_addr().expect("an address");
        let client = TcpStream::connect(address).expect("somebody listens");
        assert_eq!(set.ready(1000), [(1, libc::EPOLLIN as u32)]);
        first.accept().expect("a connection");
        drop(client);
        talk(&second);
        connected.send(b"packet").expect("room");
        let mut bytes = [0; 8];
        let (len, from) = packets.recv_from(&mut bytes).expect("a packet");
        assert_eq!(
            (len, from),
            (6, connected.local_addr().expect("an address"))
        );
        assert_eq!(packets.ttl().expect("an option"), 33);
        assert!(TcpStream::from(OwnedFd::from(idle)).peer_addr().is_err());
    })
}

/// Listeners at a path and at a name, with who listens; sockets for packets at a path, and one that
/// sends there; one whose path was removed.
fn unix_sockets(fixture: &Fixture) -> Check {
    let path = fixture.path("socket");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("a socket");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o640)).expect("its mode");
    let name = format!("nvvmm-test-{}", std::process::id());
    let name = SocketAddr::from_abstract_name(name).expect("a name");
    let named = UnixListener::bind_addr(&name).expect("a socket");
    let receiver = UnixDatagram::bind(fixture.path("packets")).expect("a socket");
    let sender = UnixDatagram::unbound().expect("a socket");
    sender.connect(fixture.path("packets")).expect("a socket");
    let removed = UnixListener::bind(fixture.path("removed")).expect("a socket");
    std::fs::remove_file(fixture.path("removed")).expect("the path");
    let gone = fixture.path("removed");
    let packets = fixture.path("packets");
    Box::new(move || {
        let mode = std::fs::metadata(&path)
            .expect("a socket")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o640);
        let mut client = UnixStream::connect(&path).expect("somebody listens");
        let own = [std::process::id(), 0, 0];
        assert_eq!(maker(&client), own);
        let (mut server, _) = listener.accept().expect("a connection");
        client.write_all(b"x").expect("room");
        server.read_exact(&mut [0]).expect("a byte");
        let client = UnixStream::connect_addr(&name).expect("somebody listens");
        named.accept().expect("a connection");
        drop(client);
        sender.send(b"packet").expect("room");
        let mut bytes = [0; 8];
        receiver.set_read_timeout(PATIENCE).expect("a limit");
        assert_eq!(receiver.recv(&mut bytes).expect("a packet"), 6);
        assert_eq!(
            removed.local_addr().expect("an address").as_pathname(),
            Some(gone.as_path())
        );
        assert!(!gone.exists());
        std::fs::remove_file(&packets).expect("the path");
        std::fs::remove_file(&path).expect("the path");
    })
}

/// A socket to the kernel's tables of routes, in a group, with a number.
fn netlink_sockets() -> Check {
    const GROUP: i32 = 1;
    let make = || {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: the call takes numbers only.
        owned(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) })
    };
    let number = |socket: &std::fs::File| {
        // SAFETY: a sockaddr_nl is plain numbers, and the kernel writes at most its length.
        unsafe {
            let mut address: libc::sockaddr_nl = std::mem::zeroed();
            let mut len = size_of_val(&address) as libc::socklen_t;
            let place = (&raw mut address).cast();
            assert_eq!(libc::getsockname(socket.as_raw_fd(), place, &mut len), 0);
            (address.nl_pid, address.nl_groups)
        }
    };
    let (bound, unbound) = (make(), make());
    // SAFETY: the kernel reads an address of zeros but for its family: any number.
    unsafe {
        let mut address: libc::sockaddr_nl = std::mem::zeroed();
        address.nl_family = libc::AF_NETLINK as u16;
        let len = size_of_val(&address) as libc::socklen_t;
        assert_eq!(
            libc::bind(bound.as_raw_fd(), (&raw const address).cast(), len),
            0
        );
    }
    set_option(
        &bound,
        libc::SOL_NETLINK,
        libc::NETLINK_ADD_MEMBERSHIP,
        GROUP,
    );
    let before = number(&bound);
    assert!(before.0 != 0 && before.1 == 1);
    Box::new(move || {
        assert_eq!(number(&bound), before);
        assert_eq!(number(&unbound), (0, 0));
        // A request for all interfaces: struct nlmsghdr, struct rtgenmsg.
        let mut request = [0u8; 20];
        request[0] = 20;
        request[4..6].copy_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
        request[6..8].copy_from_slice(&0x301u16.to_ne_bytes());
        for mut socket in [bound, unbound] {
            socket.write_all(&request).expect("room");
            let mut answer = vec![0; 1 << 16];
            assert!(socket.read(&mut answer).expect("an answer") > 20);
        }
    })
}

/// A connection of TCP. It lives on, or it is found at once that it was reset.
fn reset_connection() -> Check {
    loopback_up();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let mut client = TcpStream::connect(address).expect("somebody listens");
    let (mut server, _) = listener.accept().expect("a connection");
    client.write_all(b"on the way").expect("room");
    for end in [&client, &server] {
        end.set_read_timeout(PATIENCE).expect("a limit");
    }
    let set = PollSet::new();
    set.add(&client, libc::EPOLLIN as u32, 1);
    let began = std::process::id();
    Box::new(move || {
        assert_eq!(std::process::id(), began);
        let mut bytes = [0; 10];
        match server.read_exact(&mut bytes) {
            Ok(()) => {
                assert_eq!(&bytes, b"on the way");
                server.write_all(b"back").expect("room");
                client.read_exact(&mut bytes[..4]).expect("bytes");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                let hung_up = (libc::EPOLLIN | libc::EPOLLERR | libc::EPOLLHUP) as u32;
                assert_eq!(set.ready(1000), [(1, hung_up)]);
                let error = client.write_all(b"x").expect_err("it is reset");
                assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                let error = client.write_all(b"x").expect_err("it is reset");
                assert_eq!(error.kind(), ErrorKind::BrokenPipe);
                assert!(client.peer_addr().is_err());
            }
        }
        talk(&listener);
    })
}

/// Two children accept connections at a listener that their parent has made.
fn listener_tree() -> Check {
    loopback_up();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let serve = || {
        let (mut server, _) = listener.accept().expect("a connection");
        let mut bytes = [0; 3];
        server.read_exact(&mut bytes).expect("bytes");
        server.write_all(&bytes).expect("room");
        i32::from(&bytes == b"one" || &bytes == b"two")
    };
    let children = [fork(serve), fork(serve)];
    Box::new(move || {
        for word in [b"one", b"two"] {
            let mut client = TcpStream::connect(address).expect("somebody listens");
            client.write_all(word).expect("room");
            let mut bytes = [0; 3];
            client.read_exact(&mut bytes).expect("an answer");
            assert_eq!(&bytes, word);
        }
        assert_eq!(children.map(wait), [1, 1]);
        drop(listener);
    })
}

/// A parent serves its child at a path, and itself at a name; bytes are on the way both ways.
fn unix_connections(fixture: &Fixture) -> Check {
    let path = fixture.path("served");
    let listener = UnixListener::bind(&path).expect("a socket");
    let child = fork(|| {
        let mut client = UnixStream::connect(&path).expect("somebody listens");
        client.write_all(b"question").expect("room");
        let mut bytes = [0; 6];
        client.read_exact(&mut bytes).expect("an answer");
        let from = client.peer_addr().expect("an address");
        // SAFETY: the call takes nothing.
        let parent = unsafe { libc::getppid() } as u32;
        let knows = from.as_pathname() == Some(&path) && maker(&client)[0] == parent;
        i32::from(&bytes == b"answer" && knows)
    });
    let (mut server, _) = listener.accept().expect("a connection");
    let name = format!("nvvmm-connected-{}", std::process::id());
    let name = SocketAddr::from_abstract_name(name).expect("a name");
    let named = UnixListener::bind_addr(&name).expect("a socket");
    let mut own = UnixStream::connect_addr(&name).expect("somebody listens");
    let (mut accepted, _) = named.accept().expect("a connection");
    own.write_all(b"to me").expect("room");
    accepted.write_all(&[7; 3000]).expect("room");
    while !is_readable(&server) {
        std::thread::sleep(Duration::from_millis(1));
    }
    Box::new(move || {
        let own_path = server.local_addr().expect("an address");
        assert_eq!(own_path.as_pathname(), Some(path.as_path()));
        assert_eq!(maker(&server)[0], child as u32);
        let mut question = [0; 8];
        server.read_exact(&mut question).expect("a question");
        assert_eq!(&question, b"question");
        server.write_all(b"answer").expect("room");
        assert_eq!(wait(child), 1);
        let mut bytes = [0; 3000];
        accepted.read_exact(&mut bytes[..5]).expect("bytes");
        assert_eq!(&bytes[..5], b"to me");
        own.read_exact(&mut bytes).expect("bytes");
        assert!(bytes == [7; 3000]);
        assert!(own.local_addr().expect("an address").is_unnamed());
        let again = UnixStream::connect(&path).expect("somebody listens");
        listener.accept().expect("a connection");
        drop((again, named));
        std::fs::remove_file(&path).expect("the path");
    })
}

fn is_readable(socket: &impl AsRawFd) -> bool {
    let mut asked = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: asked is one pollfd, as the count says.
    unsafe { libc::poll(&mut asked, 1, 0) > 0 }
}

/// A socket of the kernel's packets: nothing that an image holds.
pub fn packet_socket() -> OwnedFd {
    // SAFETY: the call takes numbers only; what it returns is a fresh descriptor.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0);
        assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    }
}
