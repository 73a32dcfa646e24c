//! Kinds of memory.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr;

use crate::{Check, Fixture};

pub const PAGE: usize = 4096;
const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;

pub fn scenario(name: &str, fixture: &Fixture) -> Option<Check> {
    Some(match name {
        "anonymous" => anonymous(),
        "huge-pages" => huge_pages(),
        "private-file" => private_file(fixture),
        "shared-file" => shared_file(fixture),
        "protected" => protected(),
        "heap" => heap(),
        "stack" => stack(),
        "dont-need" => dont_need(),
        "guard-regions" => guard_regions(),
        "locked-and-advised" => locked_and_advised(),
        "droppable" => droppable(),
        _ => return None,
    })
}

/// Memory of the process's own, mapped for good.
#[derive(Clone, Copy)]
pub struct Region {
    start: *mut u8,
    pages: usize,
}

impl Region {
    pub fn map(pages: usize, protection: i32, flags: i32, file: Option<&File>) -> Self {
        let flags = if file.is_some() {
            flags
        } else {
            flags | libc::MAP_ANONYMOUS
        };
        let fd = file.map_or(-1, |file| file.as_raw_fd());
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let start = unsafe { libc::mmap(ptr::null_mut(), pages * PAGE, protection, flags, fd, 0) };
        assert_ne!(
            start,
            libc::MAP_FAILED,
            "mmap: {}",
            std::io::Error::last_os_error()
        );
        Self {
            start: start.cast(),
            pages,
        }
    }

    /// Memory that is mapped at this address.
    pub fn at(start: *mut u8, pages: usize) -> Self {
        Self { start, pages }
    }

    pub fn anonymous(pages: usize) -> Self {
        Self::map(pages, READ_WRITE, libc::MAP_PRIVATE, None)
    }

    pub fn protect(&self, page: usize, pages: usize, protection: i32) {
        // SAFETY: pages of this region, in which nothing of Rust's lives.
        let result =
            unsafe { libc::mprotect(self.start.add(page * PAGE).cast(), pages * PAGE, protection) };
        assert_eq!(result, 0, "mprotect");
    }

    pub fn advise(&self, page: usize, pages: usize, advice: i32) {
        // SAFETY: as above.
        let result =
            unsafe { libc::madvise(self.start.add(page * PAGE).cast(), pages * PAGE, advice) };
        assert_eq!(
            result,
            0,
            "madvise {advice}: {}",
            std::io::Error::last_os_error()
        );
    }

    fn word(&self, page: usize, index: usize) -> *mut u64 {
        assert!(page < self.pages && index < PAGE / 8);
        // SAFETY: within the region.
        unsafe { self.start.add(page * PAGE).cast::<u64>().add(index) }
    }

    /// Fills a page with what its number and the seed give.
    pub fn fill(&self, page: usize, seed: u64) {
        for index in 0..PAGE / 8 {
            // SAFETY: word() gives an address in the region, which is writable where this is
            // called.
            unsafe {
                self.word(page, index)
                    .write_volatile(pattern(page, index, seed))
            };
        }
    }

    pub fn assert_filled(&self, page: usize, seed: u64) {
        for index in 0..PAGE / 8 {
            assert_eq!(
                self.get(page, index),
                pattern(page, index, seed),
                "page {page}, word {index}"
            );
        }
    }

    pub fn assert_zero(&self, page: usize) {
        assert!(
            (0..PAGE / 8).all(|index| self.get(page, index) == 0),
            "page {page} is not zero"
        );
    }

    pub fn get(&self, page: usize, index: usize) -> u64 {
        // SAFETY: word() gives an address in the region, which is readable where this is called.
        unsafe { self.word(page, index).read_volatile() }
    }

    /// True if the page can be read. The process survives if not.
    fn is_readable(&self, page: usize) -> bool {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        // SAFETY: write(2) only reads memory, and answers EFAULT where it cannot.
        let written = unsafe { libc::write(writer.as_raw_fd(), self.word(page, 0).cast(), 1) };
        drop(reader);
        written == 1
    }

    fn flags(&self) -> String {
        self.in_smaps("VmFlags:")
    }

    /// The value of a field of /proc/self/smaps for the mapping that this region is in.
    fn in_smaps(&self, key: &str) -> String {
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("smaps");
        let start = self.start as usize;
        let has_it = |line: &&str| {
            let range = line
                .split_once(' ')
                .and_then(|(range, _)| range.split_once('-'));
            let number = |text| usize::from_str_radix(text, 16).ok();
            let range = range.and_then(|(from, to)| Some(number(from)?..number(to)?));
            range.is_some_and(|range| range.contains(&start))
        };
        let mut lines = smaps.lines().skip_while(|line| !has_it(line));
        let found = lines.find_map(|line| line.strip_prefix(key));
        found.expect("a field").to_owned()
    }

    /// At least so many processes have what this one has of it.
    pub fn assert_shared_by(&self, processes: u64) {
        let kib = |key| -> u64 {
            let value = self.in_smaps(key);
            value
                .trim()
                .trim_end_matches(" kB")
                .parse()
                .expect("a number")
        };
        let (all, share) = (kib("Rss:"), kib("Pss:"));
        assert!(
            share * processes <= all,
            "{share} of {all} KiB are its share"
        );
    }

    /// The same region with more pages, perhaps elsewhere. It must be one mapping.
    pub fn grow(&self, pages: usize) -> Self {
        let (old, new) = (self.pages * PAGE, pages * PAGE);
        // SAFETY: all of this region, in which nothing of Rust's lives.
        let start = unsafe { libc::mremap(self.start.cast(), old, new, libc::MREMAP_MAYMOVE) };
        let error = std::io::Error::last_os_error();
        assert_ne!(start, libc::MAP_FAILED, "mremap: {error}");
        Self {
            start: start.cast(),
            pages,
        }
    }
}

fn pattern(page: usize, index: usize, seed: u64) -> u64 {
    (page as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (index as u64).wrapping_mul(seed | 1)
}

/// Pages written, read only (so that they are zero pages), and never touched.
fn anonymous() -> Check {
    let region = Region::anonymous(3000);
    for page in 0..region.pages {
        match page % 3 {
            0 => region.fill(page, 1),
            1 => region.assert_zero(page),
            _ => {}
        }
    }
    Box::new(move || {
        for page in 0..region.pages {
            if page % 3 == 0 {
                region.assert_filled(page, 1)
            } else {
                region.assert_zero(page)
            }
        }
        for page in 0..region.pages {
            region.fill(page, 2);
            region.assert_filled(page, 2);
        }
    })
}

fn huge_pages() -> Check {
    let region = Region::anonymous(2048);
    region.advise(0, 2048, libc::MADV_HUGEPAGE);
    for page in 0..1024 {
        region.fill(page, 3);
    }
    Box::new(move || {
        for page in 0..2048 {
            if page < 1024 {
                region.assert_filled(page, 3)
            } else {
                region.assert_zero(page)
            }
        }
        assert!(region.flags().contains(" hg"), "the advice was lost");
    })
}

fn numbered_file(fixture: &Fixture, pages: usize) -> File {
    let path = fixture.path("mapped");
    let bytes: Vec<u8> = (0..pages)
        .flat_map(|page| vec![page as u8 + 1; PAGE])
        .collect();
    std::fs::write(&path, bytes).expect("a file");
    File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("the file")
}

/// A private view: pages untouched, read, and written; one of the written ones cannot be written
/// any more.
fn private_file(fixture: &Fixture) -> Check {
    let file = numbered_file(fixture, 8);
    let region = Region::map(8, READ_WRITE, libc::MAP_PRIVATE, Some(&file));
    region.get(1, 0);
    region.fill(2, 4);
    region.fill(5, 4);
    region.protect(5, 3, libc::PROT_READ);
    Box::new(move || {
        for page in 0..8 {
            match page {
                2 | 5 => region.assert_filled(page, 4),
                _ => assert_eq!(region.get(page, 9), u64::from_ne_bytes([page as u8 + 1; 8])),
            }
        }
        region.fill(0, 5);
        let bytes = std::fs::read(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("the file");
        assert_eq!(bytes[0], 1, "a private write went to the file");
    })
}

fn shared_file(fixture: &Fixture) -> Check {
    let path = fixture.path("mapped");
    let file = numbered_file(fixture, 4);
    let region = Region::map(4, READ_WRITE, libc::MAP_SHARED, Some(&file));
    let reader = Region::map(4, libc::PROT_READ, libc::MAP_SHARED, Some(&file));
    region.fill(1, 6);
    let modified = file
        .metadata()
        .and_then(|found| found.modified())
        .expect("a time");
    drop(file);
    Box::new(move || {
        reader.assert_filled(1, 6);
        region.fill(3, 7);
        reader.assert_filled(3, 7);
        let bytes = std::fs::read(&path).expect("the file");
        assert_eq!(
            bytes[3 * PAGE..3 * PAGE + 8],
            pattern(3, 0, 7).to_ne_bytes()
        );
        // As if nothing had been, so that it can be restarted again: a mapped file that changed is
        // refused.
        let file = File::options().write(true).open(path).expect("the file");
        file.set_modified(modified).expect("its time");
    })
}

/// Memory that was made unreadable or unwritable keeps what it holds.
fn protected() -> Check {
    let region = Region::anonymous(9);
    (0..9).for_each(|page| region.fill(page, 8));
    region.protect(0, 3, libc::PROT_READ);
    region.protect(3, 3, libc::PROT_NONE);
    region.protect(6, 1, libc::PROT_READ | libc::PROT_EXEC);
    Box::new(move || {
        (0..3).for_each(|page| region.assert_filled(page, 8));
        (3..6).for_each(|page| assert!(!region.is_readable(page), "page {page} can be read"));
        region.protect(3, 3, libc::PROT_READ);
        (3..9).for_each(|page| region.assert_filled(page, 8));
        region.protect(0, 9, READ_WRITE);
        (0..9).for_each(|page| region.fill(page, 9));
    })
}

/// Moves the end of the heap.
fn heap() -> Check {
    let grow = |bytes: isize| {
        // SAFETY: the heap grows only, and who else uses it knows where its own part is.
        let start = unsafe { libc::sbrk(bytes) };
        assert_ne!(start as isize, -1, "sbrk");
        Region {
            start: start.cast(),
            pages: bytes as usize / PAGE,
        }
    };
    let before = grow(64 * PAGE as isize);
    (0..64).for_each(|page| before.fill(page, 10));
    let end = grow(0).start as usize;
    Box::new(move || {
        (0..64).for_each(|page| before.assert_filled(page, 10));
        let after = grow(64 * PAGE as isize);
        assert!(after.start as usize >= end, "the heap's end went back");
        (0..64).for_each(|page| after.assert_zero(page));
        (0..64).for_each(|page| after.fill(page, 11));
    })
}

/// The main thread's stack grows by itself, far beyond what it was.
fn stack() -> Check {
    fn deep(levels: u64) -> u64 {
        let mut room = [0u64; 1024];
        for (index, word) in room.iter_mut().enumerate() {
            *word = levels ^ index as u64;
        }
        let below = if levels == 0 { 0 } else { deep(levels - 1) };
        std::hint::black_box(&mut room);
        assert!(
            room.iter()
                .enumerate()
                .all(|(index, word)| *word == levels ^ index as u64)
        );
        below + 1
    }
    assert_eq!(deep(20), 21);
    Box::new(|| assert_eq!(deep(600), 601))
}

/// Memory that is given back is zero afterwards, not what it was.
fn dont_need() -> Check {
    let region = Region::anonymous(16);
    (0..16).for_each(|page| region.fill(page, 12));
    region.advise(0, 4, libc::MADV_DONTNEED);
    Box::new(move || {
        (0..4).for_each(|page| region.assert_zero(page));
        region.advise(8, 8, libc::MADV_DONTNEED);
        (4..8).for_each(|page| region.assert_filled(page, 12));
        (8..16).for_each(|page| region.assert_zero(page));
    })
}

/// MADV_GUARD_INSTALL, where the kernel has it (6.13): memory that cannot be touched, in the middle
/// of a mapping.
fn guard_regions() -> Check {
    const MADV_GUARD_INSTALL: i32 = 102;
    const MADV_GUARD_REMOVE: i32 = 103;
    let region = Region::anonymous(8);
    (0..8).for_each(|page| region.fill(page, 13));
    region.advise(2, 3, MADV_GUARD_INSTALL);
    Box::new(move || {
        (0..8).for_each(|page| {
            assert_eq!(
                region.is_readable(page),
                !(2..5).contains(&page),
                "page {page}"
            )
        });
        region.advise(2, 3, MADV_GUARD_REMOVE);
        (0..8).for_each(|page| {
            if (2..5).contains(&page) {
                region.assert_zero(page)
            } else {
                region.assert_filled(page, 13)
            }
        });
    })
}

fn locked_and_advised() -> Check {
    const FLAGS: [(&str, i32); 6] = [
        (" dc", libc::MADV_DONTFORK),
        (" wf", libc::MADV_WIPEONFORK),
        (" dd", libc::MADV_DONTDUMP),
        (" nh", libc::MADV_NOHUGEPAGE),
        (" sr", libc::MADV_SEQUENTIAL),
        (" rr", libc::MADV_RANDOM),
    ];
    let advised = FLAGS.map(|(flag, advice)| {
        let region = Region::map(6, READ_WRITE, libc::MAP_PRIVATE | libc::MAP_NORESERVE, None);
        // Between two that cannot be touched, so that it is a mapping of its own.
        region.protect(0, 2, libc::PROT_NONE);
        region.protect(4, 2, libc::PROT_NONE);
        let middle = Region {
            start: region.word(2, 0).cast(),
            pages: 2,
        };
        middle.advise(0, 2, advice);
        middle.fill(1, 14);
        (middle, flag)
    });
    let locked = Region::anonymous(4);
    // SAFETY: locking memory changes nothing that is in it.
    let result = unsafe { libc::mlock(locked.start.cast(), 4 * PAGE) };
    assert_eq!(result, 0, "mlock");
    Box::new(move || {
        for (region, flag) in advised {
            region.assert_filled(1, 14);
            assert!(
                region.flags().contains(flag) && region.flags().contains(" nr"),
                "{flag} in {}",
                region.flags()
            );
        }
        assert!(locked.flags().contains(" lo"), "no longer locked");
    })
}

/// MAP_DROPPABLE, where the kernel has it (6.11): what the kernel may drop is dropped.
fn droppable() -> Check {
    let region = Region::map(2, READ_WRITE, libc::MAP_DROPPABLE, None);
    region.fill(0, 15);
    Box::new(move || {
        assert!(
            region.flags().contains(" dp"),
            "of another kind: {}",
            region.flags()
        );
        region.fill(1, 16);
        region.assert_filled(1, 16);
    })
}
