//! The filters of system calls (seccomp(2)), one for the process and one for each kind of thread.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nvvmm::VmError;
use nvvmm::threads::ThreadKind;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::calls::{self, Call, When};
use super::violation;

/// True once the process has its filter; without it threads have none either.
static ENTERED: AtomicBool = AtomicBool::new(false);
/// Filters of the kinds that have fewer calls than the process, by their place in
/// [`ThreadKind::ALL`]. The first thread of a kind compiles its filter.
static NARROWER: [OnceLock<BpfProgram>; ThreadKind::ALL.len()] =
    [const { OnceLock::new() }; ThreadKind::ALL.len()];

/// Holds this thread, and all that it starts, to the calls of [`ThreadKind::Operations`].
///
/// # Errors
/// The kernel refuses the filter.
pub fn enter() -> Result<(), VmError> {
    let failed = |e: String| VmError::failed(format!("cannot filter system calls: {e}"));
    violation::tell_on_stderr().map_err(|e| failed(e.to_string()))?;
    // All stay: of several answers the kernel takes the strictest.
    let refused = answered(calls::REFUSED, libc::EACCES);
    let unknown = answered(calls::UNKNOWN, libc::ENOSYS);
    for program in [refused, unknown, program(ThreadKind::Operations)] {
        let program = program.map_err(failed)?;
        apply_filter(&program).map_err(|e| failed(e.to_string()))?;
    }
    ENTERED.store(true, Ordering::Release);
    Ok(())
}

/// Holds the helper to its calls.
///
/// # Errors
/// The kernel refuses the filter.
pub fn enter_helper() -> Result<(), String> {
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    let program = compile(calls::HELPER.iter(), denied, SeccompAction::Allow)?;
    apply_filter(&program).map_err(|e| e.to_string())
}

/// Holds this thread to the calls of its kind, if the process is held.
pub fn narrow(kind: ThreadKind) {
    if !ENTERED.load(Ordering::Acquire) {
        return;
    }
    let at = ThreadKind::ALL.iter().position(|other| *other == kind);
    let Some(filter) = at
        .filter(|_| kind != ThreadKind::Operations)
        .map(|at| &NARROWER[at])
    else {
        return;
    };
    let compiled = match filter.get() {
        Some(program) => Ok(program),
        None => program(kind).map(|program| filter.get_or_init(|| program)),
    };
    let held = compiled.and_then(|program| apply_filter(program).map_err(|e| e.to_string()));
    if let Err(error) = held {
        // The filter of the process holds all the same.
        tracing::warn!(%error, kind = kind.name(), "a thread has no filter of its own");
    }
}

/// Calls of a kind; any other is told and ends the process.
fn program(kind: ThreadKind) -> Result<BpfProgram, String> {
    let calls = calls::of(kind);
    let calls = calls.iter().copied().flatten();
    compile(calls, SeccompAction::Trap, SeccompAction::Allow)
}

/// Calls that fail with this error; any other is left to other filters.
fn answered(calls: &[Call], errno: i32) -> Result<BpfProgram, String> {
    let answer = SeccompAction::Errno(errno as u32);
    compile(calls.iter(), SeccompAction::Allow, answer)
}

fn compile<'a>(
    calls: impl Iterator<Item = &'a Call>,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<BpfProgram, String> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in calls {
        let conditions = conditions(call).map_err(|e| e.to_string())?;
        let of_call = rules.entry(call.number).or_default();
        for condition in conditions {
            of_call.push(SeccompRule::new(vec![condition]).map_err(|e| e.to_string())?);
        }
    }
    let filter = SeccompFilter::new(rules, otherwise, matching, TargetArch::x86_64);
    filter
        .and_then(BpfProgram::try_from)
        .map_err(|e| e.to_string())
}

/// One of these must hold; none for a call that is always allowed.
fn conditions(call: &Call) -> Result<Vec<SeccompCondition>, seccompiler::BackendError> {
    let dword = SeccompCmpArgLen::Dword;
    match call.when {
        When::Always => Ok(Vec::new()),
        When::OneOf(at, values) => values
            .iter()
            .map(|value| SeccompCondition::new(at, dword.clone(), SeccompCmpOp::Eq, *value))
            .collect(),
        When::Not(at, value) => {
            SeccompCondition::new(at, dword, SeccompCmpOp::Ne, value).map(|one| vec![one])
        }
        When::Masked(at, mask, values) => values
            .iter()
            .map(|value| {
                SeccompCondition::new(at, dword.clone(), SeccompCmpOp::MaskedEq(mask), *value)
            })
            .collect(),
        When::OwnProcess(at) => {
            let own = std::process::id().into();
            SeccompCondition::new(at, dword, SeccompCmpOp::Eq, own).map(|one| vec![one])
        }
    }
}

#[cfg(test)]
#[path = "filter_test.rs"]
mod filter_test;
