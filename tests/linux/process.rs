//! Processes of Linux guests are captured while they run. They are restarted in the same VM, in
//! another VM, and after the VM that captured them is gone.

use std::io::Write;
use std::process::Stdio;

use nvvmm_tests::agent::{output, sh, wait_for};
use nvvmm_tests::{Host, Outcome, Vm, witness::boot_without_witness};

use crate::secret::{assert_whole, install, start};

/// Prints the process ID of the parent's child.
const CHILD: &str = "ps | awk '/[s]leep 88888$/ {print $1}'";
const CHILD_LIVES: &str = "ps | grep -q '[s]leep 88888$'";

/// Runs a script in the guest, in its own session. Returns the script's process ID once `ready`
/// succeeds.
fn spawn(host: &Host, vm: &Vm<'_>, script: &str, ready: &str) -> String {
    let script = format!(
        "rm -f /tmp/pid; setsid sh -c 'echo $$ >/tmp/pid; {script}' </dev/null >/dev/null 2>&1 &"
    );
    output(host, vm, &script);
    wait_for(host, vm, ready);
    output(host, vm, "cat /tmp/pid").trim().to_owned()
}

#[test]
fn a_process_goes_on_where_it_was_captured_in_any_vm() {
    let host = Host::new(1024);
    let taker = boot_without_witness(&host, 160);
    install(&host, &taker);
    let pid = start(&host, &taker);
    let check = ["snapshot", &taker.name, "--process", &pid, "--check"];
    assert_eq!(host.json(&check)["process_count"], 1);
    let report = host.json(&["snapshot", &taker.name, "job", "--process", &pid]);
    assert_eq!(report["copied_bytes"], 0, "{report}");
    assert!(
        report["given_bytes"].as_u64().unwrap() > 300 * 4096,
        "{report}"
    );
    assert_eq!(
        output(
            &host,
            &taker,
            &format!("grep State /proc/{pid}/status | grep -c [RS]")
        )
        .trim(),
        "1"
    );
    host.run(&["restore", "job", "--into", &taker.name])
        .refused(4, &pid);
    host.run(&["restore", "job", "--detach"])
        .refused(4, "not a snapshot of a VM");
    let killed = host.json(&[
        "snapshot",
        &taker.name,
        "again",
        "--process",
        &pid,
        "--kill",
    ]);
    assert!(
        killed["given_bytes"].as_u64().unwrap() < report["given_bytes"].as_u64().unwrap() / 2,
        "what did not change is shared: {killed}"
    );
    assert_eq!(sh(&host, &taker, &format!("test -e /proc/{pid}")).code, 1);

    for name in ["job", "again", "job"] {
        let restarted = host.json(&["restore", name, "--into", &taker.name]);
        assert_eq!(restarted["guest_pid"].to_string(), pid);
        assert_eq!(restarted["copied_bytes"], 0, "{restarted}");
        assert_whole(&host, &taker);
    }
    let other = boot_without_witness(&host, 160);
    install(&host, &other);
    host.run(&["restore", "job", "--into", &other.name]).ok();
    assert_whole(&host, &other);
    taker.stop();
    let stream = host.runtime().join("job.stream");
    let stream = stream.to_str().unwrap();
    host.run(&["send", "job", "--output", stream]).ok();
    host.run(&["receive", stream, "--name", "came"]).ok();
    host.run(&["restore", "job", "--into", &other.name]).ok();
    assert_whole(&host, &other);
    // The process is root's. Not for a sender who is not trusted.
    host.run(&["restore", "came", "--into", &other.name])
        .refused(4, "came from elsewhere");
    host.run(&["restore", "came", "--into", &other.name, "--allow-root"])
        .ok();
    assert_whole(&host, &other);
    // A snapshot of the VM also contains the image's frames, and the VM then releases the image.
    other.snapshot("whole");
    host.run(&["rm", "job", "again", "came"]).ok();
    other.stop();
    let copy = host.restore("whole", &[]);
    output(&host, &copy, "true");
    copy.stop();
    host.assert_pool_clean();
}

#[test]
fn a_process_is_refused_or_stopped_or_taken_with_its_children_and_its_terminal() {
    let host = Host::new(768);
    let vm = boot_without_witness(&host, 160);
    let parent = spawn(&host, &vm, "sleep 88888 & wait", CHILD_LIVES);
    processes_are_refused(&host, &vm, &parent);
    a_tree_is_stopped_and_taken(&host, &vm, &parent);
    a_terminal_is_attached_again(&host, &vm);
    vm.stop();
    host.assert_pool_clean();
}

/// Captures a process.
fn capture(host: &Host, vm: &Vm<'_>, name: &str, pid: &str, options: &[&str]) -> Outcome {
    host.run(&[&["snapshot", &vm.name, name, "--process", pid], options].concat())
}

/// Processes that cannot be captured are refused, and go on. `parent` has a child.
fn processes_are_refused(host: &Host, vm: &Vm<'_>, parent: &str) {
    let deleted = spawn(
        host,
        vm,
        "exec 3>/tmp/gone; rm /tmp/gone; exec sleep 66666",
        "ps | grep -q '[s]leep 66666$'",
    );
    let piped = "sleep 99999 | { exec 3<&0 </dev/null; exec sleep 77777; }";
    spawn(host, vm, piped, "ps | grep -q '[s]leep 77777$'");
    let piped = output(host, vm, "ps | awk '/[s]leep 77777$/ {print $1}'");
    let piped = piped.trim();
    let agent = output(host, vm, "pidof nvvmm-agent").trim().to_owned();
    for (pid, options, code, why) in [
        (&deleted[..], &[][..], 4, "fd 3"),
        (piped, &[], 4, "pipe"),
        (parent, &[], 4, "child"),
        (&agent, &[], 4, &agent),
        ("1", &[], 4, "process 1"),
        ("2", &[], 4, "process 2"),
        ("31999", &[], 3, "31999"),
    ] {
        capture(host, vm, "refused", pid, options).refused(code, why);
    }
    assert_eq!(host.json(&["snapshots"]).as_array().unwrap().len(), 0);
    for pid in [&deleted, piped, parent] {
        let state = output(host, vm, &format!("grep State /proc/{pid}/status"));
        assert!(
            state.contains("S (sleeping)"),
            "{pid} is not as it was: {state}"
        );
    }
}

/// A process is captured with its child: stopped after it, and killed after it.
fn a_tree_is_stopped_and_taken(host: &Host, vm: &Vm<'_>, parent: &str) {
    capture(host, vm, "stopped", parent, &["--tree", "--leave-stopped"]).ok();
    wait_for(
        host,
        vm,
        &format!("grep -q 'State:.T' /proc/{parent}/status"),
    );
    output(host, vm, &format!("kill -CONT {parent} $({CHILD})"));
    capture(host, vm, "tree", parent, &["--tree", "--kill"]).ok();
    for name in ["tree", "stopped"] {
        assert_eq!(sh(host, vm, CHILD_LIVES).code, 1);
        let restarted = host.json(&["restore", name, "--into", &vm.name]);
        assert_eq!(
            (
                &restarted["process_count"],
                restarted["guest_pid"].to_string()
            ),
            (&2.into(), parent.to_owned())
        );
        output(host, vm, &format!("kill $({CHILD})"));
        // The parent has waited for its child, and ends.
        wait_for(host, vm, &format!("! test -e /proc/{parent}"));
    }
}

/// A process of an `exec` is restarted with another terminal, twice.
fn a_terminal_is_attached_again(host: &Host, vm: &Vm<'_>) {
    let mut asks = host.command(&[
        "exec",
        &vm.name,
        "--",
        "sh",
        "-c",
        "echo $$ >/tmp/asks; read word; echo got $word; exit 3",
    ]);
    let mut asks = asks
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = wait_for(host, vm, "grep . /tmp/asks").trim().to_owned();
    capture(host, vm, "asks", &pid, &["--kill"]).ok();
    asks.wait().unwrap();
    for word in ["one", "two"] {
        let mut attached = host.command(&["restore", "asks", "--into", &vm.name, "--attach"]);
        let mut attached = attached
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        attached
            .stdin
            .take()
            .unwrap()
            .write_all(format!("{word}\n").as_bytes())
            .unwrap();
        let ended = attached.wait_with_output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&ended.stdout),
            format!("got {word}\n")
        );
        assert_eq!(ended.status.code(), Some(3));
    }
}

#[test]
fn frames_that_move_while_they_are_captured_are_captured_where_they_are() {
    let host = Host::new(768);
    let vm = boot_without_witness(&host, 160);
    install(&host, &vm);
    let pid = start(&host, &vm);
    // Memory in pieces and endless compaction, so that the kernel moves frames.
    output(
        &host,
        &vm,
        "setsid sh -c 'while :; do echo 1 >/proc/sys/vm/compact_memory; done' \
             </dev/null >/dev/null 2>&1 &
         setsid sh -c 'while :; do y=$(seq 30000); done' </dev/null >/dev/null 2>&1 &",
    );
    let captures = 4;
    for number in 0..captures {
        let kill: &[&str] = if number == captures - 1 {
            &["--kill"]
        } else {
            &[]
        };
        let name = format!("c{number}");
        host.run(&[&["snapshot", &vm.name, &name, "--process", &pid], kill].concat())
            .ok();
    }
    for number in 0..captures {
        host.run(&["restore", &format!("c{number}"), "--into", &vm.name])
            .ok();
        assert_whole(&host, &vm);
    }
    vm.stop();
    host.assert_pool_clean();
}
