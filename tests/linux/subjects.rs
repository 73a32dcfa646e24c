//! The test scenarios of guest/process, in a Linux guest and through nvvmm's own commands.
//!
//! `subject` sets up a scenario and is captured while it runs. It goes on unharmed, is restarted in
//! its VM and in another one, and verifies itself each time.

use nvvmm_tests::agent::{output, sh};
use nvvmm_tests::witness::boot_with_programs;
use nvvmm_tests::{Host, Vm};

use crate::scenarios::{WITH_CHILDREN, is_known_to, is_refused};
use crate::{for_each_refusal, for_each_survivor};

macro_rules! scenarios {
    ($($name:ident: $scenario:literal,)*) => { [$($scenario),*] };
}

macro_rules! refusals {
    ($($name:ident: $scenario:literal, $place:literal, $reason:literal,)*) => {
        [$(($scenario, $place, $reason)),*]
    };
}

/// Number of images that a VM uses before a snapshot of the VM releases them
/// (docs/inside/processes.md, "Together with snapshots of the VM").
const IMAGES_AT_A_TIME: usize = 10;

/// A process that runs a scenario, in a directory of the scenario's name.
struct Subject {
    scenario: &'static str,
    pid: String,
}

impl Subject {
    fn start(host: &Host, vm: &Vm<'_>, scenario: &'static str) -> Self {
        let script = format!("subject start {scenario} /tmp/{scenario}");
        let started = sh(host, vm, &script).ok();
        print!("{}", started.stderr);
        // The only message allowed is that the guest's vector registers are not AVX's. Guests under
        // an older QEMU give it.
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

    /// Ends the scenario. The process must find its state unchanged, and pass.
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
        let tree: &[&str] = if WITH_CHILDREN.contains(&self.scenario) {
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
    let vm = boot_with_programs(&host, 256, "", &[]);
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
    // A copy of the machine has the same files.
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

/// A state that cannot be captured is refused. The message names the fd, address or thread, and the
/// process goes on.
fn refusals_name_their_cause(host: &Host, vm: &Vm<'_>) {
    for (scenario, place, reason) in for_each_refusal!(refusals) {
        let subject = Subject::start(host, vm, scenario);
        let check = ["snapshot", &vm.name, "--process", &subject.pid, "--check"];
        for refused in [host.run(&check), subject.snapshot(host, vm, &[])] {
            let refused = refused.refused(4, reason);
            assert!(
                is_refused(&refused.stderr, &subject.pid, place, reason),
                "{}",
                refused.stderr
            );
        }
        subject.finish(host, vm);
    }
    let changed = Subject::start(host, vm, "mapped-file");
    changed.snapshot(host, vm, &["--kill"]).ok();
    output(host, vm, "echo changed >/tmp/mapped-file/mapped");
    let refused = host.run(&["restore", "mapped-file", "--into", &vm.name]);
    refused.refused(4, "/tmp/mapped-file/mapped mapped, which was changed");
}
