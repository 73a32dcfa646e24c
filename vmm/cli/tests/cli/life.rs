//! VMs that have ended, and VMs that nobody reaches.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nvvmm::control::life::{End, LifeStart};
use nvvmm::control::past::KeptLife;
use nvvmm::control::unlisted::process_name;
use nvvmm::control::{Claim, NameChoice, RuntimeDir};

use crate::world::{HUNG, World};

const DIR: &str = "NVVMM_TEST_LIFE_DIR";
const NAME: &str = "NVVMM_TEST_LIFE_NAME";

fn begin(dir: &RuntimeDir, name: &str, arguments: &[&str]) -> (Claim, KeptLife) {
    let choice = NameChoice::Given(name.into());
    let claim = dir.claim(&choice, Path::new("/pool")).unwrap();
    let start = LifeStart {
        directory: Some("/".into()),
        background: true,
        ..LifeStart::now(
            name,
            Some(arguments.iter().map(|&one| one.into()).collect()),
        )
    };
    let kept = claim.begin_life(&start).unwrap();
    kept.record.running();
    fs::write(&claim.paths().log, "it runs\n").unwrap();
    (claim, kept)
}

/// A VM that lived in this process and has ended.
fn ended(world: &World, name: &str, end: End, text: Option<&str>) {
    let (claim, kept) = begin(&world.registry(), name, &["run", "--kernel", "/no/kernel"]);
    kept.record.ended(end, text);
    drop(claim);
}

#[test]
#[ignore = "the VM process of the tests here"]
fn a_vm_process_with_a_record() {
    let (Some(dir), Ok(name)) = (std::env::var_os(DIR), std::env::var(NAME)) else {
        return;
    };
    fs::write("/proc/self/comm", process_name(&name)).unwrap();
    let dir = RuntimeDir::at(Path::new(&dir)).unwrap();
    let (claim, _kept) = begin(&dir, &name, &["run", "--kernel", "/k"]);
    let _listener = UnixListener::bind(&claim.paths().control).unwrap();
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// A process that is the VM `name`, and does not answer.
fn vm_process(world: &World, name: &str) -> Child {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "life::a_vm_process_with_a_record"])
        .env(DIR, world.path("run"))
        .env(NAME, name)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while UnixStream::connect(&world.registry().paths(name).control).is_err() {
        assert!(begun.elapsed() < HUNG, "it never claimed its name");
        thread::sleep(Duration::from_millis(5));
    }
    child
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn ps_all_lists_vms_that_have_ended_and_why() {
    let world = World::new();
    ended(&world, "web", End::PoweredOff, None);
    ended(&world, "db", End::Failed, Some("no memory \u{1b}[2J"));
    kill(vm_process(&world, "old"));
    let none = world.nvvmm(&["ps"]);
    assert_eq!(none.stdout, "");
    assert_eq!(
        none.stderr,
        "no VM is running; 3 have ended ('nvvmm ps --all')\n"
    );
    let runs = vm_process(&world, "now");

    let listed = world.nvvmm(&["ps", "--all", "--json"]).json();
    let of = |name: &str| {
        let all = listed.as_array().unwrap();
        let is_it = |vm: &&serde_json::Value| vm["vm"] == name;
        all.iter().find(is_it).unwrap().clone()
    };
    assert_eq!(of("web")["end"]["reason"], "powered-off");
    assert_eq!(
        (&of("db")["end"]["reason"], &of("old")["end"]["reason"]),
        (&"failed".into(), &"killed".into())
    );
    assert_eq!(of("web")["end"]["arguments"][0], "run");
    assert_eq!(of("now")["state"], "silent");
    assert_eq!(
        world
            .nvvmm(&["ps", "--json"])
            .json()
            .as_array()
            .unwrap()
            .len(),
        1
    );

    let table = world.nvvmm(&["ps", "-a"]).stdout;
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap();
    assert!(
        line("web").contains("ended") && line("web").ends_with("the guest switched itself off")
    );
    assert!(
        line("db").ends_with("failed: no memory \\x1b[2J"),
        "{table}"
    );
    assert!(line("old").ends_with("the VM process was killed"));
    kill(runs);
}

#[test]
fn a_vm_that_has_ended_is_named_by_commands_and_goes_when_told() {
    let world = World::new();
    for name in ["web", "db", "old"] {
        ended(&world, name, End::Stopped, None);
    }
    for command in [&["pause", "web"][..], &["stop", "web"], &["console", "web"]] {
        let told = "no VM 'web' is running: it has ended";
        world
            .nvvmm(command)
            .refused_with_remedy(3, told, "nvvmm start web");
    }
    assert_eq!(world.nvvmm(&["logs", "web"]).done(), "it runs\n");
    assert_eq!(world.nvvmm(&["logs", "-f", "web"]).done(), "it runs\n");
    assert_eq!(world.nvvmm(&["logs", "--console", "web"]).done(), "");
    world
        .nvvmm(&["rm-vm", "web", "ghost", "db"])
        .refused(3, "no VM 'ghost'");
    world
        .nvvmm(&["logs", "web"])
        .refused(3, "no VM 'web', and no record");
    world
        .nvvmm(&["start", "db"])
        .refused(3, "no VM 'db', and no record");
    world.nvvmm(&["rm-vm", "--all"]).done();
    assert_eq!(
        fs::read_dir(world.path("run")).unwrap().count(),
        1,
        "the lock"
    );
    world.nvvmm(&["rm-vm"]).refused(2, "");
    let runs = vm_process(&world, "web");
    world
        .nvvmm(&["rm-vm", "web"])
        .refused_with_remedy(4, "VM 'web' runs", "nvvmm stop web");
    world.nvvmm(&["start", "web"]).refused(4, "VM 'web' runs");
    kill(runs);
}

#[test]
fn wait_tells_how_vms_ended() {
    let world = World::new();
    ended(&world, "web", End::PoweredOff, None);
    ended(&world, "bad", End::TripleFault, Some("vCPU 0"));
    let good = world.nvvmm(&["wait", "web"]);
    assert_eq!(good.done(), "web: the guest switched itself off\n");
    let bad = world.nvvmm(&["wait", "web", "bad"]);
    assert_eq!(
        (bad.code, bad.stdout.lines().count()),
        (1, 2),
        "{}",
        bad.stderr
    );
    world
        .nvvmm(&["wait", "web", "ghost"])
        .refused(3, "no VM 'ghost'");
    let runs = vm_process(&world, "now");
    let late = world.nvvmm(&["wait", "now", "--timeout", "10ms"]);
    late.refused_with_remedy(4, "now still runs after", "nvvmm stop");
    for pattern in ["n?w", "--all"] {
        let late = world.nvvmm(&["wait", pattern, "--timeout", "0"]);
        late.refused(4, "now still runs");
    }
    world
        .nvvmm(&["wait", "web*"])
        .refused(3, "no VM matches 'web*'");
    let waiting = world
        .command(&["wait", "now", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    kill(runs);
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&told[0]["vm"], &told[0]["end"]["reason"]),
        (&"now".into(), &"killed".into())
    );
}

#[test]
fn a_vm_that_cannot_be_started_again_keeps_its_record() {
    let world = World::new();
    ended(&world, "web", End::Stopped, None);
    world.nvvmm(&["start", "web"]).refused(3, "/no/kernel");
    let listed = world.nvvmm(&["ps", "--all", "--json"]).json();
    assert_eq!(listed[0]["end"]["reason"], "stopped");
    assert_eq!(world.nvvmm(&["logs", "web"]).done(), "it runs\n");
}

#[test]
fn a_vm_whose_files_were_removed_is_shown_as_that_and_can_be_stopped() {
    let world = World::new();
    let mut removed = vm_process(&world, "web");
    let other = vm_process(&world, "db");
    for entry in fs::read_dir(world.path("run")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    let listed = world.nvvmm(&["ps", "--json"]).json();
    let web = &listed[1];
    assert_eq!(
        (&web["vm"], &web["state"]),
        (&"web".into(), &"unreachable".into())
    );
    assert_eq!(web["pid"], removed.id());
    let notice = web["notice"].as_str().unwrap();
    assert!(
        notice.contains("were removed under it: 'nvvmm stop web'"),
        "{notice}"
    );
    world.nvvmm(&["pause", "web"]).refused(4, "does not answer");
    let late = world.nvvmm(&["wait", "web", "--timeout", "0"]);
    late.refused(4, "web still runs");
    let taken = world
        .registry()
        .claim(&NameChoice::Given("web".into()), Path::new("/pool"));
    assert!(
        taken
            .unwrap_err()
            .message
            .contains("its files were removed")
    );
    world.nvvmm(&["stop", "web"]).done();
    assert!(!removed.wait().unwrap().success());
    world.nvvmm(&["stop", "db", "--force"]).done();
    kill(other);
    assert_eq!(world.nvvmm(&["ps"]).stderr, "no VM is running\n");
}
