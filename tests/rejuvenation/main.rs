//! Software rejuvenation: VMs are saved, the KVM host reboots, and the VMs are restored from the
//! pool with their memory intact.
//!
//! This runs once in each of two boots of the nested harness. scripts/test.sh starts it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use nvvmm_test_profile::sized;
use nvvmm_tests::{
    Host, Outcome, Vm, required,
    witness::{self, assert_healthy, number},
};
use serde::{Deserialize, Serialize};

/// Medium on which Linux is tested, too, in the nightly run: only one, as Linux boots slowly under
/// emulation.
const LINUX_ON: &str = "fsdax-ext4";

/// State of the VMs before the reboot, kept outside of the nested host.
#[derive(Serialize, Deserialize)]
struct Before {
    boot_id: String,
    churning: String,
    paused: String,
    paused_digest: String,
    linux: Option<Linux>,
}

/// State of the Linux guest before the reboot.
#[derive(Serialize, Deserialize)]
struct Linux {
    name: String,
    count: u64,
    clocks: String,
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap()
}

/// Path of a file that survives the reboot on any medium.
fn results(name: &str, host: &Host) -> PathBuf {
    required("NVVMM_RESULTS").join(format!("rejuvenation-{}-{name}", host.medium().name()))
}

/// Runs `scripts/rejuvenate.sh` as a user does.
fn rejuvenate(host: &Host, order: &str) -> Outcome {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/rejuvenate.sh");
    let mut command = Command::new(script);
    command
        .arg(order)
        .arg("--record")
        .arg(results("record.json", host))
        .env("NVVMM_RUNTIME_DIR", host.runtime())
        .env("NVVMM_BIN", required("NVVMM_BIN"));
    let outcome = Outcome::of(command).ok();
    println!(
        "rejuvenate.sh {order}:\n{}{}",
        outcome.stdout, outcome.stderr
    );
    outcome
}

#[test]
fn vms_come_back_with_their_memory_after_the_host_rebooted() {
    let host = Host::lasting("rejuvenation");
    match std::env::var("NVVMM_NESTED_BOOT").as_deref() {
        Ok("1") => before_the_reboot(&host),
        Ok("2") => after_the_reboot(&host),
        other => {
            panic!("NVVMM_NESTED_BOOT is {other:?}: run this by scripts/test.sh --tier restarts")
        }
    }
}

fn before_the_reboot(host: &Host) {
    // A failed run may have left it.
    let _ = std::fs::remove_file(results("record.json", host));
    host.run(&["pool", "create", host.pool_str(), "--size", "384M"])
        .ok();
    let with_linux = sized(false, host.medium().name() == LINUX_ON);
    let linux = with_linux.then(|| busy_linux(host));
    let mut paused = host.boot_bare_metal(32, 1);
    paused.ask("fill 16 8");
    let paused_digest = paused.ask("digest all");
    paused.pause();
    // This VM is the last, as it keeps the host's processors busy.
    let mut churning = host.boot_bare_metal(32, 2);
    churning.ask("fill 16 4");
    churning.ask("churn on 9 rand");
    let before = Before {
        boot_id: boot_id(),
        churning: churning.name.clone(),
        paused: paused.name.clone(),
        paused_digest,
        linux: linux.map(|mut vm| Linux {
            count: number(&witness::ask(&mut vm, "count"), "value"),
            clocks: witness::ask(&mut vm, "clocks"),
            name: vm.name.clone(),
        }),
    };
    rejuvenate(host, "save");
    assert_eq!(
        host.json(&["ps"]).as_array().unwrap().len(),
        0,
        "every VM is out"
    );
    host.assert_pool_clean();
    std::fs::write(
        results("before.json", host),
        serde_json::to_vec(&before).unwrap(),
    )
    .unwrap();
}

/// Boots Linux and has it write memory and a disk.
fn busy_linux(host: &Host) -> Vm<'_> {
    let disk = host
        .medium()
        .file_beside_pools("disk.img")
        .expect("a directory has room beside the pool");
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(&disk)
        .arg("24M")
        .status();
    assert!(made.unwrap().success());
    let mut linux = witness::boot(host, 160, 1, &["--disk", disk.to_str().unwrap()]);
    for command in [
        "fill 16 5",
        "churn on",
        "disk mount",
        "disk write 4 64 3",
        "disk churn on",
    ] {
        witness::ask(&mut linux, command);
    }
    // Problems that it reports after the reboot were not there before.
    assert_healthy(&mut linux);
    linux
}

fn after_the_reboot(host: &Host) {
    let before = std::fs::read(results("before.json", host)).unwrap();
    let before: Before = serde_json::from_slice(&before).unwrap();
    assert_ne!(boot_id(), before.boot_id, "the host was rebooted");
    host.assert_pool_clean();
    rejuvenate(host, "back");
    assert_eq!(
        host.json(&["snapshots"]).as_array().unwrap().len(),
        0,
        "each VM consumed its snapshot"
    );

    let mut churning = Vm::attach(host, before.churning);
    let answer = churning.ask("check");
    assert!(answer.contains("check ok"), "{answer}");
    assert!(
        churning.ask("stat").contains("churn=on"),
        "it goes on with what it did"
    );
    churning.stop();

    let mut paused = Vm::attach(host, before.paused);
    assert_eq!(paused.status()["state"], "paused");
    paused.resume();
    assert_eq!(paused.ask("digest all"), before.paused_digest);
    paused.stop();

    if let Some(linux) = before.linux {
        assert_linux_goes_on(host, linux);
    }
    host.assert_pool_clean();
}

fn assert_linux_goes_on(host: &Host, before: Linux) {
    let mut linux = Vm::attach(host, before.name);
    assert_healthy(&mut linux);
    let count = number(&witness::ask(&mut linux, "count"), "value");
    assert!(count >= before.count, "{count} after {}", before.count);
    let clocks = witness::ask(&mut linux, "clocks");
    for clock in ["realtime_ns", "monotonic_ns", "boottime_ns"] {
        assert!(
            number(&clocks, clock) >= number(&before.clocks, clock),
            "{clocks} after {}",
            before.clocks
        );
    }
    for command in ["disk churn off", "disk verify", "disk umount"] {
        witness::ask(&mut linux, command);
    }
    linux.stop();
}
