use super::image_test::{image_of_version_3, reason};
use super::{
    Confined, Connection, Filter, HeldFile, HeldKind, Image, Mapped, Mapping, OpenFile, PageRun,
    Socket, SocketOption, SocketState, Special, Watch, Watches, What,
};

/// A held file of each kind.
fn held() -> Vec<HeldFile> {
    let kinds = [
        HeldKind::Anonymous,
        HeldKind::Memory {
            name: b"shared".to_vec(),
            seals: 6,
        },
        HeldKind::Segment {
            id: 32_769,
            key: 0x4e01,
            removed: true,
        },
        HeldKind::Deleted {
            directory: b"/tmp".to_vec(),
        },
    ];
    let file = |kind| HeldFile {
        kind,
        size_bytes: 9000,
        mode: 0o640,
        owner: (1000, 1001),
        pages: vec![PageRun {
            address: 0x1000,
            pages: 2,
            image_page: 0,
        }],
    };
    kinds.into_iter().map(file).collect()
}

fn listener() -> Socket {
    Socket {
        family: libc::AF_UNIX,
        kind: libc::SOCK_STREAM,
        address: b"\x01\0/run/served".to_vec(),
        state: SocketState::Listening {
            backlog: 128,
            listener: (7, 1000, 1001),
        },
        owner: (1000, 1001),
        file: Some((0o600, 1000, 1001)),
        options: vec![SocketOption {
            level: libc::SOL_SOCKET,
            option: libc::SO_KEEPALIVE,
            value: vec![1, 0, 0, 0],
        }],
        ..Socket::default()
    }
}

/// An image that uses everything that came with version 4. Its bytes are in version-4.bin.
pub(super) fn image_of_version_4() -> Image {
    let mut image = image_of_version_3();
    image.held = held();
    let mapping = |start, what| Mapping {
        start,
        end: start + 0x2000,
        what,
        ..Mapping::default()
    };
    let (held, offset, writable) = (1, 0x1000, true);
    let shared = Mapped::SharedHeld {
        held,
        offset,
        writable,
    };
    let private = Mapped::PrivateHeld { held, offset };
    image.processes[0]
        .mappings
        .extend([mapping(0x60000, shared), mapping(0x70000, private)]);
    image.confined = vec![Confined {
        root: b"/srv".to_vec(),
        filters: vec![Filter {
            program: vec![6, 0, 0, 0, 0, 0, 0xff, 0x7f],
            logs: true,
        }],
    }];
    let watches = Watches {
        watches: vec![Watch {
            number: 3,
            mask: 0x3ce,
            path: b"/etc".to_vec(),
        }],
    };
    for what in [
        What::Socket(Box::new(listener())),
        What::Held { held: 3 },
        What::Special(Special::Watches(watches)),
    ] {
        image.files.push(OpenFile {
            what,
            flags: libc::O_RDWR,
            offset: 12,
        });
    }
    image.connections = vec![Connection {
        pair: 0,
        second: true,
        address: b"\x01\0/run/served".to_vec(),
    }];
    image
}

#[test]
fn the_encoded_image_of_version_4_does_not_change() {
    let bytes = include_bytes!("version-4.bin");
    let image = image_of_version_4();
    let encoded = image.encode().expect("an image");
    assert_eq!(Image::decode(bytes).expect("an image"), image);
    // Behind it there are the lists of version 5, which are empty.
    assert!(
        encoded[24..encoded.len() - 2] == bytes[24..],
        "it is encoded otherwise"
    );
}

#[test]
fn what_came_with_version_4_is_refused_where_it_makes_no_sense() {
    let refused = |change: fn(&mut Image)| {
        let mut image = image_of_version_4();
        change(&mut image);
        reason(&image.encode().expect("an image"))
    };
    assert_eq!(
        refused(|image| image.held.truncate(3)),
        "a held file is missing"
    );
    assert_eq!(
        refused(|image| image.held[0].pages[0].pages = 3),
        "a page is outside of its mapping"
    );
    assert_eq!(
        refused(|image| image.held[0].pages[0].image_page = 2),
        "a page is not one of the image's"
    );
    assert_eq!(
        refused(|image| image.held[0].size_bytes = u64::MAX),
        "a held file is longer than any"
    );
    assert_eq!(
        refused(|image| image.held[0].mode = 0o10000),
        "a held file has no permissions"
    );
    assert_eq!(
        refused(|image| image.confined[0].filters[0].program.truncate(7)),
        "a filter of system calls has no program, or too long a one"
    );
    assert_eq!(
        refused(|image| image.confined.push(Confined::default())),
        "confinement of processes is missing"
    );
    assert_eq!(
        refused(|image| image.connections[0].address[4] = b'x'),
        "a connection has no pair, or nobody listens where it was accepted"
    );
    let socket = |change: fn(&mut Socket)| {
        let mut image = image_of_version_4();
        for file in &mut image.files {
            if let What::Socket(socket) = &mut file.what {
                change(socket);
            }
        }
        reason(&image.encode().expect("an image"))
    };
    assert_eq!(
        socket(|socket| socket.family = libc::AF_PACKET),
        "a socket is of an unknown kind"
    );
    assert_eq!(
        socket(|socket| socket.address[0] = 2),
        "a socket has an address that is none"
    );
    assert_eq!(
        socket(|socket| socket.options[0].option = 1),
        "a socket has an unknown option"
    );
    let numbers = |change: fn(&mut Watches)| {
        let mut image = image_of_version_4();
        for file in &mut image.files {
            if let What::Special(Special::Watches(watches)) = &mut file.what {
                change(watches);
            }
        }
        reason(&image.encode().expect("an image"))
    };
    assert_eq!(
        numbers(|watches| watches.watches[0].number = 0),
        "watches are not in order"
    );
}
