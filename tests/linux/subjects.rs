//! The scenarios that guest/process is tested with, in a Linux guest, by the commands that users
//! have. `subject` sets one up, is captured while it runs, goes on unharmed, is restarted in its VM
//! and in another, and verifies itself each time.

use nvvmm_tests::agent::{output, sh};
use nvvmm_tests::witness::boot_with_programs;
use nvvmm_tests::{Host, Vm};

use crate::scenarios::{WITH_CHILDREN, is_known_to, is_refused};
use crate::{for_each_refusal, for_each_survivor};

macro_rules! scenarios {
    ($($name:ident: $scenario:literal,)*) => { [$($scenario),*] };
}

macro_rules! refusals {
    ($($name:ident: $scenario:literal, $place:literal, $reason:literal,)*) => { [$(($scenario, $place, $reason)),*] };
}

/// How many images a VM uses before a snapshot of the VM lets go of them (docs/inside/processes.md,
/// "Together with snapshots of the VM").
const IMAGES_AT_A_TIME: usize = 10;

/// A process that runs a scenario, in a directory of that name.
struct Subject {
    scenario: &'static str,
    pid: String,
}

impl Subject {
    fn start(host: &Host, vm: &Vm<'_>, scenario: &'static str) -> Self {
        let script = format!("subject start {scenario} /tmp/{scenario}");
        let started = sh(host, vm, &script).ok();
        print!("{}", started.stderr);
        // All that it may say is that its vector registers are not AVX's, in guests under an older
        // QEMU.
        let may_lack_avx = std::env::var("NVVMM_NESTED_QEMU").is_ok_and(|qemu| qemu == "installed");
        assert!(
            may_lack_avx || started.stderr.is_empty(),
            "{}",
            started.stderr
        );
        Self {
            scenario,
            pid: started.stdout.trim().to_owned(),
        }
    }

    /// It must find all as it was, and pass.
    fn finish(&self, host: &Host, vm: &Vm<'_>) {
        let Self { scenario, pid } = self;
        let finished = sh(host, vm, &format!("subject finish {pid} /tmp/{scenario}"));
        assert_eq!(
            finished.code, 0,
            "{scenario} in {}: {}",
            vm.name, finished.stderr
        );
    }

    fn snapshot(&self, host: &Host, vm: &Vm<'_>, options: &[&str]) -> nvvmm_tests::Outcome {
        let tree: &[&str] = if self.scenario == WITH_CHILDREN {
            &["--tree"]
        } else {
            &[]
        };
        let arguments = ["snapshot", &vm.name, self.scenario, "--process", &self.pid];
        host.run(&[&arguments[..], tree, options].concat())
    }

    fn restart(&self, host: &Host, vm: &Vm<'_>) {
        let restarted = host.run(&["restore", self.scenario, "--into", &vm.name]);
        assert_eq!(restarted.code, 0, "{}: {}", self.scenario, restarted.stderr);
        self.finish(host, vm);
    }
}

#[test]
fn every_scenario_survives_in_its_vm_and_in_another() {
    let host = Host::new(1536);
    let vm = boot_with_programs(&host, 256, "");
    let release = output(&host, &vm, "uname -r");
    let scenarios = for_each_survivor!(scenarios);
    let (known, unknown): (Vec<_>, Vec<_>) =
        (scenarios.into_iter()).partition(|name| is_known_to(&release, name));
    for scenario in unknown {
        println!(
            "EXPECTED to fail: {scenario}, of which Linux {} knows nothing",
            release.trim()
        );
        let failed = sh(
            &host,
            &vm,
            &format!("subject start {scenario} /tmp/{scenario}"),
        );
        assert!(
            failed.code != 0 && failed.stderr.contains("Invalid argument"),
            "{failed:?}"
        );
    }

    let mut subjects = Vec::new();
    for (number, batch) in known.chunks(IMAGES_AT_A_TIME).enumerate() {
        for scenario in batch {
            let subject = Subject::start(&host, &vm, scenario);
            subject.snapshot(&host, &vm, &[]).ok();
            subject.finish(&host, &vm);
            subject.restart(&host, &vm);
            subjects.push(subject);
        }
        vm.snapshot(&format!("vm{number}"));
    }
    // The same files, but another machine.
    let copy = host.restore(
        &format!("vm{}", known.len().div_ceil(IMAGES_AT_A_TIME) - 1),
        &[],
    );
    vm.stop();
    for (number, batch) in subjects.chunks(IMAGES_AT_A_TIME).enumerate() {
        batch
            .iter()
            .for_each(|subject| subject.restart(&host, &copy));
        copy.snapshot(&format!("copy{number}"));
    }
    refusals_name_their_cause(&host, &copy);
    copy.stop();
    host.assert_pool_clean();
}

/// What cannot be held is refused by fd, address or thread, and goes on.
fn refusals_name_their_cause(host: &Host, vm: &Vm<'_>) {
    for (scenario, place, reason) in for_each_refusal!(refusals) {
        let subject = Subject::start(host, vm, scenario);
        let refused = subject.snapshot(host, vm, &[]).refused(4, reason);
        assert!(
            is_refused(&refused.stderr, &subject.pid, place, reason),
            "{}",
            refused.stderr
        );
        subject.finish(host, vm);
    }
    let changed = Subject::start(host, vm, "mapped-file");
    changed.snapshot(host, vm, &["--kill"]).ok();
    output(host, vm, "echo changed >/tmp/mapped-file/mapped");
    let refused = host.run(&["restore", "mapped-file", "--into", &vm.name]);
    refused.refused(4, "/tmp/mapped-file/mapped mapped, which was changed");
}
