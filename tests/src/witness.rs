//! A Linux guest that runs `nvvmm-witness` (guest/linux).

use std::time::{Duration, Instant};

use crate::{Host, Vm, agent::sh, required};

/// Ten times and more of what booting Linux takes inside an emulated KVM host.
const BOOT_PATIENCE: Duration = Duration::from_secs(400);

/// What the guest's init is told (scripts/lib/guest-init.sh).
const WITHOUT_WITNESS: &str = "nvvmm.agent";

/// What Linux is told. On a KVM host whose own TSC is not reliable (an emulated one above all) KVM
/// says that the guest's is not either, and a guest's watchdog marks it unstable now and then,
/// snapshots or not. Such a host on a busy machine also lets a guest stand still for longer than
/// the 20 s after which Linux calls it stuck.
fn cmdline() -> &'static str {
    let clocksource = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    match std::fs::read_to_string(clocksource) {
        Ok(name) if name.trim() == "tsc" => "quiet",
        _ => "quiet tsc=nowatchdog watchdog_thresh=60",
    }
}

/// Boots Linux to its witness.
pub fn boot<'h>(host: &'h Host, memory_mib: u64, vcpus: u32, options: &[&str]) -> Vm<'h> {
    boot_from(
        "NVVMM_GUEST_INITRAMFS",
        host,
        memory_mib,
        vcpus,
        "",
        options,
    )
}

/// Boots Linux without its witness, whose threads take much of an emulated CPU, to the agent's
/// first answer.
pub fn boot_without_witness<'h>(host: &'h Host, memory_mib: u64) -> Vm<'h> {
    answering(
        host,
        boot_from(
            "NVVMM_GUEST_INITRAMFS",
            host,
            memory_mib,
            1,
            WITHOUT_WITNESS,
            &[],
        ),
    )
}

/// Boots Linux with nothing in it but nvvmm-agent, which is its first process, and the programs of
/// busybox. It may not answer yet.
pub fn boot_to_agent(host: &Host, memory_mib: u64) -> Vm<'_> {
    start(
        "NVVMM_GUEST_INITRAMFS",
        host,
        memory_mib,
        1,
        "rdinit=/bin/nvvmm-agent",
        &[],
    )
}

/// Boots Linux without its witness, with one CPU and with programs in it whose processes tests
/// capture (scripts/lib/guest-programs.sh). `words` are more for the kernel's command line.
pub fn boot_with_programs<'h>(host: &'h Host, memory_mib: u64, words: &str) -> Vm<'h> {
    let words = format!("{WITHOUT_WITNESS} {words}");
    answering(
        host,
        boot_from("NVVMM_GUEST_PROGRAMS", host, memory_mib, 1, &words, &[]),
    )
}

fn answering<'h>(host: &'h Host, vm: Vm<'h>) -> Vm<'h> {
    let until = Instant::now() + BOOT_PATIENCE;
    while sh(host, &vm, "true").code != 0 {
        assert!(Instant::now() < until, "no agent answers in {}", vm.name);
    }
    vm
}

fn boot_from<'h>(
    image: &str,
    host: &'h Host,
    memory_mib: u64,
    vcpus: u32,
    words: &str,
    options: &[&str],
) -> Vm<'h> {
    let mut vm = start(image, host, memory_mib, vcpus, words, options);
    let ready = vm.console().expect("@ ready", BOOT_PATIENCE);
    assert!(ready.contains(&format!("cpus={vcpus}")), "{ready}");
    vm
}

fn start<'h>(
    image: &str,
    host: &'h Host,
    memory_mib: u64,
    vcpus: u32,
    words: &str,
    options: &[&str],
) -> Vm<'h> {
    let cmdline = format!("{} {words}", cmdline());
    let kernel = required("NVVMM_GUEST_KERNEL");
    let initramfs = required(image);
    let (kernel, initramfs) = (
        kernel.to_str().expect("the path is text"),
        initramfs.to_str().expect("the path is text"),
    );
    let mut arguments = vec![
        "--kernel",
        kernel,
        "--initramfs",
        initramfs,
        "--cmdline",
        &cmdline,
    ];
    arguments.extend_from_slice(options);
    host.boot(&arguments, memory_mib, vcpus)
}

/// Asks the witness, and fails the test unless its answer is "ok".
pub fn ask(vm: &mut Vm<'_>, command: &str) -> String {
    // The tag tells this answer from those in the scroll-back that a new client of the console is
    // sent.
    let tag = format!(
        "#{}",
        std::time::UNIX_EPOCH
            .elapsed()
            .expect("the clock is after 1970")
            .as_nanos()
    );
    vm.console().say(&format!("{tag} {command}"));
    let answer = vm.expect(&tag);
    assert!(
        answer.contains(&format!(" ok {tag}")),
        "{}: {command}: {answer}; the last lines were:\n{}",
        vm.name.clone(),
        vm.console().tail()
    );
    answer
}

/// The number behind `key=` in an answer.
pub fn number(answer: &str, key: &str) -> u64 {
    let words = answer
        .split_whitespace()
        .filter_map(|word| word.split_once('='));
    let found = words.into_iter().find(|(name, _)| *name == key);
    let (_, value) = found.unwrap_or_else(|| panic!("no {key}= in {answer}"));
    value
        .parse()
        .unwrap_or_else(|e| panic!("{key}={value}: {e}"))
}

/// Everything a guest can say of its own health.
pub fn assert_healthy(vm: &mut Vm<'_>) {
    for question in ["check", "clocks", "timers", "cpus", "kernel"] {
        ask(vm, question);
    }
}
