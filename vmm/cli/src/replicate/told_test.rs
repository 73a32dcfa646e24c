use super::*;

fn told() -> Told {
    Told {
        vm: "web".to_owned(),
        store: "s3://bucket/team".to_owned(),
        running: true,
        newest: Some("web@replica-00000007".to_owned()),
        lag: Duration::from_millis(5100),
        kept: 7,
        pushed: None,
        failure: None,
    }
}

#[test]
fn a_line_says_how_old_the_newest_replica_is() {
    let sums = Sums {
        read_bytes: 2 << 20,
        new_bytes: 1 << 20,
        sent_bytes: 400 << 10,
        requests: 9,
    };
    let pushed = Told {
        pushed: Some(sums),
        ..told()
    };
    assert_eq!(
        text_of(&pushed),
        format!(
            "web@replica-00000007: 1.0 MiB new, 400.0 KiB sent; the lag was {}; 7 kept\n",
            TimeText(told().lag)
        )
    );
    let failed = Told {
        failure: Some(VmError::failed("cannot write packs/1: timed out")),
        ..told()
    };
    let text = text_of(&failed);
    assert!(
        text.contains(", the newest replica is web@replica-00000007: cannot"),
        "{text}"
    );
    let first = Told {
        newest: None,
        ..told()
    };
    let text = text_of(&first);
    assert!(
        text.ends_with(", no replica yet: a push is under way\n"),
        "{text}"
    );
    let ended = Told {
        running: false,
        ..told()
    };
    assert!(text_of(&ended).starts_with("web has ended; lag 5"));
}

#[test]
fn ps_tells_of_replicas_until_replication_ends_in_good_order() {
    let status = ReplicaStatus {
        store: "s3://bucket/team".to_owned(),
        running: true,
        every_us: 5_000_000,
        newest: Some("web@replica-00000007".to_owned()),
        lag_us: 2_000_000,
        failure: None,
    };
    let line = ps_line("web", &status);
    assert!(
        line.starts_with("web: replicated to s3://bucket/team; lag 2"),
        "{line}"
    );
    let ended = ReplicaStatus {
        running: false,
        ..status
    };
    assert_eq!(ps_line("web", &ended), "");
}
