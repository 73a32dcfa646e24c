//! Each command prints with `--json` what its schema in docs/formats/json allows.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nvvmm_tests::{Host, required, schema};
use serde_json::Value;

/// Longest wait for a ring.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn every_command_prints_what_its_schema_allows() {
    let host = Host::new(128);
    let kernel = required("NVVMM_BAREMETAL_GUEST");
    let kernel = kernel.to_str().unwrap();
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    let (stream, core) = (file("stream"), file("core"));
    // Each output is held against its schema as it is read.
    host.json(&["doctor"]);
    host.json(&[
        "run", "--kernel", kernel, "--memory", "32M", "--name", "j", "--detach",
    ]);
    host.json(&["snapshot", "j", "a", "--verify"]);
    host.json(&["checkpoint", "j", "--every", "1h", "--keep", "2"]);
    host.json(&["checkpoint", "j", "--stop"]);
    host.json(&["snapshot", "j", "b"]);
    host.json(&["rewind", "j", "--to", "a"]);
    let listed = host.json(&["ps"]);
    assert_eq!(listed[0]["vm"], "j");
    assert!(
        listed[0]["ring"].is_object() && listed[0]["end"].is_null(),
        "{listed}"
    );
    host.json(&["stats", "j"]);
    let memory = host.json(&["memory", "j", "--target", "2M"]);
    assert_eq!(memory["balloon"]["target_bytes"], 2 << 20);
    assert_eq!(memory["balloon"]["has_driver"], false);
    host.json(&["port", "j"]);
    host.json(&["disk", "rescan", "j"]);
    host.run(&["stop", "j"]).ok();
    host.json(&["restore", "b", "--name", "k", "--detach"]);
    let restored = host.json(&["ps"]);
    assert_eq!(restored[0]["origin"]["snapshot"], "b");
    assert!(restored[0]["restore"].is_object(), "{restored}");
    host.run(&["stop", "k"]).ok();
    let all = host.json(&["ps", "--all"]);
    assert!(
        all[0]["end"].is_object() && all[1]["end"].is_object(),
        "{all}"
    );
    host.json(&["wait", "j", "k"]);
    host.json(&["start", "k"]);
    host.run(&["stop", "k"]).ok();
    host.json(&["snapshots"]);
    host.json(&["spare"]);
    host.json(&["inspect"]);
    host.json(&["inspect", "a"]);
    host.json(&["diff", "a", "b"]);
    host.json(&["send", "a", "--output", &stream]);
    host.json(&["receive", &stream, "--name", "c"]);
    host.json(&["adopt", "c", "--yes"]);
    use_a_store(&host, &format!("file://{}", file("store")));
    host.json(&["export", "a", "--core", &core]);
    host.json(&["pool", "status"]);
    host.json(&["pool", "map"]);
    host.json(&["pool", "check"]);
    host.json(&["pool", "scrub"]);
    host.json(&["rm", "c"]);
    host.json(&["disk", "create", "data", "--size", "1M"]);
    std::fs::write(file("image"), [1; 512]).unwrap();
    host.json(&["disk", "import", &file("image"), "--name", "small"]);
    host.json(&["disk", "export", "small", &file("exported")]);
    host.json(&["disk", "resize", "data", "+1M"]);
    host.json(&["disk", "copy", "data", "other"]);
    host.json(&["disk", "info", "data"]);
    host.json(&["disk", "ls"]);
    host.json(&["disk", "rm", "data"]);
    if !host.medium().is_device() {
        host.json(&["pool", "grow", "--size", "+32M"]);
    }
    let mut unseen: BTreeSet<String> = schema::all();
    for name in schema::seen() {
        unseen.remove(&name);
    }
    // tests/kvm/{bench,grow,migrate,replicate}.rs have these.
    for elsewhere in ["bench", "pool-grow", "migrate", "replicate"] {
        unseen.remove(elsewhere);
    }
    assert!(unseen.is_empty(), "{unseen:?}");
}

fn use_a_store(host: &Host, url: &str) {
    host.json(&["push", "a", url]);
    host.json(&["pull", &format!("{url}/a"), "--name", "d"]);
    let stored = host.json(&["remote", "ls", url]);
    assert_eq!(stored[0]["snapshot"], "a");
    assert_eq!(host.json(&["remote", "verify", url])["clean"], true);
    host.json(&["remote", "rm", url, "a"]);
    host.json(&["remote", "gc", url]);
}

#[test]
fn a_ring_that_is_watched_is_one_object_a_line() {
    let host = Host::new(128);
    let vm = host.boot_bare_metal(32, 1);
    let watch = host
        .command(&[
            "checkpoint",
            &vm.name,
            "--every",
            "10ms",
            "--keep",
            "2",
            "--watch",
            "--json",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let until = Instant::now() + PATIENCE;
    while vm.status()["ring"]["taken_count"].as_u64() < Some(1) {
        assert!(Instant::now() < until, "{}", vm.status());
        std::thread::sleep(Duration::from_millis(5));
    }
    host.json(&["checkpoint", &vm.name, "--stop"]);
    let ended = watch.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    let lines: Vec<Value> = String::from_utf8(ended.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    for line in &lines {
        schema::assert_valid(&["checkpoint"], line);
    }
    let running: Vec<Option<bool>> = lines.iter().map(|line| line["running"].as_bool()).collect();
    assert_eq!(
        (running.first(), running.last()),
        (Some(&Some(true)), Some(&Some(false))),
        "{lines:?}"
    );
}
