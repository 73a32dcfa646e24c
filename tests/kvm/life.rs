//! Records of VMs that have ended, and reboots of guests.

use std::{
    fs,
    time::{Duration, Instant},
};

use nvvmm_tests::{Host, Vm, required};
use serde_json::Value;

use crate::guest_log::flat_guest;

const PATIENCE: Duration = Duration::from_secs(120);

/// Writes the reset pulse to the keyboard controller: mov dx, 0x64; mov al, 0xfe; out dx, al; then
/// waits for it: jmp here.
const RESET: [u8; 9] = [0x66, 0xba, 0x64, 0x00, 0xb0, 0xfe, 0xee, 0xeb, 0xfe];

/// The entry of a VM that has ended in `nvvmm ps --all`.
fn past(host: &Host, name: &str) -> Option<Value> {
    let listed = host.json(&["ps", "--all"]);
    let is_it = |vm: &&Value| vm["vm"] == name && vm["state"] == "ended";
    listed.as_array().unwrap().iter().find(is_it).cloned()
}

fn until<T>(what: &str, look: impl Fn() -> Option<T>) -> T {
    let late = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < late, "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn process_name(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
    name.trim_end().to_owned()
}

#[test]
fn a_vm_that_ended_tells_how_and_is_started_again() {
    let host = Host::new(96);
    let mut vm = host.boot_bare_metal(16, 1);
    let name = vm.name.clone();
    assert_eq!(process_name(vm.pid), format!("nvvmm:{name}"));
    vm.ask("stat");
    vm.console().say("bye");
    let told = host.run(&["wait", &name]).ok().stdout;
    assert_eq!(told, format!("{name}: the guest switched itself off\n"));
    let ended = past(&host, &name).unwrap();
    assert_eq!(ended["end"]["reason"], "powered-off", "{ended}");
    assert!(ended["end"]["ended"].as_str().unwrap() > ended["end"]["started"].as_str().unwrap());
    let output = host.run(&["logs", "--console", &name]).ok().stdout;
    assert!(
        output.contains("@ ready") && output.contains("@ stat"),
        "{output}"
    );
    let log = host.run(&["logs", &name]).ok().stdout;
    assert!(
        log.contains("runs (pid") && log.contains("switched itself off"),
        "{log}"
    );
    // The same arguments; nothing of the first life is left when the guest runs.
    host.run(&["start", &name]).ok();
    let mut again = Vm::attach(&host, name.clone());
    assert_eq!(again.status()["memory_bytes"], 16 << 20);
    assert!(past(&host, &name).is_none());
    // A triple fault.
    again.ask("stat");
    again.console().say("crash");
    let told = host.run(&["wait", &name]);
    assert_eq!(told.code, 1);
    assert!(
        told.stdout.contains("triple fault: vCPU 0"),
        "{}",
        told.stdout
    );
    assert_eq!(past(&host, &name).unwrap()["end"]["reason"], "triple-fault");
    host.run(&["rm-vm", &name]).ok();
    assert_eq!(fs::read_dir(host.runtime()).unwrap().count(), 1, "the lock");
}

#[test]
fn a_killed_vm_leaves_its_last_words() {
    let host = Host::new(96);
    let mut vm = host.boot_bare_metal(16, 1);
    let name = vm.name.clone();
    vm.ask("stat");
    vm.kill();
    // The helper notes when.
    let ended = until("the end was noted", || {
        past(&host, &name).filter(|vm| vm["end"]["ended"].is_string())
    });
    assert_eq!(ended["end"]["reason"], "killed");
    let output = host.run(&["logs", "--console", &name]).ok().stdout;
    assert!(output.contains("@ stat"), "{output}");
    host.run(&["stop", &name]).refused(3, "it has ended");
}

#[test]
fn a_guest_that_reboots_for_ever_is_seen_or_ended() {
    let host = Host::new(64);
    let kernel = host.runtime().join("kernel");
    fs::write(&kernel, flat_guest(&RESET)).unwrap();
    let kernel = kernel.to_str().unwrap().to_owned();
    let vm = host.boot(&["--kernel", &kernel], 4, 1);
    let status = until("it rebooted three times", || {
        let status = vm.status();
        (status["reboot_count"].as_u64() >= Some(3)).then_some(status)
    });
    let notice = status["notice"].as_str().unwrap();
    assert!(notice.contains("reboots again and again"), "{notice}");
    let name = vm.name.clone();
    vm.stop();
    let ended = past(&host, &name).unwrap();
    assert!(ended["reboot_count"].as_u64() >= Some(3) && ended["end"]["reason"] == "stopped");
    let once = host.next_name();
    let run = [
        "run", "--kernel", &kernel, "--memory", "4M", "--name", &once, "--detach",
    ];
    host.run(&[&run[..], &["--on-reboot", "exit"]].concat())
        .ok();
    assert_eq!(
        host.run(&["wait", &once]).ok().stdout,
        format!("{once}: the guest rebooted\n")
    );
    assert_eq!(past(&host, &once).unwrap()["reboot_count"], 0);
}

#[test]
fn a_vm_that_cannot_be_started_leaves_nothing_new() {
    let host = Host::new(96);
    let mut vm = host.boot_bare_metal(16, 1);
    vm.ask("stat");
    vm.snapshot("s");
    vm.stop();
    let copy = host.restore("s", &[]);
    let name = copy.name.clone();
    copy.stop();
    host.run(&["start", &name]).ok();
    Vm::attach(&host, name.clone()).stop();
    host.run(&["rm", "s"]).ok();
    host.run(&["start", &name]).refused(3, "'s'");
    let kept = past(&host, &name).unwrap();
    assert_eq!(
        (&kept["end"]["reason"], &kept["origin"]["snapshot"]),
        (&"stopped".into(), &"s".into())
    );
    // A failed attempt leaves no file.
    let guest = required("NVVMM_BAREMETAL_GUEST");
    let guest = guest.to_str().unwrap();
    let run = [
        "run", "--kernel", guest, "--memory", "1G", "--name", "none", "--detach",
    ];
    let files = || fs::read_dir(host.runtime()).unwrap().count();
    let before = files();
    let failed = host.run(&[&run[..], &["--disk", "/dev/full"]].concat());
    assert_ne!(failed.code, 0);
    assert_eq!(files(), before, "{}", failed.stderr);
}
