//! Processes of Linux guests are captured while they run, and restarted: in the same VM, in another one, and when the VM that
//! took them is gone.

use std::time::{Duration, Instant};

use nvvmm_tests::{Host, Outcome, Vm, witness::boot};

/// Ten times and more of what an emulated KVM host needs.
const PATIENCE: Duration = Duration::from_secs(300);

/// Has a secret in its memory, and says at the end whether it is still there.
const SUBJECT: &str = "cd /tmp; x=$(seq 200000); sum=$(echo \"$x\" | md5sum); echo $$ >ready
    while [ ! -e go ]; do :; done
    [ \"$sum\" = \"$(echo \"$x\" | md5sum)\" ] && [ \"$x\" = \"$(seq 200000)\" ] && echo all is there >verdict";

fn sh(host: &Host, vm: &Vm<'_>, script: &str) -> Outcome {
    host.run(&["exec", &vm.name, "--", "sh", "-c", script])
}

fn output(host: &Host, vm: &Vm<'_>, script: &str) -> String {
    sh(host, vm, script).ok().stdout
}

fn wait_for(host: &Host, vm: &Vm<'_>, what: &str) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        let outcome = sh(host, vm, what);
        if outcome.code == 0 {
            return outcome.stdout;
        }
        assert!(Instant::now() < until, "never in {}: {what}", vm.name);
    }
}

/// What it reads is a file of the guest, which every VM must have where it is to go on.
fn install(host: &Host, vm: &Vm<'_>) {
    output(host, vm, &format!("cat >/tmp/subject <<'END'\n{SUBJECT}\nEND"));
}

/// Starts the subject in a session of its own, with a number that no other VM has used; that number.
fn start(host: &Host, vm: &Vm<'_>) -> String {
    output(
        host,
        vm,
        "echo 20000 >/proc/sys/kernel/ns_last_pid; setsid sh /tmp/subject </dev/null >/dev/null 2>&1 &",
    );
    wait_for(host, vm, "cat /tmp/ready").trim().to_owned()
}

fn assert_whole(host: &Host, vm: &Vm<'_>) {
    output(host, vm, ": >/tmp/go");
    assert_eq!(wait_for(host, vm, "cat /tmp/verdict"), "all is there\n");
    output(host, vm, "rm /tmp/go /tmp/verdict");
}

#[test]
fn a_process_goes_on_where_it_was_captured_in_any_vm() {
    let host = Host::new(1024);
    let taker = boot(&host, 160, 1, &[]);
    install(&host, &taker);
    let pid = start(&host, &taker);
    let report = host.json(&["snapshot", &taker.name, "job", "--process", &pid]);
    assert_eq!(report["frames_copied"], 0, "{report}");
    assert!(report["frames_given"].as_u64().unwrap() > 300, "{report}");
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
        .refused(4, "there is no VM in it");
    let killed = host.json(&["snapshot", &taker.name, "again", "--process", &pid, "--kill"]);
    assert!(
        killed["frames_given"].as_u64().unwrap() < report["frames_given"].as_u64().unwrap() / 2,
        "what did not change is shared: {killed}"
    );
    assert_eq!(sh(&host, &taker, &format!("test -e /proc/{pid}")).code, 1);

    for name in ["job", "again", "job"] {
        let restarted = host.json(&["restore", name, "--into", &taker.name]);
        assert_eq!(restarted["pid"].to_string(), pid);
        assert_eq!(restarted["pages_copied"], 0, "{restarted}");
        assert_whole(&host, &taker);
    }
    let other = boot(&host, 160, 1, &[]);
    install(&host, &other);
    host.run(&["restore", "job", "--into", &other.name]).ok();
    assert_whole(&host, &other);
    taker.stop();
    host.run(&["restore", "job", "--into", &other.name]).ok();
    assert_whole(&host, &other);
    // A snapshot of the VM has the image's frames, too, and lets go of it.
    other.snapshot("whole");
    host.run(&["rm", "job", "again"]).ok();
    other.stop();
    let copy = host.restore("whole", &[]);
    output(&host, &copy, "true");
    copy.stop();
    host.assert_pool_clean();
}
