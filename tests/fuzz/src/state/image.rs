//! Images of processes, into which the host looks for privileges.

use std::sync::LazyLock;

use nvvmm::process::first_privilege;
use nvvmm_process::image::{
    Confined, Connection, EventCounter, Filter, HeldFile, Image, MappedFile, Mapping, OpenFile,
    PollEntry, Process, Settings, SignalAction, Socket, SocketPair, SocketState, Special, Thread,
    ThreadSettings, What,
};

use crate::script::Script;

/// Bytes of the header before the state; the state's length and checksum are at its end.
const HEADER_BYTES: usize = 24;
const LENGTH_AT: usize = 16;
/// Most changes to a good image.
const PATCHES_MAX: usize = 32;

/// An image of one process with a file, a mapping and two threads.
fn example() -> &'static [u8] {
    static EXAMPLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let thread = |tid| {
            let mut thread = Thread {
                tid,
                ..Thread::default()
            };
            thread.credentials.ids.users = [1000; 4];
            thread.credentials.ids.groups = [1000; 4];
            thread
        };
        let process = Process {
            pid: 7,
            vdso: 0x7fff_0000_0000,
            actions: vec![SignalAction::default(); 64],
            mapped_files: vec![MappedFile::default()],
            mappings: vec![Mapping {
                start: 0x1000,
                end: 0x2000,
                ..Mapping::default()
            }],
            threads: vec![thread(7), thread(8)],
            ..Process::default()
        };
        let stdio = What::Stdio {
            stream: 1,
            terminal: None,
        };
        let counter = What::Special(Special::EventCounter(EventCounter {
            count: 1,
            semaphore: false,
        }));
        let entries = vec![PollEntry {
            fd: 3,
            file: 1,
            events: 1,
            data: 2,
        }];
        let file = |what| OpenFile {
            what,
            flags: 0,
            offset: 0,
        };
        let mut image = Image {
            files: vec![
                file(stdio),
                file(counter),
                file(What::PollSet { entries }),
                file(What::Socket(Box::new(listener()))),
                file(What::Held { held: 0 }),
            ],
            processes: vec![process],
            settings: vec![Settings {
                threads: vec![ThreadSettings::default(); 2],
                ..Settings::default()
            }],
            pairs: vec![SocketPair {
                kind: 1,
                maker: (7, 1000, 1000),
                ..SocketPair::default()
            }],
            held: vec![HeldFile::default()],
            confined: vec![confined()],
            connections: vec![Connection {
                pair: 0,
                second: true,
                address: listener().address,
            }],
            ..Image::default()
        };
        image.kernel.vdso_bytes = 0x2000;
        image.encode().expect("an image")
    });
    &EXAMPLE
}

/// Confinement by one filter of system calls.
fn confined() -> Confined {
    Confined {
        root: b"/".to_vec(),
        filters: vec![Filter {
            program: vec![0; 8],
            logs: false,
        }],
    }
}

/// A unix socket that listens at a name.
fn listener() -> Socket {
    const UNIX: i32 = 1;
    const STREAM: i32 = 1;
    Socket {
        family: UNIX,
        kind: STREAM,
        address: b"\x01\0\0name".to_vec(),
        state: SocketState::Listening {
            backlog: 5,
            listener: (7, 1000, 1000),
        },
        ..Socket::default()
    }
}

/// Changes a good image, and makes its length and checksum right.
pub(super) fn run(script: &mut Script) {
    let mut image = example().to_vec();
    for _ in 0..PATCHES_MAX {
        let state_bytes = image.len() - HEADER_BYTES;
        if state_bytes < 16 {
            break;
        }
        let at = HEADER_BYTES + usize::from(script.u16()) % state_bytes;
        let len = usize::from(script.u8() % 9);
        let removed = usize::from(script.u8() % 9).min(image.len() - 1 - at);
        image.splice(at..at + removed, script.bytes(len).iter().copied());
    }
    let length = (image.len() - HEADER_BYTES) as u32;
    let checksum = crc32fast::hash(&image[HEADER_BYTES..]);
    image[LENGTH_AT..HEADER_BYTES]
        .copy_from_slice(&[length, checksum].map(u32::to_le_bytes).concat());
    check(&image);
}

/// Whatever is taken for an image says who its processes run as, or is an error.
pub(super) fn check(image: &[u8]) {
    match first_privilege(image) {
        Ok(Some(privilege)) => assert!(!privilege.is_empty()),
        Ok(None) => {
            let image = Image::decode(image).expect("it was decoded before");
            let mut threads = { image.processes.iter() }.flat_map(|process| &process.threads);
            assert!(threads.all(|thread| !thread.credentials.ids.users.contains(&0)));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
