use std::fs;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;
use crate::{CreateOptions, NewMap, NewSnapshot, Pool, SnapshotKind};

fn create(path: &Path) -> Result<Arc<Pool>> {
    Pool::create(path, &CreateOptions::of_size(8 << 20))
}

#[test]
fn a_device_that_is_not_there_is_not_made_as_a_file() {
    for path in ["/dev/dax987.6", "/dev/pts/../dax987.6", "/dev/none/dax0.0"] {
        let path = Path::new(path);
        let error = create(path).unwrap_err();
        assert!(matches!(error, Error::NoDevice { .. }), "{error}");
        let error = Pool::device_size_bytes(path).unwrap_err();
        assert!(matches!(error, Error::NoDevice { .. }), "{error}");
        assert!(!path.exists());
    }
}

#[test]
fn what_no_pool_can_be_in_is_named_and_left_alone() {
    let files = tempfile::tempdir().unwrap();
    let path = |name: &str| files.path().join(name);
    mkfifo(&path("pipe"), Mode::S_IRWXU).unwrap();
    let _socket = UnixListener::bind(path("socket")).unwrap();
    fs::write(path("file"), "text").unwrap();
    let cases = [
        (path("pipe"), "a pipe"),
        (path("socket"), "a socket"),
        (files.path().to_owned(), "a directory"),
        ("/".into(), "a directory"),
        ("/dev/null".into(), "not a DAX device"),
        (path("new/"), "names no file"),
        (path("file/pool"), "no directory"),
    ];
    for (path, what) in cases {
        let error = create(&path).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::NoPlace { .. }), "{text}");
        assert!(text.contains(what), "{text}");
    }
    let error = create(&path("none/pool")).unwrap_err();
    assert!(matches!(error, Error::NoDirectory { .. }), "{error}");
    let error = create(&path("file")).unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    assert_eq!(fs::read_dir(files.path()).unwrap().count(), 3);
}

#[test]
fn what_is_no_file_is_not_opened_as_a_pool() {
    let files = tempfile::tempdir().unwrap();
    let pipe = files.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    for (path, kind) in [
        (pipe.as_path(), "a pipe"),
        (files.path(), "a directory"),
        (Path::new("/dev/zero"), "a device"),
    ] {
        for error in [
            Pool::open(path).unwrap_err(),
            Pool::delete(path).unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(matches!(error, Error::NotAPool { .. }), "{text}");
            assert!(text.contains(kind), "{text}");
        }
    }
}

#[test]
fn nothing_is_committed_to_a_pool_that_nobody_could_open_again() {
    let files = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = files.path().join("pool");
    let pool = create(&path).unwrap();
    let holder = pool.hold("vm").unwrap();
    let commit = |name| {
        let new = NewSnapshot {
            kind: SnapshotKind::Vm,
            name,
            parent: None,
            base: None,
            maps: vec![NewMap::memory(4096, &[])],
            state: b"",
            frames_new: 0,
        };
        holder.commit_snapshot(new, holder.reserve(0)?)
    };
    commit("first").unwrap();
    let moved = files.path().join("moved");
    fs::rename(&path, &moved).unwrap();
    commit("second").expect("it can be opened by its new name");
    // Another file takes its name.
    let other = files.path().join("other");
    drop(create(&other).unwrap());
    fs::rename(&other, &moved).unwrap();
    let error = commit("third").unwrap_err();
    assert!(matches!(error, Error::Unlinked { .. }), "{error}");
    assert!(matches!(pool.require_name(), Err(Error::Unlinked { .. })));
}
