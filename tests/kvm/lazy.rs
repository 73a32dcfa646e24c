//! A VM that is restored from an object store runs before its memory has arrived, and has the
//! memory of the snapshot whatever the store does.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use nvvmm_tests::{Faults, FaultyServer, Host, Medium, SnapshotMemory, Vm, wait_gone};
use serde_json::Value;

/// Guest memory, and how much of it the guest has filled.
const MEMORY_MIB: u64 = 96;
const FILLED_MIB: u64 = 64;
/// Longest wait for something that takes seconds at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store in a directory with the snapshot `one`, and a server for it.
struct Store {
    directory: tempfile::TempDir,
    server: FaultyServer,
    /// Digest of all memory.
    digest: String,
}

impl Store {
    /// A snapshot of a guest, which goes on writing all of its memory if it churns.
    fn new(churns: bool) -> Store {
        let directory = tempfile::tempdir().unwrap();
        let host = Host::new(320);
        let mut vm = host.boot_bare_metal(MEMORY_MIB, 2);
        vm.ask(&format!("fill {FILLED_MIB} 7"));
        let digest = vm.ask("digest all");
        if churns {
            vm.ask("churn on 7 rand check");
        }
        vm.snapshot("one");
        vm.stop();
        let url = format!("file://{}", directory.path().join("store").display());
        host.run(&["push", "one", &url]).ok();
        let server = FaultyServer::start(directory.path());
        Store {
            directory,
            server,
            digest,
        }
    }

    /// An installation that knows the server.
    fn host(&self) -> Host {
        Host::new(320).with_variables(self.server.variables())
    }

    /// The directory's URL of the snapshot.
    fn path_url(&self) -> String {
        format!("file://{}/one", self.path("store").display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The packs.
    fn packs(&self) -> Vec<PathBuf> {
        let pushes = std::fs::read_dir(self.path("store/packs")).unwrap();
        let packs = pushes.flat_map(|push| std::fs::read_dir(push.unwrap().path()).unwrap());
        packs.map(|pack| pack.unwrap().path()).collect()
    }
}

/// The snapshot's URL at the server.
const URL: &str = "s3://b/store/one";

fn slow(ms: u64) -> Faults {
    Faults {
        latency: Duration::from_millis(ms),
        ..Faults::default()
    }
}

/// True for a pool that maps all of a snapshot before a guest runs.
fn is_never_lazy() -> bool {
    let never = Medium::chosen().maps_whole_chunks();
    if never {
        println!("SKIPPED: on this medium all is pulled first");
    }
    never
}

fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < until, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn state(vm: &Vm<'_>) -> String {
    vm.status()["state"].as_str().unwrap().to_owned()
}

fn wait_for_all(vm: &Vm<'_>) {
    wait_until("all memory", || vm.status()["arriving"].is_null());
}

/// Processes that fetch from this store.
fn fetchers(store: &Store) -> Vec<i32> {
    let url = store.path_url();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    // All else that /proc has of a confined process is root's.
    let is_fetcher = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.contains("--ahead") && line.contains(&url)
    };
    pids.filter(is_fetcher).collect()
}

fn end(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait_gone(pid);
}

/// Fails the test unless the guest has the memory of the snapshot, and so has the pool.
fn assert_arrives(host: &Host, store: &Store, mut vm: Vm<'_>) {
    assert_eq!(vm.ask("digest all"), store.digest);
    assert!(vm.ask("check all").contains("check ok"));
    wait_for_all(&vm);
    vm.ask("write 0 3000");
    vm.snapshot("later");
    assert!(vm.ask("check").contains("check ok"));
    vm.stop();
    for name in ["one", "later"] {
        SnapshotMemory::read(host.pool(), name).assert_one_instant(name);
    }
    host.assert_pool_clean();
}

#[test]
fn a_guest_runs_and_writes_while_its_memory_arrives() {
    if is_never_lazy() {
        return;
    }
    let store = Store::new(true);
    store.server.set(slow(20));
    let host = store.host();
    let mut vm = host.restore(URL, &[]);
    // It compares each word that it replaces.
    std::thread::sleep(Duration::from_millis(300));
    vm.ask("churn off");
    assert!(vm.ask("check all").contains("check ok"));
    wait_for_all(&vm);
    vm.ask("churn on 7 rand check");
    vm.snapshot("later");
    vm.ask("churn off");
    assert!(vm.ask("check all").contains("check ok"));
    vm.stop();
    for name in ["one", "later"] {
        SnapshotMemory::read(host.pool(), name).assert_one_instant(name);
    }
    host.assert_pool_clean();
    // The snapshot is in the pool: nothing is fetched any more.
    let before = store.server.sent_bytes();
    let mut again = host.restore(URL, &[]);
    assert!(again.ask("check").contains("check ok"));
    assert!(again.status()["arriving"].is_null());
    again.stop();
    assert!(store.server.sent_bytes() - before < 100 << 10);
}

#[test]
fn what_a_guest_touches_comes_first_and_is_recorded() {
    if is_never_lazy() {
        return;
    }
    let store = Store::new(false);
    let host = store.host();
    let mut vm = host.restore(URL, &["--prefetch", "none"]);
    let arriving = |vm: &Vm<'_>| vm.status()["arriving"]["lacking_bytes"].as_u64().unwrap();
    let lacking = arriving(&vm);
    assert!(
        lacking > (FILLED_MIB - 8) << 20,
        "{lacking} of it are lacking"
    );
    vm.ask("touch 8 read");
    let now = arriving(&vm);
    let arrived = lacking - now;
    assert!(
        (4 << 20..=12 << 20).contains(&arrived),
        "{arrived} have arrived"
    );
    assert!(store.server.sent_bytes() > 0);
    // A snapshot needs all, and waits for it.
    vm.snapshot("later");
    assert!(vm.status()["arriving"].is_null());
    wait_until("the record", || {
        store
            .path("store/touches")
            .read_dir()
            .is_ok_and(|mut all| all.next().is_some())
    });
    assert_eq!(vm.ask("digest all"), store.digest);
    vm.stop();
    // Another host fetches what was touched, and no more.
    let other = store.host();
    let vm = other.restore(URL, &["--prefetch", "recorded"]);
    wait_until("the recorded memory", || {
        arriving(&vm) <= lacking - (4 << 20)
    });
    assert!(arriving(&vm) >= lacking - (12 << 20));
    vm.stop();
    // One that is to record anew has its own order kept.
    let record = || {
        let mut all = store.path("store/touches").read_dir().unwrap();
        std::fs::read(all.next().unwrap().unwrap().path()).unwrap()
    };
    let before = record();
    let third = store.host();
    let mut vm = third.restore(URL, &["--record"]);
    vm.ask("touch 32 read");
    wait_until("the record", || record().len() > before.len());
    vm.stop();
    other
        .run(&[
            "remote",
            "rm",
            &format!("file://{}", store.path("store").display()),
            "one",
        ])
        .ok();
    assert!(
        store
            .path("store/touches")
            .read_dir()
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn errors_resets_and_flipped_bits_on_the_way_change_nothing() {
    if is_never_lazy() {
        return;
    }
    let store = Store::new(false);
    let host = store.host();
    // The manifest is fetched before.
    store.server.set(slow(5));
    let vm = host.restore(URL, &["--prefetch", "none"]);
    store.server.set(Faults {
        errors: 5,
        resets: 5,
        flipped: 10,
        ..slow(5)
    });
    assert_arrives(&host, &store, vm);
}

#[test]
fn a_store_that_is_away_holds_the_guest_and_says_so() {
    if is_never_lazy() {
        return;
    }
    let store = Store::new(false);
    let host = store.host();
    let mut vm = host.restore(URL, &["--prefetch", "none"]);
    store.server.set(Faults {
        is_away: true,
        ..Faults::default()
    });
    let asked = Instant::now();
    writeln_to(&mut vm, "digest all");
    wait_until("fetching", || {
        ["fetching", "store-away"].contains(&&*state(&vm))
    });
    wait_until("store-away", || state(&vm) == "store-away");
    let status = vm.status();
    assert!(status["arriving"]["away"].is_string(), "{status}");
    let notice = status["notice"].as_str().unwrap();
    assert!(notice.contains("do not arrive for now"), "{notice}");
    // Nothing waits for it that need not.
    host.run(&["snapshot", &vm.name, "no"]).refused(4, "store");
    store.server.set(Faults::default());
    let answer = vm.expect("@ digest");
    assert_eq!(answer, store.digest, "after {:?}", asked.elapsed());
    assert_arrives(&host, &store, vm);
}

fn writeln_to(vm: &mut Vm<'_>, command: &str) {
    vm.console().say(command);
}

#[test]
fn a_damaged_piece_is_never_shown_and_a_repaired_one_is() {
    if is_never_lazy() {
        return;
    }
    let store = Store::new(false);
    let packs = store.packs();
    let whole: Vec<Vec<u8>> = packs
        .iter()
        .map(|pack| std::fs::read(pack).unwrap())
        .collect();
    for is_cut in [false, true] {
        let host = Host::new(320);
        let mut vm = host.restore(&store.path_url(), &["--prefetch", "none"]);
        for (pack, bytes) in packs.iter().zip(&whole) {
            let mut bytes = bytes.clone();
            match is_cut {
                true => bytes.truncate(bytes.len() / 2),
                false => bytes
                    .iter_mut()
                    .step_by(64 << 10)
                    .for_each(|byte| *byte ^= 1),
            }
            std::fs::write(pack, bytes).unwrap();
        }
        writeln_to(&mut vm, "digest all");
        wait_until("store-away", || state(&vm) == "store-away");
        let away = vm.status()["arriving"]["away"].as_str().unwrap().to_owned();
        assert!(
            away.contains("damaged") || away.contains("read packs"),
            "{away}"
        );
        for (pack, bytes) in packs.iter().zip(&whole) {
            std::fs::write(pack, bytes).unwrap();
        }
        assert_eq!(vm.expect("@ digest"), store.digest);
        assert_arrives(&host, &store, vm);
    }
}

#[test]
fn whoever_dies_in_the_middle_loses_nothing() {
    if is_never_lazy() {
        return;
    }
    let store = Store::new(false);
    // The process that fetches: another one goes on.
    let host = Host::new(320);
    let mut vm = host.restore(&store.path_url(), &["--prefetch", "none"]);
    vm.ask("touch 8 read");
    let fetching = fetchers(&store);
    assert_eq!(fetching.len(), 1);
    fetching.into_iter().for_each(end);
    writeln_to(&mut vm, "digest all");
    wait_until("store-away", || state(&vm) == "store-away");
    let away = vm.status()["arriving"]["away"].as_str().unwrap().to_owned();
    assert!(away.contains("has ended"), "{away}");
    let pulled = host.json(&["pull", &store.path_url(), "--for", &vm.name]);
    assert_eq!(pulled["received"]["resumed"], true, "{pulled}");
    assert_eq!(vm.expect("@ digest"), store.digest);
    assert_arrives(&host, &store, vm);

    // The VM: what has arrived stays, and is not fetched again.
    let host = Host::new(320);
    let mut vm = host.restore(&store.path_url(), &["--prefetch", "none"]);
    vm.ask("touch 16 read");
    let fetching = fetchers(&store);
    vm.kill();
    fetching.into_iter().for_each(wait_gone);
    let listed = host.json(&["snapshots"]);
    assert_eq!(listed[0]["incomplete"], true, "{listed}");
    let mut vm = host.restore(&store.path_url(), &[]);
    wait_for_all(&vm);
    assert_eq!(vm.ask("digest all"), store.digest);
    vm.stop();
    host.run(&["rm", "one"]).ok();
    let status = host.pool_status();
    assert_eq!(status["snapshot_bytes"], 0, "{status}");
    host.assert_pool_clean();
}

#[test]
fn a_process_that_fetches_and_stands_still_is_told_of_and_replaced() {
    if is_never_lazy() {
        return;
    }
    let store = Store::new(false);
    let signal = |pid: i32, signal| kill(Pid::from_raw(pid), signal).unwrap();
    let host = Host::new(320);
    let mut vm = host.restore(&store.path_url(), &["--prefetch", "none"]);
    let fetching = fetchers(&store)[0];
    signal(fetching, Signal::SIGSTOP);
    writeln_to(&mut vm, "touch 8 read");
    let asked = Instant::now();
    wait_until("store-away", || state(&vm) == "store-away");
    assert!(
        asked.elapsed() < Duration::from_secs(20),
        "{:?}",
        asked.elapsed()
    );
    let away = vm.status()["arriving"]["away"].as_str().unwrap().to_owned();
    assert!(away.contains("has said nothing for 10 s"), "{away}");
    host.run(&["snapshot", &vm.name, "no"])
        .refused(4, "has said nothing");
    // It goes on: so does the guest.
    signal(fetching, Signal::SIGCONT);
    vm.expect("@ touch");
    wait_until("fetching", || vm.status()["arriving"]["away"].is_null());
    // It stops for good: another one is refused as long as it is there, and takes over then.
    signal(fetching, Signal::SIGSTOP);
    let again = host.run(&["pull", &store.path_url(), "--for", &vm.name]);
    assert_eq!(again.code, 4, "{}", again.stderr);
    end(fetching);
    host.run(&["pull", &store.path_url(), "--for", &vm.name])
        .ok();
    assert_arrives(&host, &store, vm);
}

#[test]
fn two_vms_of_one_url_run_at_once() {
    if is_never_lazy() {
        return;
    }
    let store = Store::new(false);
    let url = store.path_url();
    let host = Host::new(640);
    // Memory that nobody touches does not arrive: the first one is complete after its check.
    let mut one = host.restore(&url, &["--prefetch", "none"]);
    // The incomplete file is that of the first one.
    let second = host.next_name();
    let restore = ["restore", &url, "--name", &second, "--detach"];
    let refused = host.run(&restore);
    assert_eq!(refused.code, 4, "{}", refused.stderr);
    let why = "is being received by process";
    assert!(refused.stderr.contains(why), "{}", refused.stderr);
    let mut two = host.restore(&url, &["--pulled-as", "other"]);
    for vm in [&mut one, &mut two] {
        vm.ask("churn off");
        assert!(vm.ask("check all").contains("check ok"));
    }
    [&one, &two].into_iter().for_each(wait_for_all);
    one.stop();
    two.stop();
    for name in ["one", "other"] {
        SnapshotMemory::read(host.pool(), name).assert_one_instant(name);
    }
    host.assert_pool_clean();
}

#[test]
fn a_death_at_a_fault_point_leaves_the_pool_in_order() {
    if is_never_lazy() {
        return;
    }
    let store = Store::new(false);
    for point in [
        "arriving.kept:2",
        "arriving.pinned:3",
        "pull.chunk-landed:4",
    ] {
        let host = Host::new(320).with_fault("NVVMM_FAULT", point.to_owned());
        let name = "web";
        let restored = host.run(&["restore", &store.path_url(), "--name", name, "--detach"]);
        wait_until(point, || {
            let listed = host.json(&["ps"]);
            let vm = listed
                .as_array()
                .unwrap()
                .iter()
                .find(|vm| vm["vm"] == name)
                .cloned();
            match vm {
                None => true,
                Some(vm) => vm["arriving"]["away"].is_string(),
            }
        });
        println!("{point}: {}", restored.stderr);
        let pid = host.json(&["ps"])[0]["pid"].as_i64();
        pid.into_iter().for_each(|pid| end(pid as i32));
        fetchers(&store).into_iter().for_each(wait_gone);
        host.assert_pool_clean();
        let status = host.pool_status();
        assert_eq!(status["leased_bytes"], 0, "{point}: {status}");
        assert_eq!(status["orphan_count"], 0, "{point}: {status}");
        let living = Host::run(&host, &["pull", &store.path_url(), "--name", "whole"]);
        assert!(
            living.code == 0 || living.stderr.contains("NVVMM_FAULT"),
            "{}",
            living.stderr
        );
    }
}

#[test]
fn what_cannot_be_lazy_is_said() {
    let store = Store::new(false);
    let host = Host::new(320);
    let url = store.path_url();
    host.run(&["restore", &url, "--detach"])
        .refused(2, "needs a name");
    let with = |option: &str| host.run(&["restore", &url, "--name", "web", "--detach", option]);
    with("--once").refused(2, "still to arrive");
    with("--prefault").refused(2, "still to arrive");
    host.run(&[
        "restore",
        "one",
        "--name",
        "web",
        "--detach",
        "--prefetch",
        "all",
    ])
    .refused(2, "for a snapshot of a store");
    host.run(&["restore", &format!("{url}x"), "--name", "web", "--detach"])
        .refused(3, "no snapshot");
    assert_eq!(host.json(&["ps"]), Value::Array(vec![]));
    // A snapshot with a disk of the pool is pulled as a whole.
    let disks = Host::new(320);
    disks.run(&["disk", "create", "data", "--size", "8M"]).ok();
    let kernel = nvvmm_tests::required("NVVMM_BAREMETAL_GUEST");
    let kernel = kernel.to_str().unwrap().to_owned();
    let mut vm = disks.boot(&["--kernel", &kernel, "--disk", "data"], 32, 1);
    vm.ask("fill 8 1");
    let digest = vm.ask("digest all");
    vm.snapshot("disked");
    vm.stop();
    let url = format!("file://{}", store.path("store").display());
    disks.run(&["push", "disked", &url]).ok();
    let told = host.run(&[
        "restore",
        &format!("{url}/disked"),
        "--name",
        "web",
        "--detach",
    ]);
    assert!(
        told.stderr.contains("is pulled before it runs"),
        "{}",
        told.stderr
    );
    told.ok();
    let mut vm = Vm::attach(&host, "web".to_owned());
    assert_eq!(vm.ask("digest all"), digest);
    vm.stop();
}
