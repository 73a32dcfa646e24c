//! Memory that processes share, and files that were deleted.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::ptr;

use crate::event_loops::owned;
use crate::memory::{PAGE, Region};
use crate::processes::{fork, wait};
use crate::{Check, Fixture, wait_for};

const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

pub fn scenario(name: &str, fixture: &Fixture) -> Option<Check> {
    Some(match name {
        "memory-files" => memory_files(),
        "sealed-memory" => sealed_memory(),
        "deleted-files" => deleted_files(fixture),
        "replaced-file" => replaced_file(fixture),
        "shared-anonymous" => shared_anonymous(),
        "shared-memory-tree" => shared_memory_tree(fixture),
        "segments" => segments(fixture),
        _ => return None,
    })
}

fn memory_file(name: &std::ffi::CStr) -> File {
    // SAFETY: the name lives through the call.
    owned(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_ALLOW_SEALING) })
}

/// A file for which the same file is open once more, with flags of its own.
fn again(file: &File, options: &mut std::fs::OpenOptions) -> File {
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    options.open(link).expect("the same file")
}

fn seals(file: &File) -> i32 {
    // SAFETY: the call takes numbers only.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) }
}

/// A memfd with holes, an odd length and an offset, open twice, mapped shared and privately; and
/// one that is empty.
fn memory_files() -> Check {
    let mut file = memory_file(c"first");
    file.set_len(40 * PAGE as u64 + 77).expect("room");
    file.write_all_at(b"begin", 0).expect("room");
    file.write_all_at(b"end", 40 * PAGE as u64 + 70)
        .expect("room");
    file.seek(SeekFrom::Start(2)).expect("an offset");
    let mut reads = again(&file, File::options().read(true));
    let shared = Region::map(40, READ_WRITE, libc::MAP_SHARED, Some(&file));
    shared.fill(5, 3);
    let private = Region::map(40, READ_WRITE, libc::MAP_PRIVATE, Some(&file));
    private.fill(6, 4);
    let only_read = Region::map(40, libc::PROT_READ, libc::MAP_SHARED, Some(&reads));
    let empty = memory_file(c"empty");
    // SAFETY: the call takes numbers only.
    assert_eq!(unsafe { libc::fchmod(empty.as_raw_fd(), 0o640) }, 0);
    Box::new(move || {
        let mut word = [0; 3];
        file.read_exact(&mut word).expect("bytes");
        assert_eq!(&word, b"gin");
        reads.read_exact(&mut word).expect("bytes");
        assert_eq!(&word, b"beg");
        assert!(reads.write(b"x").is_err(), "it was opened for reading");
        assert_eq!(
            file.metadata().expect("a file").len(),
            40 * PAGE as u64 + 77
        );
        let mut rest = Vec::new();
        file.seek(SeekFrom::Start(40 * PAGE as u64))
            .expect("an offset");
        file.read_to_end(&mut rest).expect("bytes");
        assert_eq!(
            (&rest[..70], &rest[70..]),
            (&[0; 70][..], &b"end\0\0\0\0"[..])
        );
        shared.assert_filled(5, 3);
        shared.assert_zero(6);
        private.assert_filled(5, 3);
        private.assert_filled(6, 4);
        shared.fill(7, 8);
        private.assert_filled(7, 8);
        only_read.assert_filled(7, 8);
        assert!(file.metadata().expect("a file").blocks() * 512 < 20 * PAGE as u64);
        let found = empty.metadata().expect("a file");
        assert_eq!((found.len(), found.mode() & 0o777), (0, 0o640));
        empty.write_all_at(b"more", 9).expect("room");
    })
}

/// Files that are sealed: against everything, against new writers only, and against seals.
fn sealed_memory() -> Check {
    let seal = |file: &File, seals: i32| {
        // SAFETY: the call takes numbers only.
        let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    };
    let all = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    let whole = memory_file(c"whole");
    whole.write_all_at(&[7; 9000], 0).expect("room");
    seal(&whole, all);
    let view = Region::map(2, libc::PROT_READ, libc::MAP_SHARED, Some(&whole));
    let future = memory_file(c"future");
    future.set_len(PAGE as u64).expect("room");
    let writes = Region::map(1, READ_WRITE, libc::MAP_SHARED, Some(&future));
    writes.fill(0, 1);
    seal(&future, libc::F_SEAL_FUTURE_WRITE);
    // SAFETY: the name lives through the call.
    let plain = owned(unsafe { libc::memfd_create(c"plain".as_ptr(), 0) });
    Box::new(move || {
        assert_eq!(seals(&whole), all);
        assert!(whole.write_all_at(b"x", 0).is_err() && whole.set_len(1).is_err());
        let mut bytes = vec![0; 9000];
        whole.read_exact_at(&mut bytes, 0).expect("bytes");
        assert!(bytes == [7; 9000], "it has other bytes");
        assert_eq!(view.get(1, 3), u64::from_ne_bytes([7; 8]));
        assert_eq!(seals(&future), libc::F_SEAL_FUTURE_WRITE);
        assert!(future.write_all_at(b"x", 0).is_err(), "it can be written");
        writes.assert_filled(0, 1);
        writes.fill(0, 2);
        assert_eq!(seals(&plain), libc::F_SEAL_SEAL);
        plain.write_all_at(b"x", 0).expect("room");
    })
}

/// Files that were deleted: one with an offset and a hole, open twice, one of these to append; one
/// that is mapped only.
fn deleted_files(fixture: &Fixture) -> Check {
    let create = |name: &str| {
        let mut options = File::options();
        options.read(true).write(true).create_new(true);
        options.open(fixture.path(name)).expect("a file")
    };
    let mut file = create("deleted");
    let mut appends = File::options()
        .append(true)
        .open(fixture.path("deleted"))
        .expect("the file");
    file.write_all(b"0123456789").expect("room");
    file.write_all_at(&[5; 7000], 1 << 20).expect("room");
    file.seek(SeekFrom::Start(3)).expect("an offset");
    let mapped = create("mapped");
    mapped.set_len(3 * PAGE as u64).expect("room");
    let shared = Region::map(3, READ_WRITE, libc::MAP_SHARED, Some(&mapped));
    let private = Region::map(3, READ_WRITE, libc::MAP_PRIVATE, Some(&mapped));
    shared.fill(1, 11);
    private.fill(2, 12);
    drop(mapped);
    for name in ["deleted", "mapped"] {
        std::fs::remove_file(fixture.path(name)).expect("the file");
    }
    Box::new(move || {
        let found = file.metadata().expect("a file");
        assert_eq!((found.nlink(), found.len()), (0, (1 << 20) + 7000));
        let mut digits = [0; 4];
        file.read_exact(&mut digits).expect("digits");
        assert_eq!(&digits, b"3456");
        appends.write_all(b"end").expect("room");
        let mut bytes = vec![0; 7003];
        file.read_exact_at(&mut bytes, 1 << 20).expect("bytes");
        assert!(bytes.starts_with(&[5; 7000]) && bytes.ends_with(b"end"));
        shared.assert_filled(1, 11);
        private.assert_filled(1, 11);
        private.assert_filled(2, 12);
        shared.assert_zero(2);
        shared.fill(0, 13);
        private.assert_filled(0, 13);
    })
}

/// A file in whose place there is another one.
fn replaced_file(fixture: &Fixture) -> Check {
    std::fs::write(fixture.path("file"), "the old one").expect("a file");
    let mut file = File::open(fixture.path("file")).expect("the file");
    std::fs::write(fixture.path("new"), "the new one").expect("a file");
    std::fs::rename(fixture.path("new"), fixture.path("file")).expect("a file");
    let path = fixture.path("file");
    Box::new(move || {
        let mut text = String::new();
        file.read_to_string(&mut text).expect("text");
        assert_eq!(text, "the old one");
        assert_eq!(std::fs::read(path).expect("a file"), b"the new one");
    })
}

/// Memory without a name, of which parts are protected, and some was never touched.
fn shared_anonymous() -> Check {
    let region = Region::map(64, READ_WRITE, libc::MAP_SHARED, None);
    (3..20).for_each(|page| region.fill(page, 9));
    region.protect(10, 2, libc::PROT_READ);
    region.advise(15, 2, libc::MADV_REMOVE);
    let only_read = Region::map(4, libc::PROT_READ, libc::MAP_SHARED, None);
    Box::new(move || {
        let filled = (3..20).filter(|page| ![15, 16].contains(page));
        filled.for_each(|page| region.assert_filled(page, 9));
        [0, 15, 16, 63]
            .into_iter()
            .for_each(|page| region.assert_zero(page));
        region.fill(63, 10);
        only_read.assert_zero(1);
    })
}

/// A parent and its child see what the other one writes: to memory without a name, and to a memfd
/// that each has mapped elsewhere.
fn shared_memory_tree(fixture: &Fixture) -> Check {
    let region = Region::map(16, READ_WRITE, libc::MAP_SHARED, None);
    let file = memory_file(c"both");
    file.set_len(8 * PAGE as u64).expect("room");
    let mine = Region::map(8, READ_WRITE, libc::MAP_SHARED, Some(&file));
    region.fill(0, 1);
    mine.fill(0, 2);
    let go = fixture.path("go");
    let child = fork(|| {
        let theirs = Region::map(8, READ_WRITE, libc::MAP_SHARED, Some(&file));
        region.fill(1, 3);
        std::fs::write(go.with_file_name("child"), "").expect("a file");
        wait_for(&go);
        region.assert_filled(0, 1);
        theirs.assert_filled(0, 2);
        theirs.fill(4, 5);
        region.fill(2, 4);
        0
    });
    wait_for(&fixture.path("child"));
    Box::new(move || {
        assert_eq!(wait(child), 0);
        region.assert_filled(1, 3);
        region.assert_filled(2, 4);
        mine.assert_filled(4, 5);
        let mut bytes = vec![0; PAGE];
        file.read_exact_at(&mut bytes, 4 * PAGE as u64)
            .expect("bytes");
        assert_eq!(bytes[..8], mine.get(4, 0).to_ne_bytes());
    })
}

/// Segments of System V shared memory: one that is removed with its last user, attached twice; one
/// with a key that is not, until this has passed.
fn segments(fixture: &Fixture) -> Check {
    let attach = |id: i32, flags: i32, pages: usize| {
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe { libc::shmat(id, ptr::null(), flags) };
        assert_ne!(start as isize, -1, "{}", std::io::Error::last_os_error());
        Region::at(start.cast(), pages)
    };
    let segment = |key: i32, pages: usize| {
        // SAFETY: the call takes numbers only.
        let id = unsafe { libc::shmget(key, pages * PAGE - 100, libc::IPC_CREAT | 0o600) };
        assert!(id >= 0, "shmget: {}", std::io::Error::last_os_error());
        id
    };
    // SAFETY: the call takes numbers only.
    let remove = |id: i32| unsafe { libc::shmctl(id, libc::IPC_RMID, ptr::null_mut()) };
    let first = segment(libc::IPC_PRIVATE, 20);
    let (one, two) = (attach(first, 0, 20), attach(first, libc::SHM_RDONLY, 20));
    assert_eq!(remove(first), 0);
    one.fill(3, 30);
    let inode = std::fs::metadata(&fixture.directory)
        .expect("a directory")
        .ino();
    let key = (inode as i32 & 0xff_ffff) | 0x4e00_0000;
    let second = segment(key, 4);
    let other = attach(second, 0, 4);
    other.fill(1, 31);
    let state = move || {
        // SAFETY: a shmid_ds is plain numbers, which the kernel writes.
        let found = unsafe {
            let mut found: libc::shmid_ds = std::mem::zeroed();
            assert_eq!(libc::shmctl(second, libc::IPC_STAT, &mut found), 0);
            found.shm_perm
        };
        (found.mode, found.uid, found.gid)
    };
    // SAFETY: the calls take numbers, and the kernel reads what it has written.
    unsafe {
        assert_eq!(libc::shmctl(second, libc::SHM_LOCK, ptr::null_mut()), 0);
        let mut found: libc::shmid_ds = std::mem::zeroed();
        assert_eq!(libc::shmctl(second, libc::IPC_STAT, &mut found), 0);
        (found.shm_perm.uid, found.shm_perm.mode) = (1234, 0o640);
        assert_eq!(libc::shmctl(second, libc::IPC_SET, &mut found), 0);
    }
    let before = state();
    Box::new(move || {
        assert_eq!(state(), before);
        two.assert_filled(3, 30);
        one.fill(4, 32);
        two.assert_filled(4, 32);
        one.assert_zero(0);
        other.assert_filled(1, 31);
        other.assert_zero(2);
        // SAFETY: the call takes numbers only.
        assert_eq!(unsafe { libc::shmget(key, 0, 0) }, second);
        assert_eq!(remove(second), 0);
    })
}
