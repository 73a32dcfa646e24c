use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::thread;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;

fn read(path: &Path) -> Result<Vec<u8>, VmError> {
    WholeFile::open("the key file", path)?.read(16)
}

#[test]
fn devices_and_directories_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    for (path, kind) in [
        (PathBuf::from("/dev/zero"), "a device"),
        (PathBuf::from("/dev/null"), "a device"),
        (directory.path().to_owned(), "a directory"),
    ] {
        let error = read(&path).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Usage);
        let text = format!("the key file {} is {kind}", path.display());
        assert_eq!(error.message, text);
    }
}

#[test]
fn a_file_is_read_to_its_bound() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    for (content, refused) in [
        ("", "is empty"),
        ("seventeen bytes!!", "has more than 16 B"),
    ] {
        fs::write(&path, content).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.message.ends_with(refused), "{error}");
    }
    fs::write(&path, "sixteen bytes!!!").unwrap();
    assert_eq!(read(&path).unwrap(), b"sixteen bytes!!!");
}

#[test]
fn a_pipe_is_read_to_its_end() {
    let (ours, mut theirs) = std::io::pipe().unwrap();
    let path = PathBuf::from(format!("/proc/self/fd/{}", ours.as_raw_fd()));
    theirs.write_all(b"key").unwrap();
    drop(theirs);
    assert_eq!(read(&path).unwrap(), b"key");
}

#[test]
fn a_named_pipe_whose_writer_comes_later_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pipe");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let writer = thread::spawn({
        let path = path.clone();
        // Waits for the reader.
        move || fs::write(path, "key")
    });
    assert_eq!(read(&path).unwrap(), b"key");
    writer.join().unwrap().unwrap();
}
