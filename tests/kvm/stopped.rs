//! A stopped process stops nobody for longer than a limit, and is named. What was asked of it by
//! somebody who is gone does not happen.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use nvvmm_snapshot::ProcessState;
use nvvmm_tests::{Engine, Host, Vm, required};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(120);

fn stop_process(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    while !ProcessState::of(pid as u32).unwrap().is_stopped() {
        std::thread::yield_now();
    }
}

fn go_on(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
}

fn wait_until(vm: &Vm<'_>, what: &str, holds: impl Fn(&Value) -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds(&vm.status()) {
        assert!(Instant::now() < until, "never {what}: {}", vm.status());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A command that has the pool's lock and is stopped.
struct Holder(Child);

impl Holder {
    fn of(host: &Host) -> Self {
        let file = host.runtime().join("wait");
        fs::write(&file, "").unwrap();
        let usual = host.command(&["pool", "status"]);
        let mut command = Command::new(required("NVVMM_DEV_BIN"));
        command.args(usual.get_args());
        for (variable, value) in usual.get_envs() {
            if let Some(value) = value {
                command.env(variable, value);
            }
        }
        command.env(
            "NVVMM_FAULT_WAIT",
            format!("open.recovered:{}", file.display()),
        );
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        stderr.read_line(&mut line).unwrap();
        assert!(line.contains("waits at open.recovered"), "{line}");
        stop_process(child.id() as i32);
        Self(child)
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Has a VM run on a pool of which it knows a part only, so that its guest needs the pool's lock
/// for the rest. `None` on a device, which does not grow.
fn on_a_pool_that_grew(host: &Host) -> Option<Vm<'_>> {
    if host.medium().is_device() {
        return None;
    }
    let mut vm = host.boot_bare_metal(48, 2);
    vm.ask("fill 4 1");
    host.run(&["pool", "grow", "--size", "+64M"]).ok();
    Some(vm)
}

#[test]
fn a_guest_gets_blocks_while_a_stopped_process_has_the_lock() {
    let host = Host::new(96);
    let mut vm = host.boot_bare_metal(48, 2);
    vm.ask("fill 4 1");
    let holder = Holder::of(&host);
    vm.ask("fill 24 1");
    assert_eq!(vm.status()["state"], "running");
    drop(holder);
    assert!(vm.ask("check").contains("check ok"));
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn a_guest_that_needs_the_lock_of_a_stopped_process_stands_still_and_goes_on() {
    let host = Host::new(32);
    // Asked before the pool is locked.
    let engine = host.engine();
    let Some(mut vm) = on_a_pool_that_grew(&host) else {
        println!("SKIPPED: a pool on a device does not grow");
        return;
    };
    let holder = Holder::of(&host);
    let who = format!(
        "process {} (nvvmm pool status), which is stopped",
        holder.pid()
    );
    if engine == Engine::Redirect {
        vm.console().say("fill 36 1");
        wait_until(&vm, "waiting", |status| {
            status["state"] == "waiting"
                && status["notice"]
                    .as_str()
                    .is_some_and(|text| text.contains(&who))
        });
        assert_eq!(vm.status()["waits_for_pid"], holder.pid());
    }
    // The operation waits in the VM process, the command for the operation: both within limits.
    // The VM process is confined, and sees no other one.
    host.run(&["snapshot", &vm.name, "never"])
        .refused(4, &format!("process {}", holder.pid()));
    vm.pause();
    assert_eq!(vm.status()["state"], "paused");
    drop(holder);
    wait_until(&vm, "relieved", |status| status["notice"].is_null());
    vm.resume();
    if engine == Engine::Redirect {
        vm.expect("@ fill");
    }
    wait_until(&vm, "running", |status| {
        status["state"] == "running" && status["notice"].is_null()
    });
    assert!(vm.ask("check").contains("check ok"));
    vm.snapshot("later");
    assert_eq!(host.json(&["snapshots"]).as_array().unwrap().len(), 1);
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn a_vm_whose_guest_waits_for_the_lock_can_be_stopped() {
    let host = Host::new(32);
    if host.engine() == Engine::Private {
        println!("SKIPPED: a guest with private memory never waits for the pool");
        return;
    }
    let Some(mut vm) = on_a_pool_that_grew(&host) else {
        println!("SKIPPED: a pool on a device does not grow");
        return;
    };
    let holder = Holder::of(&host);
    vm.console().say("fill 36 1");
    wait_until(&vm, "waiting", |status| status["state"] == "waiting");
    vm.stop();
    drop(holder);
    host.assert_pool_clean();
    assert_eq!(host.pool_status()["leased_bytes"], 0);
}

#[test]
fn what_was_asked_of_a_stopped_vm_does_not_happen_when_it_goes_on() {
    let host = Host::new(96);
    let mut vm = host.boot_bare_metal(32, 1);
    vm.ask("fill 4 1");
    stop_process(vm.pid);
    assert_eq!(vm.status()["state"], "stopped");
    let told = format!("the VM process {} is stopped", vm.pid);
    // The command is killed while it waits: it has asked by then, or never does.
    let mut killed = host
        .command(&["snapshot", &vm.name, "killed"])
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    killed.kill().unwrap();
    killed.wait().unwrap();
    let stop = ["stop", &vm.name];
    let pause = ["pause", &vm.name];
    let snapshot = ["snapshot", &vm.name, "refused", "--stop"];
    std::thread::scope(|scope| {
        for arguments in [&stop[..], &pause, &snapshot] {
            scope.spawn(|| host.run(arguments).refused(4, &told));
        }
    });
    go_on(vm.pid);
    // By the time that this is taken, all that was asked before it has been looked at.
    vm.snapshot("later");
    assert!(vm.ask("check").contains("check ok"));
    assert_eq!(vm.status()["state"], "running");
    assert_eq!(vm.status()["snapshots_taken"], serde_json::json!(["later"]));
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn a_snapshot_whose_command_is_killed_meanwhile_is_not_committed() {
    // Before the pause, in it, and when the VM runs again, not committed yet.
    for point in ["snapshot.reserved", "snapshot.paused", "snapshot.resumed"] {
        let wait = tempfile::NamedTempFile::new().unwrap();
        let host = Host::new(96).with_fault(
            "NVVMM_FAULT_WAIT",
            format!("{point}:{}", wait.path().display()),
        );
        let mut vm = host.boot_bare_metal(32, 1);
        vm.ask("fill 4 1");
        let mut asking = host
            .command(&["snapshot", &vm.name, "never", "--stop"])
            .spawn()
            .unwrap();
        let until = Instant::now() + PATIENCE;
        while !host.is_logged(&format!("waits at {point}")) {
            assert!(Instant::now() < until, "it never came to {point}");
            std::thread::sleep(Duration::from_millis(5));
        }
        asking.kill().unwrap();
        asking.wait().unwrap();
        drop(wait);
        // Waits for the operation under way.
        vm.snapshot("later");
        let taken = vm.status()["snapshots_taken"].clone();
        assert_eq!(taken, serde_json::json!(["later"]), "{point}");
        assert!(vm.ask("check").contains("check ok"));
        assert_eq!(host.json(&["snapshots"]).as_array().unwrap().len(), 1);
        vm.stop();
        host.assert_pool_clean();
    }
}

#[test]
fn a_vm_in_the_background_keeps_nothing_of_its_caller_open() {
    let host = Host::new(96);
    let lock = host.runtime().join("callers");
    File::create(&lock).unwrap();
    let guest = required("NVVMM_BAREMETAL_GUEST");
    let run = host.command(&[
        "run", "--name", "d", "--memory", "32M", "--detach", "--kernel",
    ]);
    let mut command = Command::new("flock");
    command.arg("--no-fork").arg(&lock).arg(run.get_program());
    command.args(run.get_args()).arg(&guest);
    for (variable, value) in run.get_envs() {
        if let Some(value) = value {
            command.env(variable, value);
        }
    }
    nvvmm_tests::Outcome::of(command).ok();
    let vm = Vm::attach(&host, "d".into());
    Flock::lock(File::open(&lock).unwrap(), FlockArg::LockExclusiveNonblock)
        .map_err(|(_, errno)| errno)
        .expect("the VM does not have the lock of the command's caller");
    vm.stop();
}
