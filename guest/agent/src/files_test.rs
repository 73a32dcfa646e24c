use super::*;
use crate::test_stream::HostEnd;

fn bytes_of(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

fn write(path: &Path, name: &str, parts: &[&[u8]]) -> FromAgent {
    let host = HostEnd::ask(ToAgent::Write {
        path: bytes_of(path),
        name: name.as_bytes().to_vec(),
        mode: 0o100_750,
    });
    for part in parts {
        host.say(ToAgent::Data(part.to_vec()));
    }
    host.say(ToAgent::End);
    let answer = host.hear();
    host.end();
    answer
}

fn assert_refused(answer: FromAgent, because: FailedBecause, says: &str) {
    let FromAgent::Failed {
        because: found,
        message,
    } = answer
    else {
        panic!("{answer:?}");
    };
    assert_eq!(found, because, "{message}");
    assert!(message.contains(says), "{message}");
}

#[test]
fn a_file_comes_and_goes_with_its_content_and_permissions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let content: Vec<u8> = (0..3 * DATA_BYTES_MAX)
        .map(|byte| (byte % 251) as u8)
        .collect();
    assert_eq!(
        write(&path, "x", &[&content[..10], &content[10..]]),
        FromAgent::End
    );
    assert_eq!(fs::read(&path).unwrap(), content);
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o750
    );

    let host = HostEnd::ask(ToAgent::Read {
        path: bytes_of(&path),
    });
    assert_eq!(host.hear(), FromAgent::File { mode: 0o750 });
    assert_eq!(host.hear_all(), (content, Vec::new(), FromAgent::End));
    host.end();
}

#[test]
fn a_file_that_is_copied_to_a_directory_keeps_its_name() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(write(directory.path(), "name", &[b"new"]), FromAgent::End);
    assert_eq!(fs::read(directory.path().join("name")).unwrap(), b"new");
    assert_eq!(
        write(directory.path(), "../escaped", &[b"new"]),
        FromAgent::End
    );
    assert!(
        directory.path().join("escaped").exists(),
        "the last part of a name counts"
    );
    assert_refused(
        write(directory.path(), "..", &[]),
        FailedBecause::Refused,
        "no name",
    );
}

#[test]
fn a_file_that_did_not_come_wholly_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    fs::write(&path, "old").unwrap();
    let request = || ToAgent::Write {
        path: bytes_of(&path),
        name: Vec::new(),
        mode: 0o600,
    };
    let host = HostEnd::ask(request());
    host.say(ToAgent::Data(b"half".to_vec()));
    host.end();
    let host = HostEnd::ask(request());
    host.say(request());
    assert_refused(host.hear(), FailedBecause::Refused, "not part of a file");
    host.end();
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        1,
        "no rest is left"
    );
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let read = |path: &Path| {
        let host = HostEnd::ask(ToAgent::Read {
            path: bytes_of(path),
        });
        let answer = host.hear();
        host.end();
        answer
    };
    let missing = directory.path().join("missing");
    assert_refused(read(&missing), FailedBecause::NotFound, "missing");
    assert_refused(
        read(directory.path()),
        FailedBecause::Refused,
        "no regular file",
    );
    assert_refused(
        read(Path::new("/dev/zero")),
        FailedBecause::Refused,
        "/dev/zero",
    );
    assert_refused(
        write(Path::new("/dev/null"), "x", &[]),
        FailedBecause::Refused,
        "/dev/null",
    );
    assert_refused(
        write(&missing.join("x"), "x", &[]),
        FailedBecause::NotFound,
        "missing/x",
    );
}
