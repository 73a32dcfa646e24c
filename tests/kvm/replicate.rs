//! `nvvmm replicate` keeps a ring of snapshots of a VM in a store: what a lost host costs is the
//! lag, and that is told.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use nvvmm_tests::{Faults, FaultyServer, Host, SnapshotMemory, Vm, schema};
use serde_json::Value;

/// Longest wait for something that takes seconds at most.
const PATIENCE: Duration = Duration::from_secs(60);
/// Interval of replicas.
const EVERY: Duration = Duration::from_millis(300);

/// `nvvmm replicate` under way.
struct Replication {
    child: Child,
    lines: Receiver<Value>,
}

impl Replication {
    fn start(host: &Host, vm: &str, url: &str, options: &[&str]) -> Self {
        let every = format!("{}ms", EVERY.as_millis());
        let all = ["replicate", vm, url, "--every", &every, "--json"];
        let mut command = host.command(&[&all[..], options].concat());
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (give, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let line: Value = serde_json::from_str(&line).unwrap();
                schema::assert_valid(&["replicate"], &line);
                if give.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line that is wanted.
    fn wait_for(&self, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|e| panic!("{what}: {e}"));
            if is_wanted(&line) {
                return line;
            }
        }
    }

    /// The next replica whose instant is after this call.
    fn next(&self) -> Value {
        while self.lines.try_recv().is_ok() {}
        self.pushed();
        self.pushed()
    }

    fn pushed(&self) -> Value {
        self.wait_for("a replica", |line| line["pushed"].is_object())
    }

    /// Kills it, as a lost host does.
    fn kill(self) {
        drop(self);
    }

    /// Ends it in good order: its exit code and what it wrote to standard error.
    fn end(self) -> (Option<i32>, String) {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM).unwrap();
        self.ended()
    }

    fn ended(mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        let errors = self.child.stderr.as_mut().unwrap();
        errors.read_to_string(&mut text).unwrap();
        (self.child.wait().unwrap().code(), text)
    }
}

impl Drop for Replication {
    fn drop(&mut self) {
        // Of a test that has failed: it would outlive it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A directory for a store.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn url(&self) -> String {
        format!("file://{}", self.path("").display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join("store").join(name)
    }
}

fn names_in(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn name(line: &Value) -> String {
    line["newest_replica"].as_str().unwrap().to_owned()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

fn replicas(host: &Host, url: &str) -> Vec<String> {
    let listed = host.json(&["remote", "ls", url]);
    let listed = listed.as_array().unwrap().iter();
    listed
        .map(|one| one["snapshot"].as_str().unwrap().to_owned())
        .collect()
}

fn snapshots(host: &Host) -> usize {
    host.json(&["snapshots"]).as_array().unwrap().len()
}

fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < until, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A VM whose guest has filled memory.
fn boot(host: &Host) -> Vm<'_> {
    let mut vm = host.boot_bare_metal(64, 1);
    vm.ask("fill 32 7");
    vm
}

#[test]
fn the_newest_replica_of_a_lost_host_runs_elsewhere() {
    let place = Place::new();
    let (host, other) = (Host::new(256), Host::new(256));
    let mut vm = boot(&host);
    let name_of_vm = vm.name.clone();
    let replication = Replication::start(&host, &vm.name, &place.url(), &["--keep", "3"]);
    let first = replication.pushed();
    assert_eq!(name(&first), format!("{}@replica-00000000", vm.name));
    assert!(
        number(&first["pushed"]["read_bytes"]) >= 32 << 20,
        "{first}"
    );
    // Some replicas later, something is written: only chunks with it are read, and sent.
    replication.next();
    vm.ask("write 0 128");
    let digest = vm.ask("digest all");
    let line = replication.next();
    let (read, sent) = (&line["pushed"]["read_bytes"], &line["pushed"]["sent_bytes"]);
    assert!(number(read) <= 12 << 20, "{line}");
    assert!(number(sent) <= 3 << 20, "{line}");
    assert_eq!(line["kept_count"], 3);
    // The lag is that of the newest one, and no larger than two intervals and two pushes.
    let bound = 2 * EVERY + Duration::from_secs(5);
    let lag = Duration::from_micros(number(&line["lag_us"]));
    assert!(EVERY <= lag && lag <= bound, "{lag:?}");
    let seen = &vm.status()["replica"];
    assert_eq!(
        (&seen["running"], &seen["failure"]),
        (&Value::Bool(true), &Value::Null)
    );
    assert!(
        number(&seen["lag_us"]) <= bound.as_micros() as u64,
        "{seen}"
    );
    assert!(number(&vm.stats()["replica_lag_us"]) <= bound.as_micros() as u64);
    assert_eq!(vm.status()["snapshots_taken"], Value::Array(vec![]));
    assert!(snapshots(&host) <= 2);
    let newest = name(&replication.next());
    replication.kill();
    // Nobody replicates any more: it is seen.
    wait_until("a growing lag", || {
        number(&vm.status()["replica"]["lag_us"]) > bound.as_micros() as u64
    });
    vm.kill();
    wait_until("the end of a push", || {
        names_in(&place.path("pushes")).is_empty()
    });
    let there = replicas(&other, &place.url());
    assert!((3..=4).contains(&there.len()), "{there:?}");
    assert!(there.contains(&newest), "{there:?}");
    let newest = there.last().unwrap();
    let mut vm = other.restore(&format!("{}/{newest}", place.url()), &[]);
    assert_eq!(vm.ask("digest all"), digest);
    assert!(vm.ask("check").contains("check ok"));
    wait_until("all memory", || vm.status()["arriving"].is_null());
    // It has its name, and was restored from the ring: so it goes on with that.
    assert_eq!(vm.name, name_of_vm);
    let replication = Replication::start(&other, &vm.name, &place.url(), &["--keep", "3"]);
    replication.next();
    let (code, text) = replication.end();
    assert_eq!(code, Some(0), "{text}");
    vm.stop();
    SnapshotMemory::read(other.pool(), &newest.replace('@', "-")).assert_one_instant(newest);
    assert_eq!(
        other.json(&["remote", "verify", &place.url()])["clean"],
        true
    );
    other.assert_pool_clean();
}

#[test]
fn a_replication_that_was_killed_or_ended_is_gone_on_with() {
    let place = Place::new();
    let host = Host::new(256);
    let vm = boot(&host);
    let start = || Replication::start(&host, &vm.name, &place.url(), &["--keep", "2"]);
    let replication = start();
    replication.pushed();
    let second = Replication::start(&host, &vm.name, &place.url(), &[]);
    let (code, text) = second.ended();
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("another 'nvvmm replicate'"), "{text}");
    let before = name(&replication.pushed());
    replication.kill();
    let replication = start();
    let after = name(&replication.pushed());
    assert!(after > before, "{after} after {before}");
    let (code, text) = replication.end();
    assert_eq!(code, Some(0), "{text}");
    // Nothing is left, neither here nor there, and nobody is worried.
    assert_eq!(snapshots(&host), 0);
    assert!(names_in(&place.path("pushes")).is_empty());
    assert_eq!(vm.status()["replica"]["running"], false);
    assert_eq!(vm.stats()["replica_lag_us"], Value::Null);
    let replication = start();
    replication.pushed();
    // The VM ends, and so does replication.
    host.run(&["stop", &vm.name]).ok();
    replication.wait_for("the end", |line| line["running"] == false);
    let (code, text) = replication.ended();
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(snapshots(&host), 0);
    assert!((2..=3).contains(&replicas(&host, &place.url()).len()));
    // Another VM of that name would have them removed.
    let kernel = nvvmm_tests::required("NVVMM_BAREMETAL_GUEST");
    let kernel = kernel.to_str().unwrap();
    let run = ["run", "--name", &vm.name, "--kernel", kernel, "--detach"];
    host.run(&[&run[..], &["--memory", "32M"]].concat()).ok();
    let (code, text) = start().ended();
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("an earlier VM"), "{text}");
    let options = ["--keep", "2", "--replace"];
    let replication = Replication::start(&host, &vm.name, &place.url(), &options);
    replication.next();
    assert_eq!(replication.end().0, Some(0));
    // The signal may have come before the oldest was removed.
    let left = replicas(&host, &place.url());
    assert!((2..=3).contains(&left.len()), "{left:?}");
    host.assert_pool_clean();
}

#[test]
fn what_is_not_needed_any_more_is_deleted_from_the_store() {
    let place = Place::new();
    let host = Host::new(256);
    let mut vm = boot(&host);
    let options = ["--keep", "1", "--every", "0"];
    let all = ["replicate", &vm.name, &place.url(), "--json"];
    let mut command = host.command(&[&all[..], &options].concat());
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    // Each push writes a pack. 10 removals, a collection that condemns, 10 more, one that deletes.
    let newest = |vm: &mut Vm<'_>| {
        vm.ask("write 0 1");
        let seen = &vm.status()["replica"]["newest_replica"];
        let digits = seen
            .as_str()
            .and_then(|name| name.rsplit('-').next()?.parse().ok());
        digits.unwrap_or(0_u64)
    };
    wait_until("30 replicas", || newest(&mut vm) >= 30);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
    assert!(child.wait().unwrap().success());
    let pushes = names_in(&place.path("packs"));
    let packs: usize = pushes.iter().map(|push| names_in(push).len()).sum();
    assert!((2..=25).contains(&packs), "{packs} packs after 30 replicas");
    assert_eq!(
        host.json(&["remote", "verify", &place.url()])["clean"],
        true
    );
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn a_store_that_is_away_makes_the_lag_grow_until_it_is_back() {
    let place = Place::new();
    let server = FaultyServer::start(place.0.path());
    let host = Host::new(256).with_variables(server.variables());
    let mut vm = boot(&host);
    let replication = Replication::start(&host, &vm.name, "s3://b/store", &["--keep", "2"]);
    let before = name(&replication.next());
    server.set(Faults {
        is_away: true,
        ..Faults::default()
    });
    let failed = replication.wait_for("a failure", |line| line["failure"].is_object());
    assert!(name(&failed) >= before, "{failed}");
    let later = replication.wait_for("another", |line| line["failure"].is_object());
    assert!(
        number(&later["lag_us"]) > number(&failed["lag_us"]),
        "{later}"
    );
    let seen = &vm.status()["replica"];
    assert!(seen["failure"].is_object(), "{seen}");
    let listed = host.run(&["ps"]).ok().stderr;
    assert!(
        listed.contains("replicated to s3://b/store; lag"),
        "{listed}"
    );
    // The guest runs on, and what it writes meanwhile is in the next one.
    vm.ask("write 0 500");
    let digest = vm.ask("digest all");
    server.set(Faults {
        latency: Duration::from_millis(2),
        errors: 5,
        throttled: 5,
        resets: 5,
        ..Faults::default()
    });
    let back = replication.next();
    assert!(name(&back) > before, "{back}");
    server.set(Faults::default());
    let newest = name(&replication.next());
    let (code, text) = replication.end();
    assert_eq!(code, Some(0), "{text}");
    assert!(names_in(&place.path("pushes")).is_empty());
    vm.stop();
    host.run(&["pull", &format!("s3://b/store/{newest}"), "--name", "last"])
        .ok();
    let mut last = host.restore("last", &[]);
    assert_eq!(last.ask("digest all"), digest);
    last.stop();
    host.assert_pool_clean();
}
