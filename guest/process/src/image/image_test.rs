use super::{
    Advice, Attached, Ended, EventCounter, Image, Mapped, MappedFile, Mapping, OpenFile, PageRun,
    Pipe, PollEntry, Process, ProcessDescriptor, ProcessTimer, RecordLock, Rseq, Settings,
    SignalAction, Signals, SocketEnd, SocketPair, Special, Thread, ThreadSettings, Timer, What,
};
use crate::arch::Registers;
use crate::error::Error;
use crate::observe::Kernel;

fn image() -> Image {
    let mapping = Mapping {
        start: 0x10000,
        end: 0x20000,
        what: Mapped::Anonymous,
        pages: vec![PageRun {
            address: 0x11000,
            pages: 3,
            image_page: 0,
        }],
        guards: vec![(0x1f000, 1)],
        ..Mapping::default()
    };
    let process = Process {
        pid: 7,
        vdso: 0x40000,
        mappings: vec![mapping],
        actions: vec![SignalAction::default(); 64],
        threads: vec![Thread {
            tid: 7,
            ..Thread::default()
        }],
        ..Process::default()
    };
    let kernel = Kernel {
        release: "6.1".into(),
        vdso_bytes: 0x2000,
        vdso_crc: 1,
    };
    Image {
        kernel,
        pages: 3,
        processes: vec![process],
        ..Image::default()
    }
}

/// An image that uses every kind of record. Its bytes are in version-1.bin, as nvvmm wrote them
/// before images named their architecture.
fn image_of_the_fixture() -> Image {
    let mut image = image();
    image.boot = "8b1c7a34-0000-4000-8000-000000000001".into();
    image.xfeatures = 7;
    image.files = files_of_the_fixture();
    image.pipes = vec![Pipe {
        capacity_bytes: 65_536,
        held: b"held".to_vec(),
    }];
    let process = &mut image.processes[0];
    process.group = 7;
    process.session = 5;
    process.executable = MappedFile {
        path: b"/bin/a".to_vec(),
        identity: (64, 13),
        size_bytes: 9000,
        modified: (1_700_000_000, 5),
    };
    process.mapped_files = vec![process.executable.clone()];
    process.mappings.push(Mapping {
        start: 0x20000,
        end: 0x21000,
        protection: libc::PROT_READ,
        what: Mapped::PrivateFile {
            file: 0,
            offset: 0x1000,
        },
        advice: vec![Advice::DontFork, Advice::LockedOnFault],
        ..Mapping::default()
    });
    process.descriptors = vec![ProcessDescriptor {
        fd: 3,
        file: 0,
        close_on_exec: true,
    }];
    process.directory = b"/".to_vec();
    process.umask = 0o22;
    process.actions[1].handler = 0x11_000;
    process.pending = vec![vec![9; 128]];
    process.itimers[0].value_s = 3;
    process.limits = vec![(1, 2), (u64::MAX, u64::MAX)];
    process.threads[0] = Thread {
        tid: 7,
        name: b"main".to_vec(),
        registers: registers(),
        xstate: vec![0xab; 600],
        signal_mask: 0x8000,
        rseq: Some(Rseq {
            address: 0x11_100,
            size_bytes: 32,
            signature: 0x5305_3053,
        }),
        nice: -3,
        affinity: vec![3],
        ..Thread::default()
    };
    image
}

fn files_of_the_fixture() -> Vec<OpenFile> {
    vec![
        OpenFile {
            what: What::File {
                path: b"/var/log/a".to_vec(),
                identity: (64, 12),
                size_bytes: 5000,
            },
            flags: libc::O_RDWR | libc::O_APPEND,
            offset: 77,
        },
        OpenFile {
            what: What::PipeEnd {
                pipe: 0,
                write: true,
            },
            flags: libc::O_WRONLY,
            offset: 0,
        },
        OpenFile {
            what: What::Stdio {
                stream: 2,
                terminal: Some(vec![1, 2, 3]),
            },
            flags: libc::O_RDWR,
            offset: 0,
        },
        OpenFile {
            what: What::Device {
                path: b"/dev/null".to_vec(),
                device: 259,
            },
            flags: libc::O_RDONLY,
            offset: 0,
        },
    ]
}

fn registers() -> Registers {
    Registers {
        r15: 15,
        rax: u64::MAX,
        orig_rax: 34,
        rip: 0x10_010,
        cs: 0x33,
        rsp: 0x1e_000,
        fs_base: 0x11_200,
        ..Registers::default()
    }
}

pub(super) fn reason(bytes: &[u8]) -> &'static str {
    match Image::decode(bytes) {
        Err(Error::BadImage(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn comes_back_as_it_was() {
    let bytes = image().encode().expect("an image");
    assert_eq!(Image::decode(&bytes).expect("the image"), image());
}

#[test]
fn any_byte_that_changed_or_is_missing_is_noticed() {
    let bytes = image().encode().expect("an image");
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 0x40;
        assert!(Image::decode(&changed).is_err(), "byte {at}");
        assert!(Image::decode(&bytes[..at]).is_err(), "{at} bytes");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(reason(&longer), "its length is not what its header says");
}

/// Garbage with a right checksum reaches the decoder and what comes behind it.
#[test]
fn garbage_with_a_right_checksum_never_panics() {
    let whole = image().encode().expect("an image");
    let mut seed = 1u64;
    for round in 0..3000 {
        let mut bytes = whole.clone();
        for _ in 0..=round % 4 {
            seed = seed
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let at = 24 + (seed >> 33) as usize % (bytes.len() - 24);
            bytes[at] = (seed >> 24) as u8;
        }
        let crc = crc32fast::hash(&bytes[24..]).to_le_bytes();
        bytes[20..24].copy_from_slice(&crc);
        let _ = Image::decode(&bytes);
    }
}

fn refused(change: impl FnOnce(&mut Image)) -> &'static str {
    let mut image = image();
    change(&mut image);
    reason(&image.encode().expect("an image"))
}

#[test]
fn what_makes_no_sense_is_refused() {
    assert_eq!(
        refused(|image| image.processes.clear()),
        "it has no process"
    );
    assert_eq!(
        refused(|image| image.barriers = vec![None; 2]),
        "registrations for memory barriers are missing"
    );
    assert_eq!(
        refused(|image| image.pages = 2),
        "a page is not one of the image's"
    );
    assert_eq!(
        refused(|image| image.processes[0].threads.clear()),
        "a process has no thread"
    );
    assert_eq!(
        refused(|image| image.processes[0].pid = 8),
        "a process's first thread is not its leader"
    );
    assert_eq!(
        refused(|image| image.processes[0].vdso = 0x1f000),
        "mappings overlap"
    );
    let mapping =
        |change: fn(&mut Mapping)| refused(|image| change(&mut image.processes[0].mappings[0]));
    assert_eq!(
        mapping(|mapping| mapping.end = 0x12000),
        "a page is outside of its mapping"
    );
    assert_eq!(
        mapping(|mapping| mapping.end = u64::MAX),
        "a mapping has wrong addresses"
    );
    assert_eq!(
        mapping(|mapping| mapping.pages[0].pages = u64::MAX / 4096),
        "a page is outside of its mapping"
    );
    assert_eq!(
        mapping(|mapping| mapping.guards[0].0 = 0x9000),
        "a guard is outside of its mapping"
    );
    assert_eq!(
        mapping(|mapping| mapping.what = Mapped::PrivateFile { file: 0, offset: 0 }),
        "a mapping's file is missing"
    );
}

#[test]
fn an_image_that_names_no_architecture_is_read_as_x86_64() {
    let bytes = include_bytes!("version-1.bin");
    assert_eq!(bytes[12..16], [0; 4]);
    let image = Image::decode(bytes).expect("an image");
    assert_eq!(image, image_of_the_fixture());
    // The version of now has more lists, which are empty, and names the architecture.
    let again = image.encode().expect("an image");
    assert_eq!(again[12..16], 62u32.to_le_bytes(), "new images name it");
    assert!(again[24..again.len() - 10] == bytes[24..]);
    assert_eq!(again[again.len() - 10..], [0; 10]);
}

#[test]
fn an_image_of_version_2_has_its_barriers_and_no_settings() {
    let bytes = include_bytes!("version-2.bin");
    let mut expected = image_of_the_fixture();
    expected.barriers = vec![Some(1 << 4)];
    assert_eq!(Image::decode(bytes).expect("an image"), expected);
}

/// An image that uses everything that came with version 3. Its bytes are in version-3.bin.
pub(super) fn image_of_version_3() -> Image {
    let mut image = image_of_the_fixture();
    image.barriers = vec![None];
    let mut file = |what| {
        image.files.push(OpenFile {
            what,
            flags: libc::O_RDWR,
            offset: 0,
        });
    };
    file(What::NamedPipe {
        pipe: 0,
        path: b"/run/a".to_vec(),
    });
    file(What::Special(Special::EventCounter(EventCounter {
        count: 300,
        semaphore: true,
    })));
    file(What::Special(Special::Timer(Timer {
        clock: 1,
        flags: 1,
        ticks: 4,
        interval: (0, 5000),
        left: (6, 7),
        now: (8, 9),
    })));
    file(What::Special(Special::Signals(Signals { mask: 1 << 40 })));
    file(What::PollSet {
        entries: vec![PollEntry {
            fd: 3,
            file: 5,
            events: 0x8000_0019,
            data: u64::MAX,
        }],
    });
    file(What::SocketEnd {
        pair: 0,
        second: true,
    });
    file(What::ProcessFile { pid: 8 });
    image.settings = vec![settings()];
    image.attached = vec![Attached {
        file: 0,
        owner: Some((1, 7)),
        signal: 35,
        lock: Some(true),
        record_locks: vec![lock(0, 3, 0)],
    }];
    image.ended = vec![Ended {
        pid: 8,
        parent: 0,
        group: 7,
        session: 5,
        name: b"over".to_vec(),
        status: 0x700,
        exit_signal: libc::SIGCHLD,
    }];
    image.pairs = vec![SocketPair {
        kind: libc::SOCK_STREAM,
        maker: (7, 1000, 1001),
        ends: [
            SocketEnd {
                held: b"held".to_vec(),
                shut_down: 2,
                buffers: [212_992; 2],
                options: vec![(libc::SO_PASSCRED, vec![1, 0, 0, 0])],
            },
            SocketEnd::default(),
        ],
    }];
    image
}

fn lock(file: u32, start: u64, len_bytes: u64) -> RecordLock {
    RecordLock {
        file,
        exclusive: true,
        start,
        len_bytes,
    }
}

fn settings() -> Settings {
    Settings {
        exit_signal: libc::SIGUSR1,
        huge_pages_off: 1,
        deny_write_execute: 1,
        merges_memory: true,
        locks_memory: 2,
        core_filter: Some(0x33),
        is_stopped: true,
        timers: vec![ProcessTimer {
            id: 2,
            clock: -14,
            notify: 4,
            signal: 34,
            value: 1 << 40,
            thread: 7,
            interval: (1, 2),
            left: (3, 4),
        }],
        locks: vec![lock(0, 10, 5)],
        threads: vec![ThreadSettings {
            timer_slack_ns: 50_000,
            time_stamps: 1,
            memory_failure: 2,
            speculation: [3, 9, 0],
        }],
    }
}

#[test]
fn the_encoded_image_of_version_3_does_not_change() {
    let bytes = include_bytes!("version-3.bin");
    assert_eq!(
        Image::decode(bytes).expect("an image"),
        image_of_version_3()
    );
    // Behind it there are the lists of newer versions, which are empty.
    let again = image_of_version_3().encode().expect("an image");
    assert!(again[24..again.len() - 5] == bytes[24..]);
}

#[test]
fn what_came_with_version_3_is_refused_where_it_makes_no_sense() {
    let refused = |change: fn(&mut Image)| {
        let mut image = image_of_version_3();
        change(&mut image);
        reason(&image.encode().expect("an image"))
    };
    assert_eq!(
        refused(|image| image.settings[0].threads.clear()),
        "settings of threads are missing"
    );
    assert_eq!(
        refused(|image| image.settings[0].exit_signal = 65),
        "an exit signal is none"
    );
    assert_eq!(
        refused(|image| image.settings[0].locks[0].file = 99),
        "a locked file is missing"
    );
    assert_eq!(
        refused(|image| image.settings[0].timers[0].left.1 = -1),
        "a timer has a time or number that is none"
    );
    assert_eq!(
        refused(|image| image.attached[0].owner = Some((1, 1))),
        "the owner of a file is none of its processes"
    );
    assert_eq!(
        refused(|image| image.attached[0].record_locks[0].file = 1),
        "a file that something is attached to is missing"
    );
    assert_eq!(
        refused(|image| image.ended[0].status = 0x8b),
        "an ended child has a status that is none"
    );
    assert_eq!(
        refused(|image| image.ended.push(image.ended[0].clone())),
        "an ended child's number is wrong or there twice"
    );
    assert_eq!(
        refused(|image| image.ended.clear()),
        "a descriptor of a process has no process"
    );
    assert_eq!(
        refused(|image| image.pairs[0].ends[0].options[0].0 = 1),
        "a socket has an unknown option"
    );
    assert_eq!(
        refused(|image| image.pairs.clear()),
        "a pair of sockets is missing"
    );
    let special = |change: fn(&mut Special)| {
        let mut image = image_of_version_3();
        for file in &mut image.files {
            if let What::Special(state) = &mut file.what {
                change(state);
            }
        }
        reason(&image.encode().expect("an image"))
    };
    let count = |state: &mut Special| {
        if let Special::EventCounter(counter) = state {
            counter.count = u64::MAX;
        }
    };
    assert_eq!(special(count), "a counter is larger than any");
    let left = |state: &mut Special| {
        if let Special::Timer(timer) = state {
            timer.left.0 = -1;
        }
    };
    assert_eq!(special(left), "a timer has a time that is none");
}

#[test]
fn an_older_image_has_nothing_behind_its_last_list() {
    let mut image = image();
    image.barriers = vec![Some(1 << 4)];
    let mut bytes = image.encode().expect("an image");
    assert_eq!(bytes[8..12], 5u32.to_le_bytes());
    for older in [1, 2, 3, 4] {
        bytes[8] = older;
        assert_eq!(reason(&bytes), "there is more behind its state");
    }
    bytes[8] = 6;
    assert_eq!(reason(&bytes), "another version of nvvmm made it");
}

#[test]
fn an_image_of_another_architecture_is_refused_by_name() {
    let mut bytes = image().encode().expect("an image");
    for (number, name) in [(183u32, "aarch64"), (243, "riscv64"), (7, "architecture 7")] {
        bytes[12..16].copy_from_slice(&number.to_le_bytes());
        match Image::decode(&bytes) {
            Err(error @ Error::OtherArchitecture(_)) => {
                let message = error.to_string();
                assert!(message.contains(name), "{message}");
                assert!(message.ends_with("this machine is x86_64"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
}
