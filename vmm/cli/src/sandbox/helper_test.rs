use std::io::Read;
use std::os::unix::net::UnixListener;
use std::thread;

use nvvmm::control::NameChoice;

use super::*;

/// A helper that is a thread, for a VM that has a name in a runtime directory.
fn with_helper(test: impl FnOnce(&Helper, &RuntimeDir, Claim)) {
    let dir = tempfile::tempdir().unwrap();
    let directory = RuntimeDir::at(&dir.path().join("runtime")).unwrap();
    let name = NameChoice::Given("web".into());
    let claim = directory.claim(&name, Path::new("/pool")).unwrap();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let helper = Helper {
        stream: Arc::new(Mutex::new(Some(ours))),
    };
    thread::scope(|scope| {
        let (directory, paths) = (&directory, claim.paths().clone());
        let lock = paths.lock_identity().ok();
        let serve = move || answer_all(&theirs, directory, (&paths, lock), std::process::id());
        scope.spawn(serve);
        test(&helper, directory, claim);
        drop(helper);
    });
}

#[test]
fn it_connects_to_the_program_at_a_host_port() {
    with_helper(|helper, directory, claim| {
        let path = directory.path().join("web.vsock_700");
        let listener = UnixListener::bind(path).unwrap();
        let connect = helper.connector();
        let stream = connect(700).unwrap();
        let (mut accepted, _) = listener.accept().unwrap();
        (&stream).write_all(b"hello").unwrap();
        let mut text = [0; 5];
        accepted.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
        // Nobody listens there; the helper answers on.
        let nobody = connect(701).unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::NotFound);
        assert!(connect(700).is_ok());
        drop(claim);
    });
}

#[test]
fn it_removes_the_files_of_a_vm_that_ends_and_keeps_its_log() {
    with_helper(|helper, directory, claim| {
        let paths = claim.paths().clone();
        for path in [&paths.control, &paths.console, &paths.vsock, &paths.agent] {
            UnixListener::bind(path).unwrap();
        }
        std::fs::write(&paths.log, "a line").unwrap();
        helper.remove_files().unwrap();
        claim.keep_without_files();
        let mut left: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [".lock", "web.log"]);
        assert!(helper.remove_files().is_err(), "it has ended");
    });
}

#[test]
fn it_believes_a_new_name_only_of_files_that_are_the_vms() {
    with_helper(|helper, directory, claim| {
        let other = NameChoice::Given("other".into());
        let other = directory.claim(&other, Path::new("/pool")).unwrap();
        let refused = |name: &str| helper.rename(name).unwrap_err().raw_os_error();
        assert_eq!(refused("other"), Some(libc::EPERM));
        assert_eq!(refused("nobody"), Some(libc::EPERM));
        assert_eq!(refused("../web"), Some(libc::EINVAL));
        std::fs::rename(
            directory.path().join("web.lock"),
            directory.path().join("db.lock"),
        )
        .unwrap();
        helper.rename("db").unwrap();
        let path = directory.path().join("db.vsock_700");
        let _listener = UnixListener::bind(path).unwrap();
        assert!(helper.connector()(700).is_ok());
        drop((claim, other));
    });
}

#[test]
fn a_helper_that_is_gone_gives_errors() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let helper = Helper {
        stream: Arc::new(Mutex::new(Some(ours))),
    };
    for _ in 0..2 {
        assert!(helper.connector()(700).is_err());
    }
}
