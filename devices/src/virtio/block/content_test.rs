use std::fs::{FileTimes, read, write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use virtio_bindings::virtio_blk::{VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT};

use super::*;
use crate::virtio::block::block_test::{DATA, FLUSH, OK, image, request};
use crate::virtio::block::{Block, RawDisk};
use crate::virtio::test_driver::Driver;

fn open(path: &Path) -> RawDisk {
    RawDisk::open(path, false).unwrap()
}

/// A guest with a disk, and the handle by which its VM notes the disk's content.
fn guest(path: &Path) -> (Driver, RawDisk) {
    let disk = open(path);
    let mut driver = Driver::new(Box::new(Block::new(disk.reuse().unwrap(), "")));
    driver.start(FLUSH);
    (driver, disk)
}

fn guest_writes(driver: &mut Driver) {
    driver.store(DATA, &[0xab; 512]);
    let status = request(driver, VIRTIO_BLK_T_OUT, 3, &[(DATA, 512, false)]);
    assert_eq!(status, OK);
}

fn guest_reads(driver: &mut Driver) {
    let status = request(driver, VIRTIO_BLK_T_IN, 3, &[(DATA, 512, true)]);
    assert_eq!(status, OK);
}

/// Gives the file the time of modification that it had: only the mark tells of a write.
fn set_time(path: &Path, stamp: &ContentStamp) {
    let at = UNIX_EPOCH + Duration::from_nanos(stamp.modified_unix_ns as u64);
    let file = File::options().write(true).open(path).unwrap();
    file.set_times(FileTimes::new().set_modified(at)).unwrap();
}

/// False, and a note, where the file system keeps no marks.
fn keeps_marks(path: &Path) -> bool {
    let kept = sys::set_attribute(&File::open(path).unwrap(), ATTRIBUTE, b"no mark");
    if let Err(error) = &kept {
        println!("SKIPPED: {} keeps no attributes: {error}", path.display());
    }
    kept.is_ok()
}

#[test]
fn a_write_of_the_guest_after_a_snapshot_is_told_even_within_one_tick_of_the_clock() {
    let image = image();
    if !keeps_marks(image.path()) {
        return;
    }
    let (mut driver, mut disk) = guest(image.path());
    guest_writes(&mut driver);
    for _ in 0..2 {
        let noted = disk.note_content().unwrap();
        assert!(noted.mark.is_some());
        guest_reads(&mut driver);
        assert_eq!(noted.compare(&disk.content().unwrap()), Since::Unwritten);
        guest_writes(&mut driver);
        set_time(image.path(), &noted);
        let found = disk.content().unwrap();
        assert_eq!(found.modified_unix_ns, noted.modified_unix_ns);
        assert_eq!(noted.compare(&found), Since::Written);
        // Another process that opens the file finds the same.
        drop((driver, disk));
        let again = guest(image.path());
        assert_eq!(noted.compare(&again.1.content().unwrap()), Since::Written);
        (driver, disk) = again;
        guest_writes(&mut driver);
    }
}

#[test]
fn the_mark_is_in_the_file_before_the_write_is() {
    let image = image();
    if !keeps_marks(image.path()) {
        return;
    }
    let file = File::options().write(true).open(image.path()).unwrap();
    let marking = Marking::of(&file);
    for is_stable in [false, true] {
        if is_stable {
            marking.keep_stable();
        }
        marking.note();
        let noted = marking.stamp(&file).unwrap().unwrap();
        marking.before_write(&file).unwrap();
        // What a process finds that opens the file after the end of this one, at this moment.
        let found = Marking::of(&file).stamp(&file).unwrap().unwrap();
        assert_eq!(found.modified_unix_ns, noted.modified_unix_ns);
        assert_eq!(noted.compare(&found), Since::Written);
    }
}

#[test]
fn a_disk_that_is_only_read_keeps_its_mark_through_any_number_of_vms() {
    let image = image();
    let (mut driver, disk) = guest(image.path());
    guest_writes(&mut driver);
    let noted = disk.note_content().unwrap();
    disk.settle();
    drop((driver, disk));
    for _ in 0..3 {
        let (mut driver, disk) = guest(image.path());
        guest_reads(&mut driver);
        assert_eq!(noted.compare(&disk.content().unwrap()), Since::Unwritten);
        disk.note_content();
        disk.settle();
    }
}

#[test]
fn a_write_of_another_program_is_told_by_its_time() {
    let image = image();
    let disk = open(image.path());
    let noted = disk.note_content().unwrap();
    image.as_file().write_all_at(b"host", 0).unwrap();
    let later = SystemTime::now() + Duration::from_secs(1);
    let times = FileTimes::new().set_modified(later);
    image.as_file().set_times(times).unwrap();
    assert_eq!(noted.compare(&disk.content().unwrap()), Since::Written);
}

/// Copies the content, at a time that is later by this than the clock's.
fn write_over(copy: &Path, from: &Path, seconds: u64) {
    write(copy, read(from).unwrap()).unwrap();
    let later = SystemTime::now() + Duration::from_secs(seconds);
    let file = File::options().write(true).open(copy).unwrap();
    file.set_times(FileTimes::new().set_modified(later))
        .unwrap();
}

#[test]
fn a_copy_is_told_by_its_mark_and_a_mark_that_was_written_over_counts_no_more() {
    let (image, copy) = (image(), image());
    if !keeps_marks(image.path()) {
        return;
    }
    let (mut driver, disk) = guest(image.path());
    guest_writes(&mut driver);
    let noted = disk.note_content().unwrap();
    // As 'cp' makes it: without attributes. It may be of any moment.
    let compared = |path: &Path| noted.compare(&open(path).content().unwrap());
    write_over(copy.path(), image.path(), 1);
    assert_eq!(compared(copy.path()), Since::OtherFile);
    // As 'cp -a' makes it.
    let mark = noted.mark.clone().unwrap();
    let set = |path: &Path, text: &str| {
        let file = File::open(path).unwrap();
        sys::set_attribute(&file, ATTRIBUTE, text.as_bytes()).unwrap();
    };
    set(copy.path(), &mark);
    assert_eq!(compared(copy.path()), Since::Unwritten);
    // A VM has run on the copy.
    {
        let (mut driver, disk) = guest(copy.path());
        guest_writes(&mut driver);
        disk.settle();
    }
    assert_eq!(compared(copy.path()), Since::Written);
    // It was copied anew, over the one that was used.
    write_over(copy.path(), image.path(), 2);
    assert_eq!(compared(copy.path()), Since::OtherFile);
}

#[test]
fn only_marks_are_marks() {
    let mark = "0123456789abcdef0123456789abcdef";
    let valid = |text: &str| valid_mark(text.as_bytes(), 7);
    assert_eq!(valid(mark).as_deref(), Some(mark));
    assert_eq!(valid(&format!("{mark} 7")).as_deref(), Some(mark));
    for other in [
        "",
        "no mark",
        &mark[1..],
        &format!("{mark} 8"),
        &format!("{mark} "),
        &format!("{mark}0"),
        &mark.replace('0', "g"),
    ] {
        assert_eq!(valid(other), None, "{other:?}");
    }
    assert_eq!(valid_mark(&[0xff; 32], 7), None);
}

#[test]
fn what_is_compared_decides() {
    let stamp = |mark: Option<&str>, time, inode| ContentStamp {
        size_bytes: 512,
        modified_unix_ns: time,
        device: 1,
        inode,
        mark: mark.map(str::to_owned),
    };
    use Since::{OtherFile, Unwritten, Written};
    for (noted, now, expected) in [
        // Without marks the time decides, for the same file.
        ((None, 1, 1), (None, 1, 1), Unwritten),
        ((None, 1, 1), (None, 2, 1), Written),
        ((None, 1, 1), (None, 1, 2), Unwritten),
        ((None, 1, 1), (None, 2, 2), OtherFile),
        // A mark that came or changed: a VM has written.
        ((None, 1, 1), (Some("a"), 1, 1), Written),
        ((Some("a"), 1, 1), (Some("b"), 1, 1), Written),
        ((Some("a"), 1, 1), (Some("b"), 1, 2), Written),
        // The same mark: no VM has written, but another program may have.
        ((Some("a"), 1, 1), (Some("a"), 1, 1), Unwritten),
        ((Some("a"), 1, 1), (Some("a"), 2, 1), Written),
        ((Some("a"), 1, 1), (Some("a"), 2, 2), Unwritten),
        // A mark that is gone.
        ((Some("a"), 1, 1), (None, 1, 1), Unwritten),
        ((Some("a"), 1, 1), (None, 2, 1), Written),
        ((Some("a"), 1, 1), (None, 2, 2), OtherFile),
    ] {
        let (noted, now) = (stamp(noted.0, noted.1, noted.2), stamp(now.0, now.1, now.2));
        assert_eq!(noted.compare(&now), expected, "{noted:?} {now:?}");
    }
}
