//! Commands for tests. Release builds lack them, and neither help nor completions show them.

use std::ffi::OsString;
use std::process::ExitCode;

use nvvmm::VmError;
use nvvmm::control::RuntimeDir;

use super::vm_commands::connect;
use super::{error, output};

/// Runs `nvvmm audit VM`, if that is what the process was started with: compares KVM's dirty log
/// since the last snapshot with the copy-on-write engine. The VM must have been started with
/// `NVVMM_TEST_DIRTY_LOG` in its environment. The output is JSON.
pub fn run_if_asked(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if arguments.next()? != "audit" {
        return None;
    }
    let vm = arguments.next()?;
    Some(match audit(&vm.to_string_lossy()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error::print(&error);
            error::exit_code(error.kind).into()
        }
    })
}

fn audit(vm: &str) -> Result<(), VmError> {
    output::print_json(&connect(&RuntimeDir::of_user()?.find(vm)?)?.audit()?)
}
