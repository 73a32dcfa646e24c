use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::thread;

use nvvmm_protocol::{Ended, Exec, FromAgent, ToAgent, receive, send};
use tar::{Builder, EntryType, Header};

use super::*;

/// Plays the agent for one stream, with this host as the guest.
fn agent() -> UnixStream {
    let (ours, agents) = UnixStream::pair().unwrap();
    thread::spawn(move || serve(&agents));
    ours
}

fn serve(stream: &UnixStream) {
    let Ok(ToAgent::Exec(Exec { command, .. })) = receive(stream) else {
        panic!("no program")
    };
    let words: Vec<String> = command
        .into_iter()
        .map(|word| String::from_utf8(word).unwrap())
        .collect();
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let from_host = stream.try_clone().unwrap();
    thread::spawn(move || {
        while let Ok(ToAgent::Data(bytes)) = receive(&from_host) {
            if input.write_all(&bytes).is_err() {
                return;
            }
        }
    });
    let mut output = child.stdout.take().unwrap();
    let mut bytes = [0; 1000];
    while let Ok(count @ 1..) = output.read(&mut bytes) {
        if send(stream, &FromAgent::Data(bytes[..count].to_vec())).is_err() {
            child.kill().unwrap();
            break;
        }
    }
    let mut said = Vec::new();
    child.stderr.take().unwrap().read_to_end(&mut said).unwrap();
    let code = child.wait().unwrap().code().unwrap_or(-1);
    let _ = send(stream, &FromAgent::ErrorData(said));
    let _ = send(stream, &FromAgent::Exited(Ended::Code(code)));
}

fn guest<T>(work: impl FnOnce(&Guest<'_>) -> T) -> T {
    work(&Guest {
        vm: "web",
        connect: &|| Ok(agent()),
    })
}

fn tree() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    fs::create_dir_all(at("site/deep/er")).unwrap();
    fs::write(at("site/index"), vec![7; 300_000]).unwrap();
    fs::write(at("site/deep/er/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(at("site/deep/er/run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(at("site").join("n".repeat(150)), "long name").unwrap();
    symlink("/no/where", at("site/link")).unwrap();
    directory
}

fn assert_same(copy: &Path) {
    assert_eq!(fs::read(copy.join("index")).unwrap(), vec![7; 300_000]);
    let run = copy.join("deep/er/run");
    assert_eq!(fs::read(&run).unwrap(), b"#!/bin/sh\n");
    assert_eq!(
        fs::metadata(run).unwrap().permissions().mode() & 0o777,
        0o755
    );
    assert_eq!(fs::read(copy.join("n".repeat(150))).unwrap(), b"long name");
    assert_eq!(
        fs::read_link(copy.join("link")).unwrap(),
        Path::new("/no/where")
    );
    assert_eq!(fs::read_dir(copy).unwrap().count(), 4);
}

#[test]
fn a_directory_goes_both_ways() {
    let (from, to) = (tree(), tempfile::tempdir().unwrap());
    let (site, place) = (from.path().join("site"), to.path());
    guest(|guest| guest.take(&site, place)).unwrap();
    assert_same(&place.join("site"));
    guest(|guest| guest.take(&site, &place.join("named"))).unwrap();
    assert_same(&place.join("named"));
    assert!(guest(|guest| guest.is_directory(place)).unwrap());

    let back = tempfile::tempdir().unwrap();
    guest(|guest| guest.give(&place.join("named"), back.path())).unwrap();
    assert_same(&back.path().join("named"));
    guest(|guest| guest.give(&place.join("named"), &back.path().join("again"))).unwrap();
    assert_same(&back.path().join("again"));
    let again = guest(|guest| guest.give(&place.join("named"), back.path())).unwrap_err();
    assert_eq!(again.kind, ErrorKind::Refused);
    assert_eq!(
        fs::read_dir(back.path()).unwrap().count(),
        2,
        "no parts are left"
    );
}

#[test]
fn what_the_guest_cannot_do_is_said_and_nothing_is_kept() {
    let (from, to) = (tree(), tempfile::tempdir().unwrap());
    let copy = to.path().join("copy");
    let missing = guest(|guest| guest.give(Path::new("/no/such"), &copy)).unwrap_err();
    assert!(missing.message.contains("/no/such"), "{missing:?}");
    assert!(fs::read_dir(to.path()).unwrap().next().is_none());
    let nowhere = Path::new("/proc/none/copy");
    let unwritten = guest(|guest| guest.take(&from.path().join("site"), nowhere)).unwrap_err();
    assert!(unwritten.message.starts_with("web: "), "{unwritten:?}");
    let file = guest(|guest| guest.take(from.path(), Path::new("/proc/version"))).unwrap_err();
    assert!(file.message.contains("is not a directory"), "{file:?}");
}

#[test]
fn sockets_are_left_out_and_named() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let _socket = std::os::unix::net::UnixListener::bind(from.path().join("socket")).unwrap();
    fs::write(from.path().join("file"), "content").unwrap();
    let copy = to.path().join("copy");
    let left_out = guest(|guest| guest.take(from.path(), &copy)).unwrap_err();
    assert!(
        left_out.message.contains("socket: only files"),
        "{left_out:?}"
    );
    assert_eq!(fs::read(copy.join("file")).unwrap(), b"content");
}

/// An archive as no honest `tar` makes it.
fn forged(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for (kind, name, value) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o7777);
        let raw = header.as_gnu_mut().unwrap();
        raw.name[..name.len()].copy_from_slice(name.as_bytes());
        let content: &[u8] = match kind {
            EntryType::Regular => value.as_bytes(),
            _ => {
                raw.linkname[..value.len()].copy_from_slice(value.as_bytes());
                b""
            }
        };
        header.set_size(content.len() as u64);
        header.set_cksum();
        archive.append(&header, content).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn a_guest_cannot_lead_a_copy_out_of_its_directory() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    let place = outside.path().to_str().unwrap();
    for archive in [
        vec![(EntryType::Regular, "../victim", "x")],
        vec![(EntryType::Regular, "a/../../victim", "x")],
        vec![(EntryType::Directory, "../victim", "")],
        vec![(EntryType::Link, "x", "../../../../etc/passwd")],
        vec![(EntryType::Symlink, "../victim", "/")],
        vec![
            (EntryType::Symlink, "d", place),
            (EntryType::Symlink, "d/victim", "/"),
        ],
        vec![
            (EntryType::Regular, "twice", "a"),
            (EntryType::Regular, "twice", "b"),
        ],
        vec![
            (EntryType::Regular, "file", "a"),
            (EntryType::Regular, "file/x", "b"),
        ],
    ] {
        let copy = outside.path().join("copy");
        fs::create_dir(&copy).unwrap();
        let refused = unpack::archive(&mut &forged(&archive)[..], &copy);
        assert!(refused.is_err(), "{archive:?}");
        assert!(!victim.exists(), "{archive:?}");
        fs::remove_dir_all(copy).unwrap();
    }
    // Files behind a link to another place are made below the copy, or not at all.
    let copy = outside.path().join("copy");
    fs::create_dir(&copy).unwrap();
    let through = [
        (EntryType::Symlink, "d", place),
        (EntryType::Regular, "d/victim", "x"),
    ];
    let refused = unpack::archive(&mut &forged(&through)[..], &copy);
    assert!(refused.is_err() && !victim.exists());
}

#[test]
fn permissions_of_a_guest_are_no_more_than_the_umask_allows() {
    let directory = tempfile::tempdir().unwrap();
    let entries = [
        (EntryType::Regular, "file", "content"),
        (EntryType::Fifo, "pipe", ""),
    ];
    let left_out = unpack::archive(&mut &forged(&entries)[..], directory.path()).unwrap();
    assert_eq!(left_out, [Path::new("pipe")]);
    let mode = fs::metadata(directory.path().join("file"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7000, 0, "{mode:o}");
    assert!(unpack::archive(&mut &b"no archive at all"[..], directory.path()).is_err());
}
