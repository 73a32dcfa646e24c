//! Commands that a test runs in a guest through its agent.

use std::time::{Duration, Instant};

use crate::{Host, Outcome, Vm};

/// Longest wait for a guest: at least ten times what a step takes in a guest of an emulated KVM
/// host.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs a shell script in the guest.
pub fn sh(host: &Host, vm: &Vm<'_>, script: &str) -> Outcome {
    host.run(&["exec", &vm.name, "--", "sh", "-c", script])
}

/// Runs a shell script, which must succeed. Returns its output.
pub fn output(host: &Host, vm: &Vm<'_>, script: &str) -> String {
    sh(host, vm, script).ok().stdout
}

/// Repeats a script until it succeeds, and returns the output of that run. The guest itself repeats
/// it for a while before the host asks again: each request takes much time of an emulated
/// processor.
pub fn wait_for(host: &Host, vm: &Vm<'_>, script: &str) -> String {
    let until = Instant::now() + PATIENCE;
    let often = format!(
        "for i in $(seq 20); do
            ! found=$({script}) || {{ [ -z \"$found\" ] || echo \"$found\"; exit 0; }}
            sleep 0.3
        done
        exit 1"
    );
    loop {
        let outcome = sh(host, vm, &often);
        if outcome.code == 0 {
            return outcome.stdout;
        }
        assert!(
            Instant::now() < until,
            "never in {}: {script}: {}",
            vm.name,
            outcome.stderr
        );
    }
}
