use nvvmm_process::image::{
    Confined, HeldFile, MappedFile, Mapping, OpenFile, Process, SignalAction, Socket, SocketOption,
    SocketPair, Thread, Watch, Watches,
};

use super::*;

/// An image of two processes of user and group 1000, the second of which has two threads.
fn ordinary() -> Image {
    let thread = |tid| {
        let mut thread = Thread {
            tid,
            ..Thread::default()
        };
        let ids = &mut thread.credentials.ids;
        ids.users = [1000; 4];
        ids.groups = [1000; 4];
        ids.more_groups = vec![1000, 27];
        // The bounding set of an ordinary process.
        ids.capabilities = [0, 0, 0, 0x1ff_ffff_ffff, 0];
        thread
    };
    let process = |parent, threads: Vec<Thread>| Process {
        pid: threads[0].tid,
        parent,
        vdso: 0x7fff_0000_0000,
        actions: vec![SignalAction::default(); 64],
        threads,
        ..Process::default()
    };
    let mut image = Image {
        processes: vec![
            process(None, vec![thread(70)]),
            process(Some(0), vec![thread(71), thread(72)]),
        ],
        ..Image::default()
    };
    image.kernel.vdso_bytes = 0x2000;
    image
}

/// The privilege that is found when the last thread of [`ordinary`] has other credentials.
fn with(change: impl FnOnce(&mut Credentials)) -> Option<String> {
    let mut image = ordinary();
    change(&mut image.processes[1].threads[1].credentials);
    first_privilege(&image.encode().unwrap()).unwrap()
}

#[test]
fn an_ordinary_process_has_no_privilege() {
    assert_eq!(with(|_| {}), None);
}

#[test]
fn each_way_to_be_root_is_found_in_any_thread() {
    for at in 0..4 {
        let found = with(|credentials| credentials.ids.users[at] = 0).unwrap();
        assert_eq!(found, "process 71 of it would have the user 0 (root)");
        let found = with(|credentials| credentials.ids.groups[at] = 0).unwrap();
        assert!(found.contains("the group 0"), "{found}");
    }
    let found = with(|credentials| credentials.ids.more_groups.push(0)).unwrap();
    assert!(found.contains("the group 0"), "{found}");
    for at in [0, 1, 2, 4] {
        let found = with(|credentials| credentials.ids.capabilities[at] = 1 << 21).unwrap();
        assert!(found.contains("capabilities (0x200000)"), "{found}");
    }
}

#[test]
fn files_that_the_agent_would_open_as_root_are_found() {
    let opened = |what| {
        let mut image = ordinary();
        image.files.push(OpenFile {
            what,
            flags: 0,
            offset: 0,
        });
        first_privilege(&image.encode().unwrap()).unwrap()
    };
    let found = opened(What::File {
        path: b"/etc/shadow".into(),
        identity: (1, 2),
        size_bytes: 0,
    });
    let found = found.unwrap();
    assert!(
        found.contains("/etc/shadow, which the agent opens"),
        "{found}"
    );
    let device = |path: &[u8]| {
        opened(What::Device {
            path: path.into(),
            device: 1,
        })
    };
    assert!(device(b"/dev/vda").is_some());
    assert_eq!(device(b"/dev/urandom"), None);
    let watches = Watches {
        watches: vec![Watch {
            number: 1,
            mask: 2,
            path: b"/root/.ssh".into(),
        }],
    };
    let watched = opened(What::Special(Special::Watches(watches)));
    assert!(watched.unwrap().contains("/root/.ssh"));
    let stdio = What::Stdio {
        stream: 1,
        terminal: None,
    };
    assert_eq!(opened(stdio), None);

    let mapped = |what| {
        let mut image = ordinary();
        let process = &mut image.processes[0];
        process.mapped_files.push(MappedFile {
            path: b"/lib/libc.so".into(),
            ..MappedFile::default()
        });
        process.mappings.push(Mapping {
            start: 0x1000,
            end: 0x2000,
            what,
            ..Mapping::default()
        });
        first_privilege(&image.encode().unwrap()).unwrap()
    };
    let (file, offset) = (0, 0);
    assert_eq!(mapped(Mapped::PrivateFile { file, offset }), None);
    let writable = false;
    let shared = mapped(Mapped::SharedFile {
        file,
        offset,
        writable,
    });
    assert!(shared.unwrap().contains("/lib/libc.so"));
}

#[test]
fn a_pair_of_sockets_that_root_made_is_a_privilege() {
    let made_by = |user, group| {
        let mut image = ordinary();
        image.pairs.push(SocketPair {
            kind: 1,
            maker: (70, user, group),
            ..SocketPair::default()
        });
        first_privilege(&image.encode().unwrap()).unwrap()
    };
    assert_eq!(made_by(1000, 1000), None);
    for found in [made_by(0, 1000), made_by(1000, 0)] {
        assert!(found.unwrap().contains("that root has made it"));
    }
}

#[test]
fn files_that_the_agent_would_make_as_root_are_found() {
    let held = |kind, mode| {
        let mut image = ordinary();
        image.held.push(HeldFile {
            kind,
            mode,
            ..HeldFile::default()
        });
        first_privilege(&image.encode().unwrap()).unwrap()
    };
    let memory = || HeldKind::Memory {
        name: b"a".to_vec(),
        seals: 0,
    };
    assert_eq!(held(HeldKind::Anonymous, 0o777), None);
    assert_eq!(held(memory(), 0o777), None);
    assert!(held(memory(), 0o4755).unwrap().contains("as another user"));
    let directory = b"/etc/cron.d".to_vec();
    let deleted = held(HeldKind::Deleted { directory }, 0o600).unwrap();
    assert!(deleted.contains("made in /etc/cron.d"), "{deleted}");
    let segment = HeldKind::Segment {
        id: 3,
        key: 0,
        removed: true,
    };
    assert!(held(segment, 0o600).unwrap().contains("the segment 3"));
}

#[test]
fn sockets_that_the_agent_would_make_as_root_are_found() {
    let made = |socket: Socket| {
        let mut image = ordinary();
        image.files.push(OpenFile {
            what: What::Socket(Box::new(socket)),
            flags: 0,
            offset: 0,
        });
        first_privilege(&image.encode().unwrap()).unwrap()
    };
    // AF_INET, SOCK_STREAM, TCP; then AF_UNIX.
    let internet = |port: u16| Socket {
        family: 2,
        kind: 1,
        protocol: 6,
        address: [&[2, 0][..], &port.to_be_bytes(), &[0; 12]].concat(),
        ..Socket::default()
    };
    let unix = |name: &[u8], user| Socket {
        family: 1,
        kind: 1,
        address: [&[1, 0][..], name].concat(),
        state: SocketState::Listening {
            backlog: 5,
            listener: (70, user, 1000),
        },
        ..Socket::default()
    };
    assert_eq!(made(internet(8080)), None);
    assert_eq!(made(unix(b"\0name", 1000)), None);
    assert!(made(internet(80)).unwrap().contains("the port 80"));
    assert!(
        made(unix(b"/run/a", 1000))
            .unwrap()
            .contains("made at /run/a")
    );
    assert!(made(unix(b"\0name", 0)).unwrap().contains("root listens"));
    let mut marked = internet(8080);
    marked.options.push(SocketOption {
        level: 1,
        option: 36,
        value: vec![1, 0, 0, 0],
    });
    let mut member = internet(8080);
    member.groups = vec![3];
    assert!(made(member).unwrap().contains("options that only root"));
    assert!(made(marked).unwrap().contains("options that only root"));
}

#[test]
fn another_root_directory_is_a_privilege() {
    let mut image = ordinary();
    let confined = |root: &[u8]| Confined {
        root: root.to_vec(),
        ..Confined::default()
    };
    image.confined = vec![confined(b"/"), confined(b"/srv")];
    let found = first_privilege(&image.encode().unwrap()).unwrap().unwrap();
    assert!(found.contains("the root directory /srv"), "{found}");
    image.confined[1] = confined(b"/");
    assert_eq!(first_privilege(&image.encode().unwrap()).unwrap(), None);
}

#[test]
fn bytes_that_are_no_image_are_an_error() {
    let image = ordinary().encode().unwrap();
    for bytes in [&b""[..], &image[..image.len() - 1]] {
        first_privilege(bytes).unwrap_err();
    }
}
