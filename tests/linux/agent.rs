//! The agent in the guest: commands of the host, and messages to a restored guest.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use nvvmm_tests::agent::{output, sh, wait_for};
use nvvmm_tests::{
    Host, Vm,
    witness::{boot_to_agent, boot_without_witness},
};

/// Longest wait for a restored guest: at least ten times what its notice takes in an emulated KVM
/// host.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs an nvvmm command with `input` as its standard input.
fn fed(host: &Host, arguments: &[&str], input: &[u8]) -> std::process::Output {
    let mut command: Command = host.command(arguments);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("nvvmm starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("nvvmm ends");
    feeding.join().unwrap().expect("all input is taken");
    output
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64)
        .map(|at| ((at * 2_654_435_761) >> 13) as u8)
        .collect()
}

/// Waits until the guest has handled its restore, and returns the message that it got. No command
/// waits for that.
fn told(host: &Host, vm: &Vm<'_>) -> String {
    wait_for(host, vm, "cat /run/hook-ran && cat /run/nvvmm/restored")
}

fn fact<'t>(told: &'t str, name: &str) -> &'t str {
    let mut lines = told.lines().filter_map(|line| line.split_once('='));
    let found = lines.find(|(key, _)| *key == name);
    found.unwrap_or_else(|| panic!("no {name} in {told}")).1
}

#[test]
fn programs_run_in_the_guest_and_files_go_both_ways() {
    let host = Host::new(512);
    let vm = boot_without_witness(&host, 160);
    let outcome = sh(&host, &vm, "echo out; echo err >&2; exit 7");
    assert_eq!(
        (outcome.code, &outcome.stdout[..], &outcome.stderr[..]),
        (7, "out\n", "err\n")
    );
    assert_eq!(sh(&host, &vm, "kill -9 $$").code, 137);
    host.run(&["exec", &vm.name, "--", "no-such-program"])
        .refused(127, "no-such-program");
    let variable = host.run(&[
        "exec", "--env", "A=b c", &vm.name, "--", "sh", "-c", "echo $A",
    ]);
    assert_eq!(variable.ok().stdout, "b c\n");

    let content = pattern(1 << 20);
    let echoed = fed(&host, &["exec", &vm.name, "--", "cat"], &content);
    assert!(echoed.status.success() && echoed.stdout == content);

    let directory = tempfile::tempdir().unwrap();
    let (from, back) = (directory.path().join("file"), directory.path().join("back"));
    std::fs::write(&from, &content).unwrap();
    let (from, back) = (from.to_str().unwrap(), back.to_str().unwrap());
    let place = format!("{}:/tmp", vm.name);
    host.run(&["cp", from, &place]).ok();
    host.run(&["cp", &format!("{place}/file"), back]).ok();
    assert!(std::fs::read(back).unwrap() == content);
    host.run(&["cp", &format!("{place}/file"), back])
        .refused(4, "--force");
    host.run(&["cp", "-f", &format!("{place}/missing"), back])
        .refused(3, "missing");
    let shown = fed(&host, &["cp", &format!("{place}/file"), "-"], b"");
    assert!(shown.status.success() && shown.stdout == content);
    let taken = fed(&host, &["cp", "-", &format!("{place}/taken")], &content);
    assert!(taken.status.success());
    output(
        &host,
        &vm,
        "mkdir -p /tmp/tree/deep; mv /tmp/taken /tmp/tree/deep; ln -s x /tmp/tree/l",
    );
    let tree = directory.path().join("tree");
    let tree = tree.to_str().unwrap();
    host.run(&["cp", "-r", &format!("{place}/tree"), tree]).ok();
    assert!(std::fs::read(format!("{tree}/deep/taken")).unwrap() == content);
    host.run(&["cp", "-r", tree, &format!("{place}/again")])
        .ok();
    output(
        &host,
        &vm,
        "cmp /tmp/again/deep/taken /tmp/tree/deep/taken; [ -L /tmp/again/l ]",
    );
    host.run(&["cp", from, &format!("{}:/no/such/directory/x", vm.name)])
        .refused(3, "/no/such/directory/x");
    vm.stop();
}

/// Each checkpoint stops the guest, its vsock device and all streams for a moment.
#[test]
fn the_agent_answers_while_a_ring_takes_checkpoints_and_after_it() {
    let host = Host::new(768);
    let vm = boot_without_witness(&host, 160);
    let ring = ["checkpoint", &vm.name, "--every", "1s", "--keep", "2"];
    host.run(&ring).ok();
    for round in 0..20 {
        if round == 14 {
            host.run(&["checkpoint", &vm.name, "--stop"]).ok();
        }
        let said = output(&host, &vm, &format!("echo {round}"));
        assert_eq!(said, format!("{round}\n"));
    }
    vm.stop();
}

/// Output of a command on a terminal of that size.
fn on_a_terminal(
    host: &Host,
    rows: u16,
    columns: u16,
    arguments: &[&str],
) -> (Option<i32>, String) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(&size, None).expect("a terminal");
    let mut child = host
        .command(arguments)
        .stdin(pty.slave.try_clone().unwrap())
        .stdout(pty.slave.try_clone().unwrap())
        .stderr(pty.slave)
        .spawn()
        .expect("nvvmm starts");
    // A terminal that no process has open gives an error at its end.
    let mut shown = Vec::new();
    let _ = std::fs::File::from(pty.master).read_to_end(&mut shown);
    let status = child.wait().expect("nvvmm ends");
    (status.code(), String::from_utf8_lossy(&shown).into_owned())
}

#[test]
fn the_agent_can_be_the_first_process_and_programs_have_a_terminal() {
    const BUSYBOX: &str = "/bin/busybox";
    let host = Host::new(512);
    let vm = boot_to_agent(&host, 160);
    let until = Instant::now() + PATIENCE;
    let run = |script: &str| host.run(&["exec", &vm.name, "--", BUSYBOX, "sh", "-c", script]);
    while run("true").code != 0 {
        assert!(Instant::now() < until, "the agent never answered");
    }
    assert_eq!(
        run("/bin/busybox cat /proc/1/comm").ok().stdout,
        "nvvmm-agent\n"
    );
    let mounted = run("/bin/busybox cat /proc/mounts").ok().stdout;
    for place in ["/proc", "/sys", "/dev", "/dev/pts", "/run", "/tmp"] {
        assert!(
            mounted.contains(&format!(" {place} ")),
            "{place}: {mounted}"
        );
    }
    // No process waits for an orphan, so its exit code is lost.
    run("(/bin/busybox sleep 0.1; exit 5) >/dev/null 2>&1 &").ok();
    let zombies = "/bin/busybox sleep 1; /bin/busybox grep -l '^State:.Z' /proc/[0-9]*/status";
    assert_eq!(run(zombies).stdout, "");

    let exec = ["exec", "--tty", &vm.name, "--", BUSYBOX, "sh", "-c"];
    let script = "/bin/busybox stty size; [ -t 0 ] && [ -t 1 ] && exit 9";
    let (code, shown) = on_a_terminal(&host, 33, 77, &[&exec[..], &[script]].concat());
    assert_eq!((code, &shown[..]), (Some(9), "33 77\r\n"));

    // Without the agent such a guest is of no use: it powers itself off.
    let agents = "for p in /proc/[0-9]*; do \
        [ $p = /proc/1 ] || [ \"$(/bin/busybox cat $p/comm)\" != exe ] || \
        /bin/busybox kill -9 ${p#/proc/}; done";
    run(agents);
    vm.wait_gone();
}

#[test]
fn a_guest_shuts_down_when_it_is_asked() {
    let host = Host::new(512);
    let vm = boot_without_witness(&host, 160);
    host.run(&["shutdown", &vm.name, "--timeout", "5m"]).ok();
    vm.wait_gone();
    host.run(&["ps", "-q"]).ok();
    host.assert_pool_clean();
}

#[test]
fn a_restored_guest_is_told_and_its_streams_are_not_the_originals() {
    let host = Host::new(768);
    let original = boot_without_witness(&host, 160);
    output(
        &host,
        &original,
        "mkdir -p /etc/nvvmm/restored.d; cd /etc/nvvmm/restored.d
         printf '#!/bin/sh\\necho HOOK=$NVVMM_ROLE >/run/hook-ran\\n' >hook
         chmod +x hook; date -s @1000000",
    );
    let mut stream = host.command(&[
        "exec",
        &original.name,
        "--",
        "sh",
        "-c",
        "read word; echo got $word",
    ]);
    let mut stream = stream
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let reads = "ps | grep -v grep | grep -c 'read word' || true";
    while output(&host, &original, reads).trim() != "1" {}
    original.snapshot("base");

    let kept = host.restore("base", &["--clock", "keep"]);
    let facts = told(&host, &kept);
    assert_eq!(fact(&facts, "HOOK"), "copy");
    assert_eq!(fact(&facts, "NVVMM_SNAPSHOT"), "base");
    assert_eq!(fact(&facts, "NVVMM_VM"), kept.name);
    let now = |vm: &Vm<'_>| output(&host, vm, "date +%s").trim().parse::<u64>().unwrap();
    assert!(
        now(&kept) < 10_000_000,
        "its clock goes on from the snapshot"
    );
    // The host process is gone, so the guest's process gets SIGHUP.
    let until = Instant::now() + PATIENCE;
    while output(&host, &kept, reads).trim() != "0" {
        assert!(
            Instant::now() < until,
            "a program of a broken stream lives on"
        );
    }

    for options in [&["--clock", "step"][..], &[]] {
        let stepped = host.restore("base", options);
        let facts = told(&host, &stepped);
        let host_time_ns: u64 = fact(&facts, "NVVMM_HOST_TIME_NS").parse().unwrap();
        assert!(now(&stepped) >= host_time_ns / 1_000_000_000, "{options:?}");
        assert_eq!(stepped.status()["restore"]["clock"], "set", "{options:?}");
        stepped.stop();
    }

    assert_eq!(
        sh(&host, &original, "cat /run/nvvmm/restored").code,
        1,
        "the original was not restored"
    );
    stream.stdin.take().unwrap().write_all(b"it\n").unwrap();
    let stream = stream.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&stream.stdout), "got it\n");

    kept.stop();
    original.stop();
    let only = host.restore("base", &["--once"]);
    assert_eq!(fact(&told(&host, &only), "NVVMM_ROLE"), "original");
    only.stop();
    host.assert_pool_clean();
}

/// The hooks write what they are told.
#[test]
fn hooks_run_around_a_snapshot_and_a_copy_ends_what_the_snapshot_has_begun() {
    let host = Host::new(768);
    let vm = boot_without_witness(&host, 160);
    output(
        &host,
        &vm,
        "mkdir -p /etc/nvvmm/snapshot.d; cd /etc/nvvmm/snapshot.d
         printf '#!/bin/sh\\necho a $1 $NVVMM_SNAPSHOT >>/tmp/log\\n' >10-a
         printf '#!/bin/sh\\necho b $1 >>/tmp/log; [ $1 = after ] || [ ! -e /tmp/fail ]\\n' >20-b
         chmod +x *",
    );
    let log = "cat /tmp/log";
    host.run(&["snapshot", &vm.name, "s1", "--hooks-timeout", "5m"])
        .ok();
    let all = "a before s1\nb before\nb after\na after s1\n";
    assert_eq!(output(&host, &vm, log), all);
    host.run(&["snapshot", &vm.name, "s2", "--no-hooks"]).ok();
    assert_eq!(output(&host, &vm, log), all, "they are left out");
    output(&host, &vm, "touch /tmp/fail");
    let failing = ["snapshot", &vm.name, "s3", "--hooks-timeout", "5m"];
    host.run(&failing).refused(4, "20-b before: exit status 1");
    host.run(&["restore", "s3"]).refused(3, "s3");
    assert_eq!(
        output(&host, &vm, log),
        all.replace("s1", "s3").repeat(2).replacen("s3", "s1", 2)
    );
    vm.stop();

    let copy = host.restore("s1", &[]);
    assert_eq!(
        wait_for(&host, &copy, "grep -q 'a after' /tmp/log && cat /tmp/log"),
        all
    );
    copy.stop();
    host.assert_pool_clean();
}

#[test]
fn a_user_of_the_guest_neither_reaches_the_agent_nor_takes_its_place() {
    let host = Host::new(512);
    let vm = boot_without_witness(&host, 160);
    output(&host, &vm, "grep -q vsock_loopback /proc/modules");
    let tried = output(&host, &vm, "nvvmm-witness stranger");
    for way in ["loopback", "own", "host", "low-port"] {
        let outcome = tried.lines().find_map(|line| {
            let (name, outcome) = line.split_once('=')?;
            (name == way).then_some(outcome)
        });
        let outcome = outcome.unwrap_or_else(|| panic!("no {way}= in {tried}"));
        assert!(
            outcome.starts_with("refused") || outcome.starts_with("closed"),
            "{way}: {tried}"
        );
    }
    assert!(host.is_logged("refused a stream of the guest"));
    // The agent itself has the place.
    vm.snapshot("base");
    let copy = host.restore("base", &[]);
    wait_for(&host, &copy, "cat /run/nvvmm/restored");
    vm.stop();
    copy.stop();
    host.assert_pool_clean();
}
