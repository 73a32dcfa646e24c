use std::time::Duration;

use nvvmm_remote::{Fault, PushUnderWay};

use super::*;

#[test]
fn a_collection_says_what_it_did_and_which_pushes_hold_it_up() {
    let id = "00112233445566778899aabbccddeeff".parse().unwrap();
    let report = GcReport {
        snapshots_count: 1,
        packs_count: 3,
        packs_bytes: 3 << 20,
        deleted_count: 1,
        deleted_bytes: 1 << 20,
        condemned_count: 1,
        condemned_bytes: 1 << 20,
        pushes: vec![PushUnderWay {
            id,
            age: Duration::from_secs(90),
        }],
    };
    assert_eq!(
        collected_text(&report),
        "1 snapshot in 3 packs of 3.0 MiB\n\
         deleted 1 pack of 1.0 MiB\n\
         condemned 1 pack of 1.0 MiB: a later run deletes what no push under way counts on\n\
         push 00112233445566778899aabbccddeeff began 90.0 s ago; if it is dead, end it with \
         --end-push 00112233445566778899aabbccddeeff\n"
    );
}

#[test]
fn a_verification_names_what_is_damaged_and_who_needs_it() {
    let mut report = VerifyReport {
        snapshots_count: 2,
        packs_count: 1,
        pieces_count: 3,
        read_bytes: 4096,
        faults: vec![],
    };
    assert!(verified_text(&report).ends_with("1 pack, 4.0 KiB\nnothing is damaged\n"));
    report.faults.push(Fault {
        what: "pack 7 is damaged".into(),
        snapshots: vec!["a".into(), "b".into()],
    });
    assert!(verified_text(&report).ends_with("pack 7 is damaged\n  needed by: a, b\n"));
}

#[test]
fn a_store_without_snapshots_says_so() {
    assert_eq!(table(&[]), "no snapshots\n");
}
