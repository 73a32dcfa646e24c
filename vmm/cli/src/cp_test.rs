use std::fs;
use std::os::unix::fs::OpenOptionsExt;

use super::*;

#[test]
fn a_file_that_is_copied_to_a_directory_keeps_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path();
    assert_eq!(target(Path::new("/var/log/x"), to).unwrap(), to.join("x"));
    assert_eq!(
        target(Path::new("/x"), &to.join("y")).unwrap(),
        to.join("y")
    );
    for nameless in ["/", "/a/.."] {
        assert_eq!(
            target(Path::new(nameless), to).unwrap_err().kind,
            ErrorKind::Usage
        );
    }
    let device = Path::new("/dev/null");
    assert_eq!(
        target(Path::new("/x"), device).unwrap_err().kind,
        ErrorKind::Refused
    );
}

#[test]
fn one_place_is_in_a_guest() {
    let host = CopyPlace::Host("/x".into());
    let guest = CopyPlace::Guest {
        vm: "vm".into(),
        path: "/x".into(),
    };
    for (from, to) in [(&host, &host), (&guest, &guest)] {
        assert_eq!(run(from, to).unwrap_err().kind, ErrorKind::Usage);
    }
}

/// Permissions of what becomes of a guest's file with these.
fn mode_of_copy(mode: u32, target: &Path) -> u32 {
    let (ours, agent) = UnixStream::pair().unwrap();
    for message in [
        FromAgent::File { mode },
        FromAgent::Data(b"content".to_vec()),
        FromAgent::End,
    ] {
        send(&agent, &message).unwrap();
    }
    take_file("vm", &ours, target).unwrap();
    assert_eq!(fs::read(target).unwrap(), b"content");
    let copied = fs::symlink_metadata(target).unwrap();
    assert!(copied.is_file());
    copied.permissions().mode() & 0o7777
}

#[test]
fn a_guest_has_no_say_in_permissions_past_the_umask() {
    let directory = tempfile::tempdir().unwrap();
    for mode in [0o7777, 0o4755, 0o666, 0o2070, 0o644, 0o400] {
        let usual = directory.path().join(format!("usual-{mode:o}"));
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(mode & 0o777);
        let allowed = options.open(&usual).unwrap().metadata().unwrap();
        let copied = mode_of_copy(mode, &directory.path().join("copy"));
        assert_eq!(copied, allowed.permissions().mode() & 0o777, "{mode:o}");
    }
}

#[test]
fn a_link_in_the_place_of_the_copy_is_replaced_and_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let [precious, link] = ["precious", "link"].map(|name| directory.path().join(name));
    fs::write(&precious, "precious").unwrap();
    std::os::unix::fs::symlink(&precious, &link).unwrap();
    mode_of_copy(0o644, &link);
    assert_eq!(fs::read(&precious).unwrap(), b"precious");
}
