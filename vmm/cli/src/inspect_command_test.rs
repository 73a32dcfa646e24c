use serde_json::json;

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
fn a_value_of_a_sender_is_one_line_without_escapes() {
    let path = "/k\x1b[2J\nstate: fine";
    let shown = text(&json!({ "spec": { "kernel": path, "\x1b": 1 } }));
    assert_eq!(
        shown,
        "spec:\n  \\x1b: 1\n  kernel: /k\\x1b[2J\\nstate: fine\n"
    );
}
