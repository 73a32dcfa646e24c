use super::{Image, Mapped, Mapping, PageRun, Process, SignalAction, Thread};
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
