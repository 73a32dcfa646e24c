//! Things that a VM has of its caller, and what is told when it is started or loses its pool.

use std::{fs, path::Path, process::Command};

use nvvmm_tests::{Engine, Host, Outcome, Vm, required};

/// A field of proc_pid_status(5).
fn status_of(pid: i32, field: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.expect(field).trim_start_matches(':').trim().to_owned()
}

/// Fields of proc_pid_stat(5) from the third on: state, parent, group, session, terminal.
fn stat_of(pid: i32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    Some(fields.map(str::to_owned).collect())
}

fn children_of(pid: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|other| stat_of(*other).is_some_and(|stat| stat[1] == pid.to_string()))
        .collect()
}

fn is_ignored(pid: i32, signal: i32) -> bool {
    let mask = u64::from_str_radix(&status_of(pid, "SigIgn"), 16).unwrap();
    mask & (1 << (signal - 1)) != 0
}

/// Checks that a process has nothing of its caller, as far as this user may look into it: the
/// sandbox forbids that to all but root.
fn has_nothing_of(pid: i32, directory: &Path) {
    let of = |file: &str| format!("/proc/{pid}/{file}");
    if let Ok(environment) = fs::read(of("environ")) {
        let environment = String::from_utf8_lossy(&environment).into_owned();
        assert!(!environment.contains("CALLERS_SECRET"), "{environment}");
    }
    let links = ["cwd".to_owned(), "root".to_owned()].into_iter();
    let open = fs::read_dir(of("fd")).into_iter().flatten().flatten();
    let open = open.map(|fd| format!("fd/{}", fd.file_name().display()));
    for link in links.chain(open).map(|link| of(&link)) {
        if let Ok(target) = fs::read_link(&link) {
            assert!(!target.starts_with(directory), "{link} is {target:?}");
        }
    }
    let stat = stat_of(pid).unwrap();
    let own = pid.to_string();
    assert_eq!(stat[2..5], [own.clone(), own, "0".to_owned()], "{stat:?}");
    // SIGCHLD is ignored, too, but by the program itself: nobody waits for its passt.
    for signal in [nix::libc::SIGUSR1, nix::libc::SIGALRM] {
        assert!(!is_ignored(pid, signal), "{signal} is ignored");
    }
    assert_eq!(status_of(pid, "SigBlk"), "0000000000000000");
    assert_eq!(status_of(pid, "Umask"), "0077");
}

#[test]
fn a_vm_in_the_background_has_nothing_of_its_caller_but_what_it_was_given() {
    let host = Host::new(64);
    let callers = tempfile::tempdir().unwrap();
    let guest = required("NVVMM_BAREMETAL_GUEST");
    let run = host.command(&[
        "run", "--name", "d", "--memory", "32M", "--detach", "--kernel",
    ]);
    let script = "trap '' HUP INT QUIT CHLD USR1 ALRM; umask 0; exec 7>lock; exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(run.get_program());
    command.args(run.get_args()).arg(&guest);
    for (variable, value) in run.get_envs() {
        command.env(variable, value.unwrap_or_default());
    }
    command.env("CALLERS_SECRET", "1").current_dir(&callers);
    Outcome::of(command).ok();
    let vm = Vm::attach(&host, "d".into());
    has_nothing_of(vm.pid, callers.path());
    for signal in [nix::libc::SIGHUP, nix::libc::SIGINT, nix::libc::SIGQUIT] {
        assert!(!is_ignored(vm.pid, signal), "{signal} is ignored");
    }
    let helpers = children_of(vm.pid);
    assert_eq!(helpers.len(), 1, "the helper");
    has_nothing_of(helpers[0], callers.path());
    vm.stop();
}

#[test]
fn a_pool_that_nobody_could_open_again_gets_no_snapshot() {
    let host = Host::new(64);
    if host.medium().is_device() {
        println!("SKIPPED: a device cannot be unlinked");
        return;
    }
    let mut vm = host.boot_bare_metal(32, 1);
    vm.ask("fill 4 1");
    vm.snapshot("first");
    fs::remove_file(host.pool()).unwrap();
    // The same when another pool takes its place.
    for replaced in [false, true] {
        if replaced {
            host.run(&["pool", "create", host.pool_str(), "--size", "8M"])
                .ok();
        }
        for stop in [&[][..], &["--stop"]] {
            let snapshot = ["snapshot", &vm.name, "second"];
            host.run(&[&snapshot[..], stop].concat())
                .refused(4, "was removed or replaced");
        }
        host.run(&["checkpoint", &vm.name, "--every", "1s"])
            .refused(4, "was removed or replaced");
        let notice = vm.status()["notice"].to_string();
        assert!(notice.contains("was removed or replaced"), "{notice}");
    }
    assert!(vm.ask("check").contains("check ok"));
    assert_eq!(vm.status()["state"], "running");
    vm.stop();
}

#[test]
fn a_vm_that_may_outgrow_its_pool_is_started_with_a_warning() {
    let host = Host::new(32);
    let guest = required("NVVMM_BAREMETAL_GUEST");
    let run = [
        "run", "--name", "big", "--memory", "64M", "--cpus", "1", "--detach", "--kernel",
    ];
    let started = host.run(&[&run[..], &[guest.to_str().unwrap()]].concat());
    let warning = "nvvmm: warning: the guest has 64.0 MiB of memory, and the pool 32.0 MiB";
    let started = started.ok();
    assert!(started.stderr.contains(warning), "{}", started.stderr);
    assert!(started.stderr.contains("\n  try: "), "{}", started.stderr);
    let then = match host.engine() {
        Engine::Redirect => "stands still",
        Engine::Private => "snapshots are refused",
    };
    assert!(started.stderr.contains(then), "{}", started.stderr);
    host.run(&["snapshot", "big", "s", "--stop"]).ok();
    let restored = host.run(&["restore", "s", "--name", "again", "--detach"]);
    let restored = restored.ok();
    assert!(restored.stderr.contains(warning), "{}", restored.stderr);
    Vm::attach(&host, "again".into()).stop();
}
