//! The built `nvvmm` as a user meets it: exit codes, messages, JSON. Where a command needs a
//! running VM, the test process plays one.

// Clippy takes the helpers of an integration test for the program.
#![allow(clippy::unwrap_used)]

mod confined;
mod disk_exports;
mod disk_images;
mod disks;
mod doctor;
mod exit_codes;
mod hands;
mod life;
mod played_vm;
mod pools;
mod qcow2;
mod start;
mod stopped;
mod terminals;
mod texts;
mod vms;
mod world;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use world::{Finished, World};

#[test]
fn help_teaches_and_names_the_exit_codes() {
    let world = World::new();
    let help = world.nvvmm(&["--help"]);
    let text = help.done();
    for needed in [
        "First steps:",
        "NVVMM_POOL",
        "Exit codes:",
        "snapshot",
        "restore",
    ] {
        assert!(text.contains(needed), "{needed}");
    }
    assert!(world.nvvmm(&["run", "--help"]).done().contains("Ctrl-]"));
    assert!(
        world
            .nvvmm(&["snapshot", "--help"])
            .done()
            .contains("--once")
    );
}

#[test]
fn usage_errors_end_with_2() {
    let world = World::new();
    world.nvvmm(&[]).refused(2, "Usage:");
    world.nvvmm(&["fly"]).refused(2, "unrecognized subcommand");
    world
        .nvvmm(&["run", "--kernel", "k", "--memory", "3M"])
        .refused(2, "multiple of 2M");
    world
        .nvvmm(&["run", "--kernel", "k", "--json"])
        .refused(2, "--console none");
    world
        .nvvmm(&["run", "--kernel", "k", "--detach", "--console", "stdio"])
        .refused(2, "--detach");
    let bad_filter = world
        .command(&["ps"])
        .env("NVVMM_LOG", "a=b=c")
        .output()
        .unwrap();
    Finished::from(bad_filter).refused(2, "NVVMM_LOG");
}

#[test]
fn what_is_not_there_ends_with_3() {
    let world = World::new();
    for arguments in [
        &["pause", "ghost"][..],
        &["resume", "ghost"],
        &["stop", "ghost"],
        &["stop", "ghost", "--force"],
        &["console", "ghost"],
        &["snapshot", "ghost", "s"],
    ] {
        world
            .nvvmm(arguments)
            .refused(3, "no VM 'ghost' is running");
    }
    let none = world.path("none.pool");
    let none = none.to_str().unwrap();
    for arguments in [
        &["snapshots", "--pool", none][..],
        &["rm", "s", "--pool", none],
        &["restore", "s", "--pool", none],
        &["restore", "s", "--detach", "--pool", none],
        &["pool", "status", none],
        &["pool", "check", none],
    ] {
        world
            .nvvmm(arguments)
            .refused_with_remedy(3, none, "create one with 'nvvmm pool create");
    }
    assert!(!Path::new(none).exists());
    world
        .nvvmm(&["run", "--kernel", "/no/kernel", "--pool", none])
        .refused(3, "/no/kernel");
    world
        .nvvmm(&["run", "--kernel", "/no/kernel", "--detach"])
        .refused(3, "/no/kernel");
    assert_eq!(world.nvvmm(&["ps"]).code, 0);
}

#[test]
fn a_runtime_directory_open_to_others_ends_with_4() {
    let world = World::new();
    fs::set_permissions(world.path("run"), fs::Permissions::from_mode(0o755)).unwrap();
    world.nvvmm(&["ps"]).refused(4, "chmod 700");
}

#[test]
fn a_core_dump_holds_no_memory() {
    let world = World::new();
    let pool = world.path("a.pool");
    let pool = pool.to_str().unwrap();
    world
        .nvvmm(&["pool", "create", pool, "--size", "16M"])
        .done();
    // It waits for a stream, with the pool mapped.
    let mut child = world
        .command(&["receive", "-", "--pool", pool])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let filter = format!("/proc/{}/coredump_filter", child.id());
    let begun = Instant::now();
    loop {
        match fs::read_to_string(&filter) {
            Ok(mask) if mask.trim().chars().all(|digit| digit == '0') => break,
            // A process that cannot be dumped at all shows nothing to others.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => break,
            Ok(mask) => assert!(begun.elapsed() < world::HUNG, "{mask}"),
            Err(error) => panic!("{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_log_that_cannot_be_written_is_no_panic() {
    let world = World::new();
    let pool = world.path("p.pool");
    let pool = pool.to_str().unwrap();
    world
        .nvvmm(&["pool", "create", pool, "--size", "8M", "--overcommit"])
        .done();
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = world.command(&["snapshots", "--pool", pool]);
    let output = command
        .env("NVVMM_LOG", "trace")
        .stderr(full)
        .output()
        .unwrap();
    Finished::from(output).done();
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let world = World::new();
    let mut child = world
        .command(&["--help"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panicked"));
    let mut child = world
        .command(&["ps", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    Finished::from(child.wait_with_output().unwrap()).done();
}
