use nvvmm_remote::Traffic;
use nvvmm_snapshot::{ContentRoot, Identity, ReceiveReport, SnapshotId};

use super::*;

const TRAFFIC: Traffic = Traffic {
    requests: 9,
    sent_bytes: 4096,
    received_bytes: 8192,
};

#[test]
fn a_push_says_what_the_store_lacked() {
    let report = PushReport {
        name: "a".into(),
        identity: Identity::from_bytes([1; 16]).unwrap(),
        content_root: ContentRoot::from_bytes([1; 32]).unwrap(),
        was_there: false,
        pieces_count: 4,
        new_pieces_count: 1,
        content_bytes: 2 << 20,
        new_content_bytes: 512 << 10,
        packs_count: 1,
        read_bytes: 0,
        traffic: TRAFFIC,
    };
    assert_eq!(
        pushed_text(&report),
        "pushed a: 2.0 MiB of its memory, 512.0 KiB of them new to the store; 4.0 KiB were sent\n"
    );
    let there = PushReport {
        was_there: true,
        ..report
    };
    assert_eq!(pushed_text(&there), "a is in the store already\n");
}

#[test]
fn a_pull_says_what_was_fetched() {
    let mut report = PullReport {
        received: ReceiveReport {
            name: "b".into(),
            id: SnapshotId::new(3).unwrap(),
            identity: Identity::from_bytes([1; 16]).unwrap(),
            content_root: None,
            since: None,
            like: None,
            resumed: false,
            frames_received: 512,
            frames_stored: 256,
            frames_found: 0,
            frames_shared: 0,
            bytes_raw: 1 << 20,
            bytes_stream: 0,
        },
        pieces_count: 4,
        fetched_pieces_count: 4,
        traffic: TRAFFIC,
    };
    assert_eq!(
        pulled_text(&report),
        "pulled b: 2.0 MiB of its memory, 1.0 MiB stored; 8.0 KiB were fetched\n"
    );
    report.received.frames_found = 256;
    assert!(pulled_text(&report).contains("1.0 MiB were in the pool already"));
    report.received.resumed = true;
    assert!(pulled_text(&report).contains("1.0 MiB had been pulled before"));
}
