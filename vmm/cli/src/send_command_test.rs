use std::os::unix::fs::PermissionsExt;

use nvvmm_snapshot::{ContentRoot, Identity};

use super::*;

fn report(since: Option<&str>) -> SendReport {
    SendReport {
        name: "b".into(),
        identity: Identity::from_bytes([1; 16]).unwrap(),
        content_root: ContentRoot::from_bytes([2; 32]).unwrap(),
        since: since.map(Into::into),
        frames_sent: 256,
        frames_emptied: 1,
        frames_shared: 512,
        frames_zero: 2,
        bytes_raw: 1 << 20,
        bytes_stream: 4096,
    }
}

#[test]
fn a_report_says_what_is_in_the_stream() {
    assert_eq!(
        text(&report(None)),
        "sent b: 1.0 MiB of its memory, 8.0 KiB of zeros left out; the stream has 4.0 KiB\n"
    );
    assert_eq!(
        text(&report(Some("a"))),
        "sent b: 1.0 MiB of its memory, 2.0 MiB as in a, 8.0 KiB of zeros left out; the stream \
         has 4.0 KiB\n"
    );
}

#[test]
fn a_file_stays_only_when_the_stream_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stream");
    drop(Target::open(&path, false).unwrap());
    assert!(!path.exists());
    let mut target = Target::open(&path, false).unwrap();
    target.file.write_all(b"whole").unwrap();
    target.done().unwrap();
    drop(target);
    assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "guest memory is for its owner: {mode:o}");
    let refusal = Target::open(&path, false).err().unwrap();
    assert_eq!(refusal.kind, ErrorKind::Refused);
    assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    let mut target = Target::open(&path, true).unwrap();
    target.file.write_all(b"another").unwrap();
    assert_eq!(
        std::fs::read(&path).unwrap(),
        b"whole",
        "until the new one is whole"
    );
    target.done().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"another");
    let mut nowhere = Target::open(Path::new("/dev/null"), false).unwrap();
    assert!(nowhere.partial.is_none() && !nowhere.is_stdout());
    nowhere.done().unwrap();
    let missing = Target::open(&dir.path().join("no/stream"), false)
        .err()
        .unwrap();
    assert_eq!(missing.kind, ErrorKind::NotFound);
}
