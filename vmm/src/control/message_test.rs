use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::control::{AgentOrders, ReplicaStatus, TimeOfDay, ToldReplica};

#[test]
fn requests_have_the_documented_form() {
    let line = serde_json::to_string(&Versioned::current(Request::Snapshot(SnapshotRequest {
        name: "base".into(),
        stop: false,
        durability: None,
        verify: false,
        disks_only: false,
    })))
    .unwrap();
    assert_eq!(
        line,
        r#"{"version":1,"op":"snapshot","name":"base","stop":false}"#
    );
    assert_eq!(
        serde_json::to_string(&Versioned::current(Request::Pause)).unwrap(),
        r#"{"version":1,"op":"pause"}"#
    );
}

#[test]
fn a_take_over_has_the_documented_form() {
    let line = concat!(
        r#"{"version":1,"op":"take","program":"0.1.0","pool":"/p","snapshot":"base","#,
        r#""name":"web","console":"/run/web.console","time_of_day":"keep"}"#
    );
    let request = decode_request(line.as_bytes()).unwrap();
    let expected = Request::Take(TakeRequest {
        program: "0.1.0".into(),
        pool: "/p".into(),
        snapshot: "base".into(),
        name: "web".into(),
        console: Some("/run/web.console".into()),
        agent_orders: AgentOrders {
            time_of_day: TimeOfDay::Keep,
            keep_connections: false,
        },
        paused: false,
    });
    assert_eq!(request, expected);
    let written = serde_json::to_string(&Versioned::current(request)).unwrap();
    assert_eq!(written, line);
}

#[test]
fn a_look_at_the_sizes_of_disks_has_the_documented_form() {
    let line = serde_json::to_string(&Versioned::current(Request::MeasureDisks)).unwrap();
    assert_eq!(line, r#"{"version":1,"op":"measure_disks"}"#);
    assert_eq!(decode_request(line.as_bytes()), Ok(Request::MeasureDisks));
    let answer = Answer::Resized {
        disks: vec![ResizedDisk {
            path: "/srv/root.img".into(),
            size_bytes: 1 << 30,
        }],
    };
    assert_eq!(
        serde_json::to_string(&Versioned::current(answer)).unwrap(),
        concat!(
            r#"{"version":1,"answer":"resized","#,
            r#""disks":[{"path":"/srv/root.img","size_bytes":1073741824}]}"#
        )
    );
}

#[test]
fn answers_have_the_documented_form() {
    let error = VmError::new(ErrorKind::PoolFull, "full").with_remedy("remove");
    let line = serde_json::to_string(&Versioned::current(Answer::Error { error })).unwrap();
    assert_eq!(
        line,
        concat!(
            r#"{"version":1,"answer":"error","#,
            r#""error":{"kind":"pool_full","message":"full","remedy":"remove"}}"#
        )
    );
}

#[test]
fn requests_are_decoded() {
    let asked = br#"{"version":1,"op":"snapshot","name":"a","stop":true,"durability":"host"}"#;
    assert_eq!(
        decode_request(asked).unwrap(),
        Request::Snapshot(SnapshotRequest {
            name: "a".into(),
            stop: true,
            durability: Some(nvvmm_snapshot::Durability::Host),
            verify: false,
            disks_only: false,
        })
    );
    let request = decode_request(br#"{"version":1,"op":"snapshot","name":"a"}"#).unwrap();
    assert_eq!(
        request,
        Request::Snapshot(SnapshotRequest {
            name: "a".into(),
            stop: false,
            durability: None,
            verify: false,
            disks_only: false,
        })
    );
    assert_eq!(
        decode_request(br#" { "op" : "stop", "version":1 } "#).unwrap(),
        Request::Stop
    );
}

#[test]
fn requests_about_a_ring_are_decoded() {
    for (line, expected) in [
        (
            &br#"{"version":1,"op":"start_ring","every_us":10000,"keep":8}"#[..],
            Request::StartRing(RingRequest {
                every_us: 10_000,
                keep: 8,
                replace: false,
                durability: None,
            }),
        ),
        (br#"{"version":1,"op":"stop_ring"}"#, Request::StopRing),
        (
            br#"{"version":1,"op":"rewind","which":"back","checkpoints":3}"#,
            Request::Rewind(RewindRequest::Back {
                checkpoints: 3,
                stale_disks: false,
                keep_clock: false,
                keep_connections: false,
            }),
        ),
        (
            concat!(
                r#"{"version":1,"op":"rewind","which":"to","name":"a","keep_clock":true,"#,
                r#""keep_connections":true}"#
            )
            .as_bytes(),
            Request::Rewind(RewindRequest::To {
                name: "a".into(),
                stale_disks: false,
                keep_clock: true,
                keep_connections: true,
            }),
        ),
        (
            br#"{"version":1,"op":"rewind","which":"to","name":"a"}"#,
            Request::Rewind("a".into()),
        ),
    ] {
        assert_eq!(decode_request(line).unwrap(), expected);
    }
    let unknown = br#"{"version":1,"op":"rewind","which":"sideways"}"#;
    assert_eq!(decode_request(unknown).unwrap_err().kind, ErrorKind::Usage);
}

#[test]
fn a_future_version_is_named_whatever_else_it_says() {
    let error = decode_request(br#"{"version":2,"op":"teleport","to":[1]}"#).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Usage);
    assert!(
        error.message.contains("version 2") && error.message.contains("version 1"),
        "{error}"
    );
}

#[test]
fn what_is_no_request_is_a_usage_error() {
    for line in [
        &b""[..],
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b"pause",
        br#"{"version":"1","op":"pause"}"#,
        br#"{"version":1}"#,
        br#"{"version":1,"op":"teleport"}"#,
        br#"{"version":1,"op":"snapshot"}"#,
        br#"{"version":1,"op":"snapshot","name":7}"#,
        br#"{"version":1,"op":"pause"} trailing"#,
    ] {
        let error = decode_request(line).unwrap_err();
        assert_eq!(
            error.kind,
            ErrorKind::Usage,
            "{}",
            String::from_utf8_lossy(line)
        );
    }
    let deep = "[".repeat(REQUEST_BYTES_MAX);
    assert_eq!(
        decode_request(deep.as_bytes()).unwrap_err().kind,
        ErrorKind::Usage
    );
}

#[test]
fn an_error_kind_of_a_newer_version_is_a_plain_failure() {
    let error: VmError = serde_json::from_str(r#"{"kind":"moon_phase","message":"m"}"#).unwrap();
    assert_eq!(error.kind, ErrorKind::Failed);
    for kind in [
        ErrorKind::Usage,
        ErrorKind::NotFound,
        ErrorKind::Refused,
        ErrorKind::PoolFull,
        ErrorKind::PoolDamaged,
        ErrorKind::HostLacks,
        ErrorKind::Failed,
    ] {
        let text = serde_json::to_string(&kind).unwrap();
        assert_eq!(serde_json::from_str::<ErrorKind>(&text).unwrap(), kind);
    }
}

proptest! {
    #[test]
    fn any_bytes_are_answered(line in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_request(&line);
    }

    #[test]
    fn damaged_requests_are_answered(at in 0_usize..56, byte in any::<u8>()) {
        let mut line = br#"{"version":1,"op":"snapshot","name":"base","stop":false}"#.to_vec();
        line[at] = byte;
        let _ = decode_request(&line);
    }
}

#[test]
fn a_note_of_replicas_is_decoded_and_its_lag_grows() {
    let line = concat!(
        r#"{"version":1,"op":"replicated","store":"s3://b/web","running":true,"every_us":5000000,"#,
        r#""newest":"web@replica-00000007","lag_us":2000000}"#
    );
    let expected = ReplicaStatus {
        store: "s3://b/web".into(),
        running: true,
        every_us: 5_000_000,
        newest: Some("web@replica-00000007".into()),
        lag_us: 2_000_000,
        failure: None,
    };
    let decoded = decode_request(line.as_bytes()).unwrap();
    assert_eq!(decoded, Request::Replicated(expected.clone()));
    let told = ToldReplica::now(expected);
    std::thread::sleep(Duration::from_millis(5));
    let later = told.status();
    assert!(later.lag_us >= 2_005_000, "{later:?}");
    assert_eq!(later.lag(), Some(Duration::from_micros(later.lag_us)));
    let ended = ReplicaStatus {
        running: false,
        ..later
    };
    assert_eq!(ended.lag(), None);
}
