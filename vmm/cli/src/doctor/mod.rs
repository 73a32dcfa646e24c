//! `nvvmm doctor`: what this host lacks for this user, and the command that mends it.

mod checks;
mod confinement;
mod host;
mod memory;

use std::fs::File;
use std::io::Read;
use std::process::ExitCode;

use nvvmm::{ErrorKind, VmError};

use self::checks::Virtualisation;
use self::host::Host;
use crate::args::PoolOption;
use crate::error::EXIT_HOST_LACKS;
use crate::json::doctor::{Check, Doctor};
use crate::output::{self, Column};

/// Bytes of /proc/cpuinfo in which the flags of the first processor are.
const CPUINFO_BYTES: u64 = 16 << 10;

/// Result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    /// VMs run, but something is slower, smaller or less safe than it could be.
    Warn,
    /// No VM runs.
    Missing,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Missing => "missing",
        }
    }
}

/// A check and what it found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    check: &'static str,
    state: State,
    /// For users: one sentence without a full stop.
    found: String,
    /// The remedy, unless all is well.
    remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self {
            check,
            state: State::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn bad(
        check: &'static str,
        state: State,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            check,
            state,
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// A failure as the start of a VM tells it.
    fn failed(check: &'static str, state: State, error: &VmError) -> Self {
        Self {
            check,
            state,
            found: error.message.clone(),
            remedy: error.remedy.clone(),
        }
    }
}

/// The report.
#[derive(Debug)]
struct Report {
    /// VMs can run on this host as this user.
    vms_can_run: bool,
    findings: Vec<Finding>,
}

impl Report {
    fn of(host: &Host) -> Self {
        let findings: Vec<Finding> =
            [checks::all(host), memory::all(host), confinement::all(host)].concat();
        Self {
            vms_can_run: findings.iter().all(|found| found.state != State::Missing),
            findings,
        }
    }

    fn json(&self) -> Doctor {
        let check = |finding: &Finding| Check {
            check: finding.check.to_owned(),
            state: finding.state.name().to_owned(),
            found: finding.found.clone(),
            remedy: finding.remedy.clone(),
        };
        Doctor {
            vms_can_run: self.vms_can_run,
            checks: self.findings.iter().map(check).collect(),
        }
    }

    fn text(&self) -> String {
        let columns = [
            Column::Text("CHECK"),
            Column::Text("STATE"),
            Column::Text("FOUND"),
        ];
        let row = |finding: &Finding| {
            vec![
                finding.check.to_owned(),
                finding.state.name().to_owned(),
                finding.found.clone(),
            ]
        };
        let mut text = output::table(&columns, &self.findings.iter().map(row).collect::<Vec<_>>());
        text.push('\n');
        for finding in &self.findings {
            if let Some(remedy) = &finding.remedy {
                text.push_str(&format!("{}\n  try: {remedy}\n", finding.check));
            }
        }
        text.push_str(match self.vms_can_run {
            true => "VMs can run on this host\n",
            false => "VMs cannot run on this host\n",
        });
        text
    }
}

/// Things that keep VMs from running here, each with the command that mends it.
pub fn missing(pool: &PoolOption) -> Vec<VmError> {
    let findings = Report::of(&Host::this(pool)).findings.into_iter();
    let missing = findings.filter(|finding| finding.state == State::Missing);
    let as_error = |finding: Finding| VmError {
        kind: ErrorKind::HostLacks,
        message: finding.found,
        remedy: finding.remedy,
    };
    missing.map(as_error).collect()
}

/// True when this host's KVM works without VMX and SVM, and so does not boot Linux as a rule.
pub fn is_software_kvm() -> bool {
    // The first processor is enough; a host may have hundreds.
    let mut start = Vec::new();
    let read = File::open("/proc/cpuinfo")
        .and_then(|file| file.take(CPUINFO_BYTES).read_to_end(&mut start));
    let (kind, _) = Virtualisation::of(&String::from_utf8_lossy(&start));
    // Without a known processor nothing is said of its KVM.
    read.is_ok() && !start.is_empty() && kind == Virtualisation::None
}

/// `nvvmm doctor`. Exit code 7 when VMs cannot run.
pub fn run(pool: &PoolOption, json: bool) -> Result<ExitCode, VmError> {
    let report = Report::of(&Host::this(pool));
    if json {
        output::print_json(&report.json())?;
    } else {
        output::print(&report.text())?;
    }
    match report.vms_can_run {
        true => Ok(ExitCode::SUCCESS),
        false => Ok(EXIT_HOST_LACKS.into()),
    }
}

#[cfg(test)]
#[path = "doctor_test.rs"]
mod doctor_test;
