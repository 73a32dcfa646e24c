//! A snapshot that is pushed to an object store and pulled into another pool runs there as it would
//! have in its own.

use std::{
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nvvmm_tests::{Faults, FaultyServer, Host, SnapshotMemory};
use serde_json::Value;

/// URL of a bucket at a server for tests, as scripts/with-s3.sh sets it.
const SERVER: &str = "NVVMM_TEST_S3";

/// A directory for a store, and a key file.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn url(&self, name: &str) -> String {
        format!("file://{}", self.0.path().join(name).display())
    }

    fn key(&self, name: &str, digit: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, digit.repeat(64)).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn number(report: &Value, key: &str) -> u64 {
    let found = report[key].as_u64();
    found.unwrap_or_else(|| panic!("{key} in {report}"))
}

/// Restores a snapshot. Its guest's memory must have this digest.
fn assert_runs(host: &Host, snapshot: &str, digest: &str) {
    SnapshotMemory::read(host.pool(), snapshot).assert_one_instant(snapshot);
    let mut vm = host.restore(snapshot, &[]);
    assert_eq!(vm.ask("digest all"), digest, "{snapshot}");
    assert!(vm.ask("check").contains("check ok"), "{snapshot}");
    vm.stop();
}

/// Pushes two snapshots of a guest that writes between them, and pulls both into another pool.
fn there_and_back(url: &str, options: &[&str]) {
    let (source, target) = (Host::new(192), Host::new(192));
    let with = |arguments: &[&str]| -> Vec<String> {
        let all = arguments.iter().chain(options);
        all.map(|argument| (*argument).to_owned()).collect()
    };
    let json = |host: &Host, arguments: &[&str]| {
        let all = with(arguments);
        host.json(&all.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let mut vm = source.boot_bare_metal(32, 1);
    vm.ask("fill 14 1");
    let first = vm.ask("digest all");
    vm.snapshot("first");
    // One piece and a few frames elsewhere.
    vm.ask("write 0 128");
    let second = vm.ask("digest all");
    vm.snapshot("second");
    vm.stop();

    let pushed = json(&source, &["push", "first", url]);
    assert_eq!(pushed["encrypted"], !options.is_empty());
    assert_eq!(json(&source, &["push", "first", url])["was_there"], true);
    let later = json(&source, &["push", "second", url]);
    let new = number(&later, "new_pieces_count");
    assert!((1..=10).contains(&new), "{later}");
    assert!(new < number(&pushed, "new_pieces_count"), "{pushed}");
    let listed = json(&source, &["remote", "ls", url]);
    let names: Vec<&Value> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["snapshot"])
        .collect();
    assert_eq!(names, ["first", "second"]);

    json(&target, &["pull", &format!("{url}/first")]);
    // The first one is its parent: what both have is not fetched.
    let pulled = json(&target, &["pull", &format!("{url}/second")]);
    assert_eq!(number(&pulled, "fetched_pieces_count"), new, "{pulled}");
    assert_eq!(pulled["received"]["like"], "first");
    assert_runs(&target, "first", &first);
    assert_runs(&target, "second", &second);
    let snapshots = target.json(&["snapshots"]);
    let is_foreign = |one: &Value| one["foreign"] == true;
    assert!(
        snapshots.as_array().unwrap().iter().all(is_foreign),
        "{snapshots}"
    );

    json(&source, &["remote", "rm", url, "first"]);
    for _ in 0..2 {
        json(&source, &["remote", "gc", url]);
    }
    assert_eq!(json(&source, &["remote", "verify", url])["clean"], true);
    target.run(&["rm", "second"]).ok();
    json(
        &target,
        &["pull", &format!("{url}/second"), "--name", "again"],
    );
    assert_runs(&target, "again", &second);
    source.assert_pool_clean();
    target.assert_pool_clean();
}

#[test]
fn a_snapshot_goes_through_a_directory_into_another_pool() {
    let files = Files::new();
    there_and_back(&files.url("plain"), &[]);
}

#[test]
fn an_encrypted_store_is_for_who_has_the_key() {
    let files = Files::new();
    let (key, other) = (files.key("key", "5"), files.key("other", "6"));
    let url = files.url("sealed");
    there_and_back(&url, &["--key", text(&key)]);
    let host = Host::new(64);
    let list = |options: &[&str]| host.run(&[&["remote", "ls", &url], options].concat());
    list(&[]).refused(4, "encrypted");
    list(&["--key", text(&other)]).refused(4, "not the one that the store was made with");
    std::fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    list(&["--key", text(&key)]).refused(4, "open to others");
}

#[test]
fn a_damaged_store_is_found_and_gives_no_snapshot() {
    let files = Files::new();
    let (source, target) = (Host::new(96), Host::new(96));
    let vm = source.boot_bare_metal(32, 1);
    vm.snapshot("one");
    vm.stop();
    let url = files.url("store");
    source.run(&["push", "one", &url]).ok();
    let packs = std::fs::read_dir(files.0.path().join("store/packs")).unwrap();
    let pack = packs
        .map(|push| push.unwrap().path().join("00000000"))
        .next()
        .unwrap();
    let mut bytes = std::fs::read(&pack).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&pack, &bytes).unwrap();
    let pull = format!("{url}/one");
    target.run(&["pull", &pull]).refused(4, "damaged");
    assert_eq!(target.json(&["snapshots"]), Value::Array(vec![]));
    source.run(&["remote", "verify", &url]).refused(6, "");
    std::fs::remove_file(&pack).unwrap();
    target
        .run(&["pull", &pull])
        .refused(4, "is not in the store");
    target
        .run(&["pull", &format!("{url}/two")])
        .refused(3, "no snapshot 'two'");
    let nowhere = files.url("nowhere");
    target
        .run(&["remote", "ls", &nowhere])
        .refused(3, "there is no store");
    target.assert_pool_clean();
}

#[test]
fn a_snapshot_goes_through_a_server_that_speaks_s3() {
    let Ok(url) = std::env::var(SERVER) else {
        println!("SKIPPED: no {SERVER}; scripts/with-s3.sh sets it");
        return;
    };
    let files = Files::new();
    let key = files.key("key", "5");
    there_and_back(&format!("{url}/plain"), &[]);
    there_and_back(&format!("{url}/sealed"), &["--key", text(&key)]);
    let host = Host::new(64);
    let gone = url.replace("s3://", "s3://no-");
    host.run(&["remote", "ls", &gone])
        .refused(3, "there is no store");
}

/// Faults that go away when a request is repeated, or that change nothing.
fn passing_faults() -> [Faults; 4] {
    let slow = Faults {
        latency: Duration::from_millis(20),
        ..Faults::default()
    };
    let erring = Faults { errors: 5, ..slow };
    let resetting = Faults {
        resets: 5,
        throttled: 5,
        ..Faults::default()
    };
    let ahead = Faults {
        is_ahead: true,
        ..Faults::default()
    };
    [slow, erring, resetting, ahead]
}

/// Faults that are found.
fn lasting_faults() -> [Faults; 2] {
    let flipping = Faults {
        flipped: 50,
        ..Faults::default()
    };
    let cutting = Faults {
        cut: 50,
        ..Faults::default()
    };
    [flipping, cutting]
}

#[test]
fn a_server_that_fails_gives_the_snapshot_or_a_clear_refusal() {
    let files = Files::new();
    let server = FaultyServer::start(files.0.path());
    let source = Host::new(160).with_variables(server.variables());
    let mut vm = source.boot_bare_metal(64, 1);
    vm.ask("fill 40 7");
    let digest = vm.ask("digest all");
    vm.snapshot("one");
    vm.stop();
    for (place, faults) in passing_faults().into_iter().enumerate() {
        let url = format!("s3://b/store-{place}");
        server.set(faults);
        let pushed = source.json(&["push", "one", &url]);
        assert_eq!(pushed["was_there"], false, "{faults:?}");
        let target = Host::new(160).with_variables(server.variables());
        target.json(&["pull", &format!("{url}/one")]);
        server.set(Faults::default());
        assert_runs(&target, "one", &digest);
        assert_eq!(source.json(&["remote", "verify", &url])["clean"], true);
        // Nothing is under way, by whatever clock.
        let collected = source.json(&["remote", "gc", &url]);
        assert_eq!(collected["pushes"], Value::Array(vec![]), "{faults:?}");
        assert_eq!(number(&collected, "condemned_count"), 0, "{faults:?}");
    }
    let pull = "s3://b/store-0/one";
    for faults in lasting_faults() {
        let target = Host::new(160).with_variables(server.variables());
        server.set(faults);
        let pulled = target.run(&["pull", pull]);
        if pulled.code != 0 {
            let (code, text) = match faults.cut {
                0 => (4, "damaged"),
                _ => (1, "cannot read packs"),
            };
            pulled.refused(code, text);
            let there = target.json(&["snapshots"]);
            let is_incomplete = |one: &Value| one["incomplete"] == true;
            assert!(
                there.as_array().unwrap().iter().all(is_incomplete),
                "{there}"
            );
        }
        server.set(Faults::default());
        let again = target.run(&["pull", pull]);
        assert!(
            again.code == 0 || again.stderr.contains("exists"),
            "{}",
            again.stderr
        );
        assert_runs(&target, "one", &digest);
        target.assert_pool_clean();
    }
    server.set(Faults {
        refuses_conditions: true,
        ..Faults::default()
    });
    let push = source.run(&["push", "one", "s3://b/store-9"]);
    push.refused(4, "conditional writes");
    let push = source.run(&["push", "one", "s3://b/store-0"]);
    assert_eq!(push.ok().stdout, "one is in the store already\n");
}
