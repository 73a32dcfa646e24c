//! A Linux guest that runs `nvvmm-witness` (guest/linux).

use std::time::{Duration, Instant};

use crate::{Host, Vm, agent::sh, required};

/// Longest wait for Linux to boot: at least ten times what it takes in an emulated KVM host.
const BOOT_PATIENCE: Duration = Duration::from_secs(400);

/// Word of the kernel's command line that tells the guest's init to start no witness
/// (scripts/lib/guest-init.sh).
const WITHOUT_WITNESS: &str = "nvvmm.agent";

/// Words of the kernel's command line that depend on the host.
///
/// If the host's own TSC is not reliable, KVM tells the guest that its TSC is not reliable either.
/// This is so on an emulated host. The guest's watchdog then marks the TSC unstable now and then,
/// with and without snapshots. On such a host, a busy machine may also stop a guest for more than
/// 20 s, after which Linux reports a stuck CPU.
fn cmdline() -> &'static str {
    let clocksource = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    match std::fs::read_to_string(clocksource) {
        Ok(name) if name.trim() == "tsc" => "quiet",
        _ => "quiet tsc=nowatchdog watchdog_thresh=60",
    }
}

/// Boots Linux and waits until its witness is ready.
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

/// Boots Linux without its witness, and waits for the agent's first answer. The witness's threads
/// take much of an emulated CPU.
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

/// Does the same with more CPUs, and with options of `nvvmm run`.
pub fn boot_with_options<'h>(
    host: &'h Host,
    memory_mib: u64,
    vcpus: u32,
    options: &[&str],
) -> Vm<'h> {
    let image = "NVVMM_GUEST_INITRAMFS";
    answering(
        host,
        boot_from(image, host, memory_mib, vcpus, WITHOUT_WITNESS, options),
    )
}

/// Boots Linux with two things in it: nvvmm-agent, which is its first process, and the programs of
/// busybox. The agent may not answer yet.
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

/// Boots Linux without its witness, with one CPU and with the programs whose processes tests
/// capture (scripts/lib/guest-programs.sh). `words` are added to the kernel's command line,
/// `options` are those of `nvvmm run`.
pub fn boot_with_programs<'h>(
    host: &'h Host,
    memory_mib: u64,
    words: &str,
    options: &[&str],
) -> Vm<'h> {
    let words = format!("{WITHOUT_WITNESS} {words}");
    let image = "NVVMM_GUEST_PROGRAMS";
    answering(host, boot_from(image, host, memory_mib, 1, &words, options))
}

/// Boots Linux with a shell on its console, and waits until that answers.
pub fn boot_to_shell(host: &Host, memory_mib: u64) -> Vm<'_> {
    let image = "NVVMM_GUEST_INITRAMFS";
    let mut vm = start(image, host, memory_mib, 1, "nvvmm.shell", &[]);
    let until = Instant::now() + BOOT_PATIENCE;
    let is_ready = |line: String| line.contains("@ready");
    // What is typed before the shell is there is lost. What is typed is echoed, in two pieces.
    let pause = Duration::from_secs(2);
    loop {
        vm.console().say("echo '@'ready");
        if vm.console().line(pause).is_some_and(is_ready) {
            return vm;
        }
        assert!(Instant::now() < until, "{}", vm.console().tail());
    }
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

/// Sends a command to the witness. Fails the test unless the answer is "ok".
pub fn ask(vm: &mut Vm<'_>, command: &str) -> String {
    // A new client of the console gets the scroll-back. The tag tells this answer from older ones.
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

/// Runs all checks that a guest has of its own health.
pub fn assert_healthy(vm: &mut Vm<'_>) {
    for question in ["check", "clocks", "timers", "cpus", "kernel"] {
        ask(vm, question);
    }
}
