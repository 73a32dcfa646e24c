//! Unmodified programs of the distribution are captured in a guest in the middle of their work, and
//! restarted, three times. Their output is the same as that of an uninterrupted run.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nvvmm_tests::agent::{output, sh, wait_for};
use nvvmm_tests::witness::boot_with_programs;
use nvvmm_tests::{Host, Vm};

use crate::workloads;

const CAPTURES: u32 = 3;

/// Runs a program on this host, uninterrupted. Returns its output and its computing time.
fn usual(program: &str, input: &Path) -> (Vec<u8>, Duration) {
    let computed = || {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
        Duration::from_micros((usage.user_time() + usage.system_time()).num_microseconds() as u64)
    };
    let before = computed();
    let mut command = Command::new("sh");
    command
        .args(["-c", program])
        .stdin(File::open(input).unwrap());
    let ended = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(
        ended.status.success() && !ended.stdout.is_empty(),
        "{program}: {ended:?}"
    );
    (ended.stdout, computed() - before)
}

/// Waits until a process in the guest has used that much computing time. Returns false if the
/// process has ended before.
fn works(host: &Host, vm: &Vm<'_>, pid: &str, computes: Duration) -> bool {
    let script = format!(
        "while test -e /proc/{pid}/exe; do
            total=0
            for stat in /proc/{pid}/task/*/schedstat; do
                read -r ran rest <$stat && total=$((total + ran))
            done
            [ $total -lt {} ] || exit 0
            sleep 0.01
        done
        exit 9",
        computes.as_nanos()
    );
    let outcome = sh(host, vm, &script);
    assert!(matches!(outcome.code, 0 | 9), "{outcome:?}");
    outcome.code == 0
}

/// Captures and restarts a program while it works, and compares its output. `program` is a shell
/// command.
fn goes_on(host: &Host, vm: &Vm<'_>, name: &str, program: &str, input: &[u8]) {
    let files = tempfile::tempdir().unwrap();
    let (here, back) = (files.path().join("input"), files.path().join("output"));
    std::fs::write(&here, input).unwrap();
    let (usual, computes) = usual(program, &here);
    let directory = format!("/tmp/{name}");
    output(host, vm, &format!("mkdir {directory}"));
    let there = format!("{}:{directory}", vm.name);
    host.run(&["cp", here.to_str().unwrap(), &format!("{there}/input")])
        .ok();
    let start = format!("cd {directory}; exec {program} <input >output 2>errors");
    let pid = output(
        host,
        vm,
        &format!("sh -c '{start}' >/dev/null 2>&1 & echo $!"),
    );
    let pid = pid.trim();
    let mut captures = 0;
    // A guest is not faster than its host, so that some work is left after the last capture.
    while captures < CAPTURES && works(host, vm, pid, computes / (2 * CAPTURES)) {
        let image = format!("{name}{captures}");
        host.run(&["snapshot", &vm.name, &image, "--process", pid, "--kill"])
            .ok();
        let restarted = host.json(&["restore", &image, "--into", &vm.name]);
        assert_eq!(restarted["copied_bytes"], 0, "{restarted}");
        captures += 1;
    }
    assert!(captures > 0, "{name} was over before it was captured");
    println!("{name}: captured {captures} times");
    wait_for(host, vm, &format!("! test -e /proc/{pid}"));
    host.run(&["cp", &format!("{there}/output"), back.to_str().unwrap()])
        .ok();
    assert_eq!(output(host, vm, &format!("cat {directory}/errors")), "");
    assert!(
        std::fs::read(&back).unwrap() == usual,
        "{name} has put out something else"
    );
}

/// A restart uses memory that the agent keeps ready. The agent keeps new memory ready after each
/// restart.
fn memory_that_is_ready_is_used(host: &Host, vm: &Vm<'_>) {
    let program = "
import hashlib, os, time
buffer = os.urandom(8 << 20)
digest = hashlib.sha256(buffer).digest()
open('filled', 'w').close()
while not os.path.exists('go'): time.sleep(0.05)
print(hashlib.sha256(buffer).digest() == digest, flush=True)
open('done', 'w').close()
";
    let start = format!(
        "mkdir /tmp/ready && cd /tmp/ready &&
            python3 -c \"{program}\" </dev/null >verdict 2>&1 & echo $!"
    );
    let pid = output(host, vm, &start);
    let pid = pid.trim();
    wait_for(host, vm, "test -e /tmp/ready/filled");
    for image in ["ready0", "ready1"] {
        host.run(&["snapshot", &vm.name, image, "--process", pid, "--kill"])
            .ok();
        wait_for(host, vm, "test -e /run/nvvmm/reserve");
        let restarted = host.json(&["restore", image, "--into", &vm.name]);
        assert!(
            restarted["reserved_bytes"].as_u64().unwrap() >= 8 << 20,
            "{restarted}"
        );
        assert_eq!(restarted["copied_bytes"], 0, "{restarted}");
    }
    output(host, vm, "touch /tmp/ready/go");
    wait_for(host, vm, "test -e /tmp/ready/done");
    assert_eq!(output(host, vm, "cat /tmp/ready/verdict"), "True\n");
}

#[test]
fn real_programs_put_out_what_they_would_have_uninterrupted() {
    let host = Host::new(1536);
    let vm = boot_with_programs(&host, 384, "NVVMM_RESERVE=16M", &[]);
    let python = workloads::python(3, 1);
    goes_on(
        &host,
        &vm,
        "python",
        "/usr/bin/python3 -",
        python.as_bytes(),
    );
    goes_on(
        &host,
        &vm,
        "sqlite",
        "/usr/bin/sqlite3 :memory:",
        workloads::sqlite(2_000).as_bytes(),
    );
    let xz = format!("/usr/bin/{}", workloads::XZ.join(" "));
    goes_on(&host, &vm, "xz", &xz, &workloads::text(512 << 10));
    memory_that_is_ready_is_used(&host, &vm);
    vm.stop();
    host.assert_pool_clean();
}
