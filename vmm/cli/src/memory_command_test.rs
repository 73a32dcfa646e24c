use super::*;

fn status(balloon: Option<BalloonReport>) -> MemoryStatus {
    MemoryStatus {
        name: "web".into(),
        memory_bytes: 1 << 30,
        used_bytes: 3 << 20,
        own_bytes: 1 << 20,
        shared_bytes: 2 << 20,
        empty_bytes: 1021 << 20,
        balloon,
    }
}

#[test]
fn sizes_of_host_and_guest_are_in_one_table() {
    let balloon = BalloonReport {
        has_driver: true,
        reports_free: true,
        target_bytes: 512 << 20,
        actual_bytes: 256 << 20,
        released_bytes: 5 << 20,
        free_bytes: Some(700 << 20),
        ..BalloonReport::default()
    };
    let text = table(&status(Some(balloon.clone())));
    let row = |name: &str| {
        let mut lines = text.lines().map(str::split_whitespace);
        let mut line = lines
            .find(|line| line.clone().next() == Some(name))
            .unwrap();
        line.nth(1).unwrap().to_owned()
    };
    assert!(row("all").starts_with("1"), "{text}");
    assert!(row("empty").starts_with("1021"), "{text}");
    assert!(row("free").starts_with("700"), "{text}");
    assert_eq!(row("available"), "-", "{text}");
    assert!(row("balloon").starts_with("256"), "{text}");
    assert!(row("target").starts_with("512"), "{text}");
    assert!(!text.contains("virtio_balloon"));
    let notices = [
        (None, "older nvvmm"),
        (Some(BalloonReport::default()), "virtio_balloon"),
        (
            Some(BalloonReport {
                reports_free: false,
                ..balloon
            }),
            "5.7",
        ),
    ];
    for (balloon, expected) in notices {
        let text = table(&status(balloon));
        assert!(text.contains(expected), "{text}");
    }
}
