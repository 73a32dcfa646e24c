//! Open files, pipes, descriptors.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Seek, Write, pipe};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::{Check, Fixture};

pub fn scenario(name: &str, fixture: &Fixture) -> Option<Check> {
    Some(match name {
        "files" => files(fixture),
        "pipes" => pipes(),
        "descriptors" => descriptors(fixture),
        _ => return None,
    })
}

fn open(fixture: &Fixture, name: &str) -> File {
    std::fs::write(fixture.path(name), b"0123456789abcdefghij").expect("a file");
    File::options()
        .read(true)
        .write(true)
        .open(fixture.path(name))
        .expect("the file")
}

/// Two descriptors of one open file share its offset, two of the same file do not; one appends, one
/// only reads.
fn files(fixture: &Fixture) -> Check {
    let mut first = open(fixture, "shared");
    let mut twin = first.try_clone().expect("a descriptor");
    let mut apart = File::open(fixture.path("shared")).expect("the file");
    open(fixture, "grows");
    let mut appends = File::options()
        .append(true)
        .open(fixture.path("grows"))
        .expect("the file");
    let mut word = [0; 5];
    first.read_exact(&mut word).expect("bytes");
    apart.read_exact(&mut word[..2]).expect("bytes");
    let grows = fixture.path("grows");
    Box::new(move || {
        let mut read = |file: &mut File| {
            file.read_exact(&mut word).expect("bytes");
            String::from_utf8(word.to_vec()).expect("text")
        };
        assert_eq!(read(&mut twin), "56789");
        assert_eq!(read(&mut first), "abcde");
        assert_eq!(read(&mut apart), "23456");
        assert!(apart.write(b"x").is_err(), "it was opened for reading");
        first.seek(std::io::SeekFrom::Start(1)).expect("an offset");
        assert_eq!(twin.stream_position().expect("an offset"), 1);
        let before = std::fs::read(&grows).expect("the file").len();
        appends.write_all(b"end").expect("room");
        let after = std::fs::read(&grows).expect("the file");
        assert!(after.len() == before + 3 && after.ends_with(b"end"));
    })
}

/// Pipes with something in them: both ends here, no writer any more, no reader any more, and one
/// that is larger than usual and full.
fn pipes() -> Check {
    let bytes = |count: usize| {
        (0..count)
            .map(|index| (index * 7) as u8)
            .collect::<Vec<u8>>()
    };
    let (mut reader, mut writer) = pipe().expect("a pipe");
    writer.write_all(&bytes(5000)).expect("room");
    let (mut rest, mut gone) = pipe().expect("a pipe");
    gone.write_all(b"rest").expect("room");
    drop(gone);
    let (ended, mut broken) = pipe().expect("a pipe");
    drop(ended);
    let (mut large, mut filler) = pipe().expect("a pipe");
    // SAFETY: the call takes numbers only.
    let size = unsafe { libc::fcntl(filler.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 18) } as usize;
    filler.write_all(&bytes(size)).expect("room");
    Box::new(move || {
        let expect = |reader: &mut PipeReader, expected: &[u8]| {
            let mut found = vec![0; expected.len()];
            reader.read_exact(&mut found).expect("bytes");
            assert!(found == expected, "a pipe holds something else");
        };
        writer.write_all(b"more").expect("room");
        expect(&mut reader, &bytes(5000));
        expect(&mut reader, b"more");
        let mut end = Vec::new();
        rest.read_to_end(&mut end).expect("an end");
        assert_eq!(end, b"rest");
        let error = broken.write(b"x").expect_err("nobody reads it");
        assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        expect(&mut large, &bytes(size));
        let fill: &mut PipeWriter = &mut filler;
        fill.write_all(&bytes(size)).expect("the same room");
    })
}

/// Descriptors with numbers far apart, with and without FD_CLOEXEC, of devices and directories,
/// also a path only.
fn descriptors(fixture: &Fixture) -> Check {
    let at = |file: File, number: i32, close_on_exec: bool| {
        let flag = if close_on_exec { libc::O_CLOEXEC } else { 0 };
        // SAFETY: the number is nobody's yet, and from now on the result's.
        unsafe {
            assert_eq!(libc::dup3(file.as_raw_fd(), number, flag), number);
            OwnedFd::from_raw_fd(number)
        }
    };
    let null = at(
        File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .expect("a device"),
        9,
        false,
    );
    let zero = at(File::open("/dev/zero").expect("a device"), 700, true);
    let random = at(File::open("/dev/urandom").expect("a device"), 31, true);
    let directory = at(
        File::open(&fixture.directory).expect("a directory"),
        32,
        false,
    );
    let own = fixture.path("own");
    Box::new(move || {
        let flags = |fd: &OwnedFd| {
            // SAFETY: the call takes numbers only.
            unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) }
        };
        assert_eq!(
            [&null, &zero, &random, &directory].map(flags),
            [0, libc::FD_CLOEXEC, libc::FD_CLOEXEC, 0]
        );
        let mut bytes = [1; 8];
        File::from(zero).read_exact(&mut bytes).expect("zeros");
        assert_eq!(bytes, [0; 8]);
        File::from(random)
            .read_exact(&mut bytes)
            .expect("random bytes");
        File::from(null).write_all(&bytes).expect("nothing");
        std::fs::write(
            format!("/proc/self/fd/{}/own", directory.as_raw_fd()),
            "own",
        )
        .expect("a file");
        assert_eq!(std::fs::read(own).expect("the file"), b"own");
    })
}
