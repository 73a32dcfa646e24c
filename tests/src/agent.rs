//! What the agent in a guest does for a test.

use std::time::{Duration, Instant};

use crate::{Host, Outcome, Vm};

/// Ten times and more of what anything takes in a guest inside an emulated KVM host.
const PATIENCE: Duration = Duration::from_secs(300);

/// Runs a shell's script in the guest.
pub fn sh(host: &Host, vm: &Vm<'_>, script: &str) -> Outcome {
    host.run(&["exec", &vm.name, "--", "sh", "-c", script])
}

/// The same, which must succeed; what it put out.
pub fn output(host: &Host, vm: &Vm<'_>, script: &str) -> String {
    sh(host, vm, script).ok().stdout
}

/// Repeats a script until it succeeds; what it put out then. The guest itself does, some times
/// before it is asked again: what asks takes much of the time of an emulated processor.
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
