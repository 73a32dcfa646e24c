//! kill -9 at every fault point in the code. Afterwards the pool is in order, and every snapshot is
//! complete or absent.

use std::{
    collections::{BTreeSet, HashMap},
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::net::UnixStream,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use nvvmm_snapshot::FaultPoint;
use nvvmm_tests::{
    Engine, Host, Medium, Outcome, Random, SnapshotMemory, repetitions, required, wait_gone,
};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// Steps that are done in order until the process at the fault point is dead.
#[derive(Debug, Clone, Copy)]
enum Act {
    Restore {
        snapshot: &'static str,
        vm: &'static str,
    },
    RestoreOnce {
        snapshot: &'static str,
        vm: &'static str,
    },
    Write {
        vm: &'static str,
    },
    /// Touches a chunk that is in no snapshot.
    TouchFresh {
        vm: &'static str,
    },
    Snapshot {
        vm: &'static str,
        name: &'static str,
    },
    Remove {
        name: &'static str,
    },
    Stop {
        vm: &'static str,
    },
    /// Puts a snapshot into the scene's object store.
    Push {
        name: &'static str,
    },
    /// Makes another snapshot of one in the store.
    Pull {
        name: &'static str,
        new: &'static str,
    },
    Grow,
    /// Opens the pool after a death. VMs that do not come to a fault point are killed first.
    OpenAfterADeath,
}

/// Steps that together come to every fault point on a medium. The snapshots `base` and `kept` are
/// there before.
const ACTS: &[Act] = &[
    Act::Restore {
        snapshot: "kept",
        vm: "v",
    },
    Act::Write { vm: "v" },
    Act::TouchFresh { vm: "v" },
    Act::Snapshot {
        vm: "v",
        name: "fresh",
    },
    Act::Write { vm: "v" },
    Act::Snapshot {
        vm: "v",
        name: "later",
    },
    Act::Remove { name: "kept" },
    Act::Restore {
        snapshot: "later",
        vm: "w",
    },
    Act::Remove { name: "later" },
    Act::Stop { vm: "w" },
    Act::Stop { vm: "v" },
    Act::Push { name: "base" },
    Act::Pull {
        name: "base",
        new: "pulled",
    },
    Act::RestoreOnce {
        snapshot: "base",
        vm: "o",
    },
    Act::Write { vm: "o" },
    Act::Grow,
    Act::Stop { vm: "o" },
    Act::OpenAfterADeath,
];

/// Fixture of one fault point.
struct Scene {
    host: Host,
    /// The directory of an object store.
    store: tempfile::TempDir,
    point: FaultPoint,
    /// Output of the commands that are to die.
    told: String,
    /// Names of snapshots that must be there.
    committed: BTreeSet<&'static str>,
    /// A snapshot that may be there: the process died while it made or removed it.
    uncertain: Option<&'static str>,
    /// Connections to consoles. A console answers a question once.
    consoles: HashMap<&'static str, BufReader<UnixStream>>,
}

impl Scene {
    fn new(point: FaultPoint) -> Scene {
        let host = Host::new(160);
        let mut vm = host.boot_bare_metal(32, 1);
        vm.ask("fill 12 1");
        vm.snapshot("base");
        // Every other frame, so that the chunk is in more pieces than it can be mapped in.
        vm.ask("write 0 1500 2");
        vm.snapshot("kept");
        vm.stop();
        Scene {
            host,
            store: tempfile::tempdir().expect("a directory"),
            point,
            told: String::new(),
            committed: ["base", "kept"].into(),
            uncertain: None,
            consoles: HashMap::new(),
        }
    }

    /// The same command, run by the program with fault points.
    fn doomed(&self, arguments: &[&str]) -> Command {
        let usual = self.host.command(arguments);
        let mut doomed = Command::new(required("NVVMM_DEV_BIN"));
        doomed.args(usual.get_args());
        for (variable, value) in usual.get_envs() {
            if let Some(value) = value {
                doomed.env(variable, value);
            }
        }
        doomed.stdin(std::process::Stdio::null());
        doomed.env("NVVMM_FAULT", self.point.name());
        doomed
    }

    fn run(&mut self, arguments: &[&str]) {
        let outcome = Outcome::of(self.doomed(arguments));
        self.told += &outcome.stderr;
        assert!(
            outcome.code == 0 || self.somebody_died(),
            "{}: nvvmm {}: {}",
            self.point.name(),
            arguments.join(" "),
            outcome.stderr
        );
    }

    /// True if a process was killed at the fault point.
    fn somebody_died(&self) -> bool {
        let line = format!("NVVMM_FAULT: killed at {}\n", self.point.name());
        self.told.contains(&line) || self.host.is_logged(&line)
    }

    fn perform(&mut self, act: Act) {
        match act {
            Act::Restore { snapshot, vm } => {
                self.run(&["restore", snapshot, "--name", vm, "--detach"])
            }
            Act::RestoreOnce { snapshot, vm } => {
                self.uncertain = Some(snapshot);
                self.committed.remove(snapshot);
                self.run(&["restore", snapshot, "--name", vm, "--detach", "--once"]);
            }
            Act::Write { vm } => self.ask(vm, "write 0 1500"),
            Act::TouchFresh { vm } => self.ask(vm, "touch 16"),
            Act::Snapshot { vm, name } => {
                self.uncertain = Some(name);
                self.run(&["snapshot", vm, name]);
                if !self.somebody_died() {
                    self.committed.insert(name);
                }
            }
            Act::Remove { name } => {
                self.uncertain = Some(name);
                self.committed.remove(name);
                self.run(&["rm", name]);
            }
            Act::Stop { vm } => {
                let pid = self.host.json(&["ps"]);
                let pid = pid
                    .as_array()
                    .and_then(|vms| vms.iter().find(|of| of["vm"] == vm));
                let pid = pid.and_then(|vm| vm["pid"].as_i64()).expect("the VM runs");
                self.run(&["stop", vm]);
                wait_gone(pid as i32);
            }
            Act::Push { name } => {
                let url = self.url();
                self.run(&["push", name, &url]);
                if self.somebody_died() {
                    self.assert_store_in_order(name);
                }
            }
            Act::Pull { name, new } => {
                let from = format!("{}/{name}", self.url());
                self.run(&["pull", &from, "--name", new]);
                // An interrupted one goes on.
                if self.somebody_died() {
                    self.host.run(&["pull", &from, "--name", new]).ok();
                }
                self.committed.insert(new);
            }
            // A pool on a device cannot grow.
            Act::Grow if self.host.medium().is_device() => {}
            Act::Grow => self.run(&["pool", "grow", "--size", "+8M"]),
            Act::OpenAfterADeath => {
                let mut vm = self.host.restore("fresh", &[]);
                vm.ask("write 0 500");
                vm.snapshot("consumed");
                vm.kill();
                // With either engine, this snapshot has blocks of its own.
                self.host.restore("consumed", &["--once"]).kill();
                self.run(&["pool", "status"]);
            }
        }
        if !self.somebody_died() {
            self.uncertain = None;
        }
    }

    fn url(&self) -> String {
        format!("file://{}", self.store.path().display())
    }

    /// After a push that died: what is seen of it is whole, and the next one goes on.
    fn assert_store_in_order(&self, name: &str) {
        let (host, url) = (&self.host, self.url());
        let is_clean = || host.json(&["remote", "verify", &url])["clean"] == true;
        assert!(is_clean(), "{}", self.point.name());
        host.run(&["push", name, &url]).ok();
        let dead = host.json(&["remote", "gc", &url]);
        for push in dead["pushes"].as_array().expect("a list") {
            let id = push["push"].as_str().expect("an identity");
            host.run(&["remote", "gc", &url, "--end-push", id]).ok();
        }
        assert!(is_clean(), "{}", self.point.name());
    }

    /// Has the guest carry out a command, until it is done or its VM has died.
    fn ask(&mut self, vm: &'static str, command: &str) {
        let died = |scene: &Scene| assert!(scene.somebody_died(), "{vm} ended by itself");
        if !self.consoles.contains_key(vm) {
            let path = self.host.runtime().join(format!("{vm}.console"));
            let Ok(console) = UnixStream::connect(&path) else {
                return died(self);
            };
            let patience = Some(PATIENCE);
            console
                .set_read_timeout(patience)
                .expect("a socket takes a timeout");
            self.consoles.insert(vm, BufReader::new(console));
        }
        let console = self.consoles.get_mut(vm).expect("connected above");
        if console
            .get_mut()
            .write_all(format!("{command}\n").as_bytes())
            .is_err()
        {
            return died(self);
        }
        let answer = format!("@ {}", command.split(' ').next().unwrap_or_default());
        let mut line = String::new();
        while !line.contains(&answer) {
            line.clear();
            match console.read_line(&mut line) {
                Ok(0) => return died(self),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return died(self),
                Err(error) => panic!("{}: {vm} does not answer: {error}", self.point.name()),
            }
        }
    }

    /// Kills the VMs that still run, so that no destructor does the work.
    fn kill_the_rest(&self) {
        let vms = self.host.json(&["ps"]);
        for vm in vms.as_array().into_iter().flatten() {
            let pid = vm["pid"].as_i64().expect("a pid");
            let _ = nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid as i32),
                nix::sys::signal::Signal::SIGKILL,
            );
            wait_gone(pid as i32);
        }
    }

    fn assert_in_order(&self) {
        let (host, point) = (&self.host, self.point.name());
        host.assert_pool_clean();
        let status = host.pool_status();
        assert_eq!(status["leased_bytes"], 0, "{point}: {status}");
        assert_eq!(status["orphan_count"], 0, "{point}: {status}");
        let listed = host.json(&["snapshots"]);
        let found: BTreeSet<&str> = listed
            .as_array()
            .expect("a list")
            .iter()
            .map(|snapshot| snapshot["snapshot"].as_str().expect("a name"))
            .collect();
        let mut possible = self.committed.clone();
        possible.extend(self.uncertain);
        assert!(
            found.is_superset(&self.committed) && found.is_subset(&possible),
            "{point}: {found:?} instead of {:?}, perhaps {:?}",
            self.committed,
            self.uncertain
        );
        for name in &found {
            SnapshotMemory::read(host.pool(), name).assert_one_instant(&format!("{point}: {name}"));
        }
        if let Some(name) = self
            .uncertain
            .filter(|name| found.contains(name))
            .or(found.first().copied())
        {
            let mut vm = host.restore(name, &[]);
            let answer = vm.ask("check");
            assert!(answer.contains("check ok"), "{point}: {name}: {answer}");
            vm.stop();
        }
        for name in &found {
            host.run(&["rm", name]).ok();
        }
        host.assert_pool_clean();
        let status = host.pool_status();
        assert_eq!(status["snapshot_bytes"], 0, "{point}: {status}");
        assert_eq!(status["leased_bytes"], 0, "{point}: {status}");
    }
}

/// True if the steps come to that fault point with this engine and medium.
fn is_on_the_way(point: FaultPoint, engine: Engine, medium: &Medium) -> bool {
    match point {
        FaultPoint::RedirectOriginMapped => {
            engine == Engine::Redirect && medium.maps_whole_chunks()
        }
        FaultPoint::RedirectChunkMapped
        | FaultPoint::RedirectTaken
        | FaultPoint::RedirectCopied
        | FaultPoint::RedirectMapped => engine == Engine::Redirect,
        FaultPoint::GrowLengthened | FaultPoint::GrowSwitched => !medium.is_device(),
        // On a device the engine copies blocks in, for chunks that have none.
        FaultPoint::PrivateChunkMapped
        | FaultPoint::PrivateChunkFilled
        | FaultPoint::PrivateTaken
        | FaultPoint::PrivateCopied
        | FaultPoint::PrivateAheadCopied
        | FaultPoint::PrivateRestCopied => engine == Engine::Private,
        _ => true,
    }
}

/// Runs the steps until a process dies at the fault point, and checks the pool. It checks also that
/// exactly the expected points are reached.
fn die_at(point: FaultPoint) {
    let mut scene = Scene::new(point);
    for act in ACTS {
        scene.perform(*act);
        if scene.somebody_died() {
            break;
        }
    }
    let expected = is_on_the_way(point, scene.host.engine(), scene.host.medium());
    assert_eq!(
        scene.somebody_died(),
        expected,
        "somebody came to {}",
        point.name()
    );
    scene.kill_the_rest();
    scene.assert_in_order();
}

/// All fault points, or an equal part of them in a shorter run.
fn chosen_points() -> Vec<FaultPoint> {
    // Those of migrations need two hosts (`migrate`), those of arrivals a store (`lazy`).
    let elsewhere = ["migration.", "arriving."];
    let is_of_one_host = |point: &&FaultPoint| {
        !{ elsewhere.iter() }.any(|beginning| point.name().starts_with(beginning))
    };
    let all: Vec<FaultPoint> = FaultPoint::ALL
        .iter()
        .filter(is_of_one_host)
        .copied()
        .collect();
    let step = all.len() / repetitions(all.len() as u32) as usize;
    let first = Random::seeded("fault points").below(step as u64) as usize;
    all.iter().skip(first).step_by(step).copied().collect()
}

#[test]
fn a_process_that_is_killed_at_any_fault_point_leaves_the_pool_in_order() {
    let next = AtomicUsize::new(0);
    let points = chosen_points();
    let die_in_turn = || {
        while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
            die_at(*point);
        }
    };
    let at_once = if Medium::chosen().is_device() { 1 } else { 3 };
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(die_in_turn);
        }
    });
}

#[test]
fn a_release_build_has_no_fault_points_and_no_switches_for_tests() {
    let read = |variable| std::fs::read(required(variable)).expect("the program can be read");
    let (dev, release) = (read("NVVMM_DEV_BIN"), read("NVVMM_RELEASE_BIN"));
    let names = |program: &[u8], word: &[u8]| program.windows(word.len()).any(|at| at == word);
    for word in [
        "NVVMM_FAULT",
        "NVVMM_TEST_WITHOUT",
        "NVVMM_TEST_DIRTY_LOG",
        "NVVMM_TEST_INSIDE",
        "NVVMM_TEST_LACK",
        "NVVMM_TEST_TRY",
    ] {
        assert!(names(&dev, word.as_bytes()), "{word}");
        assert!(!names(&release, word.as_bytes()), "{word}");
    }
}
