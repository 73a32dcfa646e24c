//! `nvvmm doctor`: what this host lacks for this user, and the command that mends it.

mod checks;
mod confinement;
mod host;
mod memory;

use std::process::ExitCode;

use nvvmm::VmError;

use self::host::Host;
use crate::args::PoolOption;
use crate::error::EXIT_HOST_LACKS;
use crate::json::doctor::{Check, Doctor};
use crate::output::{self, Column};

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
