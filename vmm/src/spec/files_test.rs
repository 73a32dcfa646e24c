use std::{fs, os::unix::net::UnixListener};

use nix::{sys::stat::Mode, unistd::mkfifo};

use super::*;
use crate::disk::DiskUser;
use crate::spec::{DiskSource, DiskSpec};

fn refused(what: &'static str, path: &Path) -> FileError {
    BootFile::open(what, path).expect_err("it is not to boot from")
}

#[test]
fn nothing_but_a_regular_file_is_opened_and_nothing_is_waited_for() {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    mkfifo(&path("pipe"), Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(path("socket")).unwrap();
    for (path, kind) in [
        (path("pipe"), "a pipe"),
        (path("socket"), "a socket"),
        (files.path().to_owned(), "a directory"),
        ("/dev/zero".into(), "a device"),
    ] {
        let text = refused(BootFile::KERNEL, &path).to_string();
        let expected = format!("the kernel {} is {kind}", path.display());
        assert!(text.contains(&expected), "{text}");
    }
    let text = refused(BootFile::INITRAMFS, &path("none")).to_string();
    assert!(text.contains("cannot read the initramfs"), "{text}");
}

#[test]
fn an_empty_initramfs_is_refused() {
    let files = tempfile::tempdir().unwrap();
    let empty = files.path().join("empty");
    fs::write(&empty, "").unwrap();
    let error = refused(BootFile::INITRAMFS, &empty);
    assert!(matches!(error, FileError::Empty { .. }), "{error}");
}

#[test]
fn a_file_that_was_replaced_is_read_as_it_was_opened() {
    use std::io::Read;
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("kernel");
    fs::write(&path, "first").unwrap();
    let kernel = BootFile::open(BootFile::KERNEL, &path).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "second").unwrap();
    for _ in 0..2 {
        let mut content = String::new();
        let mut reader = kernel.reader().unwrap();
        reader.read_to_string(&mut content).unwrap();
        assert_eq!(content, "first", "from its first byte each time");
    }
}

#[test]
fn open_files_are_of_the_machine_that_names_them() {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| {
        let path = files.path().join(name);
        fs::write(&path, "content").unwrap();
        path
    };
    let spec = VmSpec::builder(path("kernel")).build();
    let opened = OpenedFiles::open(&spec, &DiskUser::OF_FILES).unwrap();
    assert!(opened.is_of(&spec));
    let other = VmSpec::builder(path("other")).build();
    let mut with_initramfs = spec.clone();
    with_initramfs.initramfs = Some(path("initramfs"));
    let mut without = spec;
    without.kernel = None;
    for spec in [other, with_initramfs, without] {
        assert!(!opened.is_of(&spec), "{spec:?}");
    }
}

#[test]
fn a_restored_machine_needs_its_disks_but_no_kernel() {
    let files = tempfile::tempdir().unwrap();
    let path = files.path().join("disk");
    fs::write(&path, [0; 512]).unwrap();
    let disk = DiskSpec {
        source: DiskSource::File(path.clone()),
        read_only: false,
        ..DiskSpec::default()
    };
    let mut spec = VmSpec::builder("/nonexistent/kernel").disks([disk]).build();
    assert!(matches!(
        OpenedFiles::open(&spec, &DiskUser::OF_FILES),
        Err(OpenError::Boot(_))
    ));
    let opened = OpenedFiles::open_restored(&spec, &DiskUser::OF_FILES).unwrap();
    let why = opened.boot().unwrap_err();
    assert!(why.contains("/nonexistent/kernel"), "{why}");
    assert_eq!(opened.disks().unwrap().len(), 1);
    assert!(RawDisk::open(&path, false).is_err(), "it stays locked");
    assert!(opened.is_of(&spec));
    drop(opened);
    spec.kernel = None;
    let opened = OpenedFiles::open_restored(&spec, &DiskUser::OF_FILES).unwrap();
    let why = opened.boot().unwrap_err();
    assert!(why.contains("no kernel"), "{why}");
    assert!(opened.is_of(&spec));
    let mut other = spec.clone();
    let disk = DiskSpec {
        source: DiskSource::File(path.clone()),
        read_only: true,
        ..DiskSpec::default()
    };
    assert!(other.replace_disks(&[disk]));
    assert!(!opened.is_of(&other));
    fs::remove_file(&path).unwrap();
    drop(opened);
    let lost = OpenedFiles::open_restored(&spec, &DiskUser::OF_FILES);
    assert!(matches!(lost, Err(OpenError::Disk(_))));
}
