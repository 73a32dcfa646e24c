use std::os::unix::fs::MetadataExt;
use std::thread;

use tempfile::NamedTempFile;

use super::*;

const BLOCK: u64 = 4096;
const BLOCKS: u64 = 64;

fn disk() -> (NamedTempFile, RawDisk) {
    let image = NamedTempFile::new().unwrap();
    let bytes = vec![0x5a; (BLOCK * BLOCKS) as usize];
    std::fs::write(image.path(), bytes).unwrap();
    let disk = RawDisk::open(image.path(), false).unwrap();
    (image, disk)
}

/// Bytes of the image that are not zero.
fn filled(image: &NamedTempFile) -> u64 {
    let bytes = std::fs::read(image.path()).unwrap();
    bytes.iter().filter(|&&byte| byte != 0).count() as u64
}

fn used_blocks(image: &NamedTempFile) -> u64 {
    image.as_file().metadata().unwrap().blocks()
}

#[test]
fn zeros_are_written_exactly_where_they_are_asked_for() {
    for may_unmap in [false, true] {
        let (image, disk) = disk();
        // Odd sectors at both ends.
        let (start, len) = (3 * 512, 17 * BLOCK + 512);
        disk.write_zeroes(start, len, may_unmap).unwrap();
        let bytes = std::fs::read(image.path()).unwrap();
        assert_eq!(bytes.len() as u64, BLOCK * BLOCKS);
        let range = start as usize..(start + len) as usize;
        assert!(bytes[range].iter().all(|&byte| byte == 0), "{may_unmap}");
        assert_eq!(filled(&image), BLOCK * BLOCKS - len, "{may_unmap}");
    }
}

#[test]
fn zeros_are_written_in_pieces_where_the_file_system_makes_none() {
    let (image, disk) = disk();
    let range = FileRange {
        offset_bytes: 512,
        len_bytes: 2 * ZEROS_BYTES as u64 + 512,
    };
    disk.image.fill_with_zeros(range).unwrap();
    assert_eq!(filled(&image), BLOCK * BLOCKS - range.len_bytes);
    let first = std::fs::read(image.path()).unwrap();
    assert_eq!(first[511..513], [0x5a, 0]);
}

#[test]
fn a_discard_gives_space_back_where_the_file_system_can() {
    let (image, disk) = disk();
    let before = used_blocks(&image);
    let range = FileRange {
        offset_bytes: 0,
        len_bytes: BLOCK,
    };
    let can = sys::punch_hole(image.as_file(), range).unwrap();
    disk.discard(BLOCK, 32 * BLOCK).unwrap();
    if can {
        assert!(used_blocks(&image) < before);
    }
    let bytes = std::fs::read(image.path()).unwrap();
    assert_eq!(bytes.len() as u64, BLOCK * BLOCKS);
    assert!(
        bytes[33 * BLOCK as usize..]
            .iter()
            .all(|&byte| byte == 0x5a)
    );
}

#[test]
fn discards_and_zeros_are_told_from_those_before_a_snapshot() {
    let (_image, disk) = disk();
    disk.discard(0, BLOCK).unwrap();
    if disk.content().unwrap().mark.is_none() {
        println!("SKIPPED: this file system keeps no attributes");
        return;
    }
    let first = disk.note_content().unwrap();
    disk.write_zeroes(0, BLOCK, true).unwrap();
    let second = disk.note_content().unwrap();
    assert_ne!(first.mark, second.mark);
    disk.discard(0, BLOCK).unwrap();
    assert_ne!(second.mark, disk.content().unwrap().mark);
}

#[test]
fn threads_that_write_at_once_leave_one_mark() {
    let (image, disk) = disk();
    for _ in 0..20 {
        disk.note_content();
        thread::scope(|scope| {
            for at in 0..4 {
                let disk = &disk;
                scope.spawn(move || disk.write_zeroes(at * BLOCK, BLOCK, false).unwrap());
            }
        });
        let found = Marking::of(image.as_file()).stamp(image.as_file()).unwrap();
        assert_eq!(found.unwrap().mark, disk.content().unwrap().mark);
    }
}

#[test]
fn a_new_size_is_found_when_it_is_asked_for() {
    let (image, disk) = disk();
    image.as_file().set_len(BLOCK).unwrap();
    assert_eq!(disk.size_bytes(), BLOCK * BLOCKS);
    assert_eq!(disk.find_size().unwrap(), BLOCK);
    assert_eq!(disk.size_bytes(), BLOCK);
    for impossible in [0, 1000] {
        image.as_file().set_len(impossible).unwrap();
        let error = disk.find_size().unwrap_err().to_string();
        assert!(error.contains(image.path().to_str().unwrap()), "{error}");
        assert_eq!(disk.size_bytes(), BLOCK);
    }
}

#[test]
fn an_image_in_the_format_qcow2_is_recognised() {
    let (image, disk) = disk();
    disk.check_is_raw().unwrap();
    image
        .as_file()
        .write_all_at(b"QFI\xfb\0\0\0\x03", 0)
        .unwrap();
    let error = disk.check_is_raw().unwrap_err();
    assert!(error.to_string().contains("is a qcow2 image"), "{error}");
    assert!(
        error
            .remedy()
            .is_some_and(|remedy| remedy.contains("-O raw"))
    );
}

#[test]
fn a_full_storage_is_told_from_a_broken_one() {
    let full = DiskError::from(io::Error::from_raw_os_error(libc::ENOSPC));
    assert!(matches!(full, DiskError::NoSpace));
    let quota = DiskError::from(io::Error::from_raw_os_error(libc::EDQUOT));
    assert!(matches!(quota, DiskError::NoSpace));
    let broken = DiskError::from(io::Error::from_raw_os_error(libc::EIO));
    assert!(matches!(broken, DiskError::Io(_)));
}
