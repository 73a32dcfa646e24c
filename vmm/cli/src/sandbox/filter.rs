//! The filters of system calls (seccomp(2)), one for the process and one for each kind of thread.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nvvmm::VmError;
use nvvmm::threads::ThreadKind;
use seccompiler::{BpfProgram, apply_filter};

use super::calls;
use super::program::{Answer, Rules};
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
    // It stays: of several answers the kernel takes the strictest.
    apply_filter(&process_rules().program()).map_err(|e| failed(e.to_string()))?;
    ENTERED.store(true, Ordering::Release);
    Ok(())
}

/// Holds the helper to its calls.
///
/// # Errors
/// The kernel refuses the filter.
pub fn enter_helper() -> Result<(), String> {
    let denied = Answer::error(libc::EPERM);
    let mut rules = Rules::otherwise(denied);
    rules.add(calls::HELPER, [Answer::ALLOW, denied]);
    apply_filter(&rules.program()).map_err(|e| e.to_string())
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
    let program = filter.get_or_init(|| rules(kind).program());
    if let Err(error) = apply_filter(program) {
        // The filter of the process holds all the same.
        tracing::warn!(%error, kind = kind.name(), "a thread has no filter of its own");
    }
}

/// Rules of the process: those of [`ThreadKind::Operations`], but calls that libraries try are
/// answered with an error.
pub(super) fn process_rules() -> Rules {
    let mut rules = rules(ThreadKind::Operations);
    let refused = Answer::error(libc::EACCES);
    let unknown = Answer::error(libc::ENOSYS);
    rules.add(calls::REFUSED, [refused, Answer::ALLOW]);
    rules.add(calls::UNKNOWN, [unknown, Answer::ALLOW]);
    rules
}

/// Calls of a kind; any other is told and ends the process.
fn rules(kind: ThreadKind) -> Rules {
    let mut rules = Rules::otherwise(Answer::TRAP);
    let calls = calls::of(kind);
    let calls = calls.iter().copied().flatten();
    rules.add(calls, [Answer::ALLOW, Answer::TRAP]);
    rules
}

#[cfg(test)]
#[path = "filter_test.rs"]
mod filter_test;
