use super::{
    Advice, Image, Mapped, MappedFile, Mapping, OpenFile, PageRun, Pipe, Process,
    ProcessDescriptor, Rseq, SignalAction, Thread, What,
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

fn reason(bytes: &[u8]) -> &'static str {
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
    assert_eq!(again[24..again.len() - 4], bytes[24..]);
    assert_eq!(again[again.len() - 4..], [0; 4]);
}

#[test]
fn an_image_of_version_2_has_its_barriers_and_no_settings() {
    let bytes = include_bytes!("version-2.bin");
    let mut expected = image_of_the_fixture();
    expected.barriers = vec![Some(1 << 4)];
    assert_eq!(Image::decode(bytes).expect("an image"), expected);
}

#[test]
fn an_older_image_has_nothing_behind_its_last_list() {
    let mut image = image();
    image.barriers = vec![Some(1 << 4)];
    let mut bytes = image.encode().expect("an image");
    assert_eq!(bytes[8..12], 3u32.to_le_bytes());
    for older in [1, 2] {
        bytes[8] = older;
        assert_eq!(reason(&bytes), "there is more behind its state");
    }
    bytes[8] = 4;
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
