use super::*;

#[test]
fn values_are_lines_that_a_person_reads() {
    let decoded = json!({
        "name": "base",
        "parent": null,
        "blocks": [1, 2, 3],
        "none": [],
        "slots": [{ "usable": true }, { "usable": false }],
        "map": { "root": { "node": 7 } },
    });
    let shown = text(&decoded);
    for part in [
        "name: base\n",
        "parent: -\n",
        "blocks: 1 2 3\n",
        "none: none\n",
        "slots:\n  0:\n    usable: true\n  1:\n    usable: false\n",
        "map:\n  root:\n    node: 7\n",
    ] {
        assert!(shown.contains(part), "{part} is not in:\n{shown}");
    }
}

#[test]
fn a_device_that_is_no_virtio_device_is_told_by_its_size() {
    let device = SavedDevice {
        kind: "serial".into(),
        version: 1,
        instance: "com1".into(),
        payload: vec![1, 2, 3],
    };
    let told = of_device(&device);
    assert_eq!(
        (&told["instance"], &told["state_bytes"]),
        (&json!("com1"), &json!(3))
    );
    assert!(told.get("queues").is_none());
}
