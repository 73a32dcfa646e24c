use nvvmm_snapshot::{Identity, SnapshotId};

use super::*;

fn report(since: Option<&str>, frames_found: u64, resumed: bool) -> ReceiveReport {
    ReceiveReport {
        name: "b".into(),
        id: SnapshotId::new(3).unwrap(),
        identity: Identity::from_bytes([1; 16]).unwrap(),
        content_root: None,
        since: since.map(Into::into),
        like: None,
        resumed,
        frames_received: 512,
        frames_stored: 256,
        frames_found,
        frames_shared: 1024,
        bytes_raw: 1 << 20,
        bytes_stream: 4096,
    }
}

#[test]
fn a_report_says_what_was_stored_and_what_was_there() {
    assert_eq!(
        text(&report(None, 0, false)),
        "received b: 2.0 MiB of its memory, 1.0 MiB stored; the stream had 4.0 KiB\n"
    );
    assert_eq!(
        text(&report(Some("a"), 256, true)),
        "received b: 2.0 MiB of its memory, 1.0 MiB stored, 1.0 MiB had been received before, 4.0 \
         MiB shared with a; \
         the stream had 4.0 KiB\n"
    );
    assert!(text(&report(None, 256, false)).contains("1.0 MiB were in the pool already"));
}
