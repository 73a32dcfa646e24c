use std::os::unix::net::{UnixListener, UnixStream};

use super::*;

#[test]
fn a_socket_whose_file_was_removed_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let _other = UnixListener::bind(dir.path().join("web.console")).unwrap();
    assert!(names_now(dir.path()).is_empty(), "its file is there");
    fs::remove_file(&path).unwrap();
    assert_eq!(vms(dir.path(), |_| true), ["web"]);
    assert!(vms(dir.path(), |name| name == "db").is_empty());
    assert!(vms(dir.path().parent().unwrap(), |_| true).is_empty());
    drop(listener);
    assert!(vms(dir.path(), |_| true).is_empty());
}

#[test]
fn a_vm_that_ends_is_not_taken_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.sock");
    let listener = UnixListener::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let ending = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(listener);
    });
    assert!(vms(dir.path(), |_| true).is_empty());
    ending.join().unwrap();
}

#[test]
fn only_control_sockets_that_listen_count() {
    let line = |flags: &str, path: &str| {
        let text = format!("0000000000000000: 00000002 00000000 {flags} 0001 01 42 {path}");
        listening_at(text.as_bytes(), Path::new("/run/nvvmm"))
    };
    assert_eq!(
        line("00010000", "/run/nvvmm/web.sock").as_deref(),
        Some("web")
    );
    for (flags, path) in [
        ("00000000", "/run/nvvmm/web.sock"),
        ("00010000", "/run/nvvmm/web.console"),
        ("00010000", "/run/nvvmm/a/web.sock"),
        ("00010000", "/run/nvvmm/.sock"),
        ("00010000", "@/run/nvvmm/web.sock"),
        ("x", "/run/nvvmm/web.sock"),
    ] {
        assert_eq!(line(flags, path), None, "{flags} {path}");
    }
    let (one, _two) = UnixStream::pair().unwrap();
    drop(one);
    assert!(listening_at(b"", Path::new("/")).is_none());
}

#[test]
fn names_of_processes_are_bounded() {
    assert_eq!(process_name("web"), "nvvmm:web");
    assert_eq!(process_name("production-web-1"), "nvvmm:productio");
    assert_eq!(process_name("production-web-1").len(), 15);
}

#[test]
fn a_vm_that_nobody_runs_has_no_process() {
    assert!(matches!(
        process_of("no-such-vm-runs"),
        Err(PeerError::Ended)
    ));
}
