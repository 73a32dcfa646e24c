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
    let stream = CopyPlace::Stream;
    for (from, to) in [
        (&host, &host),
        (&guest, &guest),
        (&stream, &stream),
        (&host, &stream),
    ] {
        let arguments = CpArguments {
            from: from.clone(),
            to: to.clone(),
            recursive: false,
            force: false,
        };
        assert_eq!(run(&arguments).unwrap_err().kind, ErrorKind::Usage);
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
    take_file("vm", &ours, target, true).unwrap();
    assert_eq!(fs::read(target).unwrap(), b"content");
    let copied = fs::symlink_metadata(target).unwrap();
    assert!(copied.is_file());
    copied.permissions().mode() & 0o7777
}

#[test]
fn a_guest_has_no_say_in_permissions_past_the_umask() {
    let directory = tempfile::tempdir().unwrap();
    for mode in [0o7777, 0o4755, 0o666, 0o2470, 0o644, 0o400] {
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

#[test]
fn a_file_that_appears_meanwhile_is_replaced_only_with_force() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("precious");
    let (ours, agent) = UnixStream::pair().unwrap();
    send(&agent, &FromAgent::File { mode: 0o644 }).unwrap();
    send(&agent, &FromAgent::End).unwrap();
    fs::write(&target, "precious").unwrap();
    let refused = take_file("vm", &ours, &target, false).unwrap_err();
    assert!(refused.message.contains("precious"), "{refused:?}");
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[test]
fn a_guests_file_goes_to_a_stream_whose_errors_are_errors() {
    let shown = |out: &mut dyn Write| {
        let (ours, agent) = UnixStream::pair().unwrap();
        for message in [
            FromAgent::File { mode: 0o644 },
            FromAgent::Data(b"con".to_vec()),
            FromAgent::Data(b"tent\0".to_vec()),
            FromAgent::End,
        ] {
            send(&agent, &message).unwrap();
        }
        let mut out = out;
        show_file("vm", &ours, &mut out)
    };
    let mut all = Vec::new();
    shown(&mut all).unwrap();
    assert_eq!(all, b"content\0");
    let mut full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    assert!(
        shown(&mut full)
            .unwrap_err()
            .message
            .contains("write to stdout")
    );
    let (reader, mut writer) = io::pipe().unwrap();
    drop(reader);
    shown(&mut writer).unwrap();
}

#[test]
fn a_stream_reaches_the_guest_whole() {
    let (ours, agent) = UnixStream::pair().unwrap();
    let request = ToAgent::Write {
        path: b"/x".to_vec(),
        name: Vec::new(),
        mode: MODE_OF_STREAM,
    };
    let taking = std::thread::spawn(move || {
        let mut all = Vec::new();
        loop {
            match receive::<ToAgent>(&agent).unwrap() {
                ToAgent::Write { path, .. } => assert_eq!(path, b"/x"),
                ToAgent::Data(bytes) => all.extend(bytes),
                ToAgent::End => break,
                other => panic!("{other:?}"),
            }
        }
        send(&agent, &FromAgent::End).unwrap();
        all
    });
    let content: Vec<u8> = (0..300_000_u32).map(|at| (at / 7) as u8).collect();
    send_file("vm", &ours, &request, &mut &content[..], None).unwrap();
    assert!(taking.join().unwrap() == content);
}
