//! Commands for running VMs.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nvvmm::control::{NameChoice, RuntimeDir};

use crate::played_vm::PlayedVm;
use crate::world::{HUNG, World};

const HELPER_DIR: &str = "NVVMM_TEST_HELPER_DIR";

#[test]
fn a_taken_vm_name_ends_with_4() {
    let world = World::new();
    let _vm = PlayedVm::play(&world, "web");
    let pool = world.path("a.pool");
    fs::write(&pool, "").unwrap();
    // The magic number of a bzImage.
    let kernel = world.path("bzImage");
    fs::write(&kernel, [&[0; 0x202][..], b"HdrS", &[0; 0x800]].concat()).unwrap();
    for background in [false, true] {
        let mut arguments = vec![
            "run",
            "--kernel",
            kernel.to_str().unwrap(),
            "--name",
            "web",
            "--pool",
        ];
        arguments.push(pool.to_str().unwrap());
        if background {
            arguments.push("--detach");
        }
        let finished = world.nvvmm(&arguments);
        let owner = format!("the name 'web' is taken by process {}", std::process::id());
        finished.refused_with_remedy(4, &owner, "nvvmm stop web");
    }
}

#[test]
fn ps_lists_vms() {
    let world = World::new();
    let none = world.nvvmm(&["ps"]);
    assert_eq!((none.code, none.stdout.as_str()), (0, ""));
    assert_eq!(none.stderr, "no VM is running\n");
    assert_eq!(world.nvvmm(&["ps", "--json"]).json(), serde_json::json!([]));
    let _web = PlayedVm::play(&world, "web");
    let _db = PlayedVm::play(&world, "db");
    let listed = world.nvvmm(&["ps", "--json"]).json();
    assert_eq!(
        (listed[0]["vm"].as_str(), listed[1]["vm"].as_str()),
        (Some("db"), Some("web"))
    );
    assert_eq!(listed[0]["pid"], std::process::id());
    let text = world.nvvmm(&["ps"]);
    let lines: Vec<&str> = text.done().lines().collect();
    assert!(
        lines[0].starts_with("NAME") && lines[2].starts_with("web"),
        "{lines:?}"
    );
    assert!(
        lines[2].contains("running")
            && lines[2].contains("512.0 MiB")
            && lines[2].contains("1m 1s")
    );
    assert!(
        !text.stdout.contains('\x1b'),
        "no colours when stdout is no terminal"
    );
}

#[test]
fn a_terminal_obeys_nothing_that_a_vm_or_its_guest_says() {
    let world = World::new();
    let _vm = PlayedVm::play(&world, "evil");
    for arguments in [&["ps"][..], &["ps", "--json"], &["snapshot", "evil", "s"]] {
        let finished = world.nvvmm(arguments);
        let said = finished.stdout + &finished.stderr;
        let obeyed = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!said.contains(obeyed), "{arguments:?}: {said:?}");
        assert!(!said.lines().any(|line| line == "nvvmm: all is well"));
        assert!(said.contains("2J"), "{arguments:?}: {said}");
    }
    let listed = world.nvvmm(&["ps", "--json"]).json();
    let notice = listed[0]["notice"].as_str().unwrap();
    assert!(
        notice.starts_with("said \u{1b}[2J\u{9b}2J\u{202e}\n"),
        "{notice:?}"
    );
}

#[test]
fn a_vm_without_a_socket_yet_is_listed_as_starting() {
    let world = World::new();
    let _claim = world
        .registry()
        .claim(&NameChoice::MadeUp, Path::new("/pool"))
        .unwrap();
    let listed = world.nvvmm(&["ps", "--json"]).json();
    assert_eq!(
        (listed[0]["vm"].as_str(), listed[0]["state"].as_str()),
        (Some("vm-1"), Some("starting"))
    );
    world
        .nvvmm(&["pause", "vm-1"])
        .refused(4, "does not answer");
}

#[test]
fn requests_reach_the_vm_and_its_errors_come_back() {
    let world = World::new();
    let vm = PlayedVm::play(&world, "web");
    assert_eq!(world.nvvmm(&["pause", "web"]).done(), "");
    let full = world.nvvmm(&["resume", "web"]);
    full.refused(5, "nvvmm: the pool is full\n  try: remove a snapshot\n");
    let report = world.nvvmm(&["snapshot", "web", "base", "--json"]).json();
    assert_eq!(
        (report["snapshot"].as_str(), report["copied_bytes"].as_u64()),
        (Some("base"), Some(0))
    );
    let text = world.nvvmm(&["snapshot", "web", "two"]);
    assert!(
        text.done()
            .starts_with("snapshot two of web: paused for 812 µs"),
        "{}",
        text.stdout
    );
    world
        .nvvmm(&["snapshot", "web", "taken"])
        .refused(4, "is taken");
    assert_eq!(
        vm.asked(),
        [
            "pause",
            "snapshot base false",
            "snapshot two false",
            "snapshot taken false"
        ]
    );
}

#[test]
fn a_ring_is_begun_shown_ended_and_gone_back_in() {
    let world = World::new();
    let vm = PlayedVm::play(&world, "web");
    let begun = world.nvvmm(&["checkpoint", "web", "--every", "10ms", "--keep", "3"]);
    assert!(
        begun
            .done()
            .starts_with("web is checkpointed every 10ms, the newest 3 are kept\n")
    );
    let limit = world
        .nvvmm(&["checkpoint", "web", "--every", "0", "--json"])
        .json();
    assert_eq!(
        (limit["every_us"].as_u64(), limit["keep_count"].as_u64()),
        (Some(0), Some(8))
    );
    let ended = world.nvvmm(&["checkpoint", "web", "--stop"]);
    let said = "the ring of web has ended; 4 taken (1 missed), 3 kept, the newest is web@4; \
                paused for 812 µs";
    assert!(ended.done().starts_with(said), "{}", ended.stdout);
    let back = world.nvvmm(&["rewind", "web", "-n", "3"]);
    assert_eq!(
        back.done(),
        "web is at web@7 again: stopped for 39.50 ms, 41.00 ms in all\n"
    );
    let named = world
        .nvvmm(&["rewind", "web", "--to", "base", "--json"])
        .json();
    assert_eq!(named["snapshot"], "base");
    world
        .nvvmm(&["rewind", "web", "-n", "9"])
        .refused(3, "there are 3 checkpoints");
    for senseless in [
        &["checkpoint", "web", "--every", "soon"][..],
        &["checkpoint", "web", "--keep", "0"],
        &["checkpoint", "web", "--stop", "--keep", "2"],
        &["rewind", "web", "-n", "0"],
        &["rewind", "web", "-n", "2", "--to", "base"],
        &["snapshot", "web", "web@5"],
    ] {
        world.nvvmm(senseless).refused(2, "");
    }
    assert_eq!(vm.asked(), ["ring 10000 3", "ring 0 8", "ring stop"]);
}

#[test]
fn stop_returns_when_the_vm_is_gone() {
    let world = World::new();
    let vm = PlayedVm::play(&world, "web");
    world.nvvmm(&["stop", "web"]).done();
    assert_eq!(vm.asked(), ["stop"]);
    drop(vm);
    assert!(world.registry().entries().unwrap().is_empty());
    let vm = PlayedVm::play(&world, "web");
    world.nvvmm(&["snapshot", "web", "last", "--stop"]).done();
    assert_eq!(vm.asked(), ["snapshot last true"]);
    drop(vm);
    assert!(world.registry().entries().unwrap().is_empty());
}

#[test]
#[ignore = "the VM process that stop_force_kills kills"]
fn a_vm_process_that_does_not_answer() {
    let Some(dir) = std::env::var_os(HELPER_DIR) else {
        return;
    };
    let dir = RuntimeDir::at(Path::new(&dir)).unwrap();
    let claim = dir
        .claim(&NameChoice::Given("deaf".into()), Path::new("/pool"))
        .unwrap();
    let _listener = UnixListener::bind(&claim.paths().control).unwrap();
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// A process that is the VM `deaf`, which never answers.
pub fn deaf_vm(world: &World) -> Child {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "vms::a_vm_process_that_does_not_answer",
        ])
        .env(HELPER_DIR, world.path("run"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while UnixStream::connect(&world.registry().paths("deaf").control).is_err() {
        assert!(
            begun.elapsed() < HUNG,
            "the VM process never claimed its name"
        );
        thread::sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn stop_force_kills_a_vm_that_does_not_answer() {
    let world = World::new();
    let mut child = deaf_vm(&world);
    let listed = world.nvvmm(&["ps", "--json"]).json();
    assert_eq!(
        (listed[0]["state"].as_str(), listed[0]["pid"].as_u64()),
        (Some("silent"), Some(child.id().into()))
    );
    world.nvvmm(&["stop", "deaf", "--force"]).done();
    assert!(!child.wait().unwrap().success());
    assert_eq!(world.nvvmm(&["ps"]).stderr, "no VM is running\n");
    world.nvvmm(&["stop", "deaf"]).refused(3, "deaf");
}

#[test]
fn console_carries_bytes_both_ways_and_ends_with_the_vm() {
    let world = World::new();
    let claim = world
        .registry()
        .claim(&NameChoice::Given("web".into()), Path::new("/pool"))
        .unwrap();
    world
        .nvvmm(&["console", "web"])
        .refused(4, "console socket");
    let listener = UnixListener::bind(&claim.paths().console).unwrap();
    let guest = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        socket.set_read_timeout(Some(HUNG)).unwrap();
        socket.write_all(b"login: ").unwrap();
        let mut typed = Vec::new();
        socket.read_to_end(&mut typed).unwrap();
        socket.write_all(b"bye\r\n").unwrap();
        typed
    });
    let mut command = world.command(&["console", "web"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // Ctrl-] is a byte like any other when stdin is no terminal.
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"root\n\x1dx")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(guest.join().unwrap(), b"root\n\x1dx");
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(0), &b"login: bye\r\n"[..])
    );
}

#[test]
fn stats_are_shown_as_a_table_and_as_json() {
    let world = World::new();
    let _vm = PlayedVm::play(&world, "web");
    let json = world.nvvmm(&["stats", "web", "--json"]).json();
    assert_eq!(
        (
            json["vm"].as_str(),
            json["ram"]["write_fault_count"].as_u64()
        ),
        (Some("web"), Some(41))
    );
    let text = world.nvvmm(&["stats", "web"]);
    let faults = text
        .done()
        .lines()
        .find(|line| line.starts_with("write faults"));
    assert!(
        faults.is_some_and(|line| line.contains(" 41 ")),
        "{}",
        text.stdout
    );
    world
        .nvvmm(&["stats", "ghost"])
        .refused(3, "no VM 'ghost' is running");
}

#[test]
fn metrics_are_served_until_a_signal_comes() {
    let world = World::new();
    let vm = PlayedVm::play(&world, "web");
    let path = world.path("metrics");
    let address = format!("unix:{}", path.display());
    let mut exporter = world
        .command(&["stats", "web", "--prometheus", &address])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut place = String::new();
    BufReader::new(exporter.stdout.take().unwrap())
        .read_line(&mut place)
        .unwrap();
    assert_eq!(place, format!("metrics of web: {address}, path /metrics\n"));
    let scraped = || {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = scraped();
    assert!(answer.contains("\nnvvmm_up{vm=\"web\"} 1\n"), "{answer}");
    assert!(
        answer.contains("\nnvvmm_write_faults_total{vm=\"web\"} 41\n"),
        "{answer}"
    );
    let taken = world.nvvmm(&["stats", "web", "--prometheus", &address]);
    taken.refused_with_remedy(4, "something else is at that address", "choose another");
    drop(vm);
    let answer = scraped();
    assert!(answer.contains("\nnvvmm_up{vm=\"web\"} 0\n"), "{answer}");
    assert!(!answer.contains("write_faults"), "{answer}");
    let pid = nix::unistd::Pid::from_raw(exporter.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(exporter.wait().unwrap().success());
    assert!(!path.exists());
}

#[test]
fn metrics_are_not_served_to_other_hosts() {
    let world = World::new();
    let outside = world.nvvmm(&["stats", "web", "--prometheus", "0.0.0.0:9180"]);
    outside.refused(2, "can be reached from outside of this host");
    let none = world.nvvmm(&["stats", "ghost", "--prometheus", "127.0.0.1:0"]);
    none.refused(3, "no VM 'ghost' is running");
}
