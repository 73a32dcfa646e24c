//! Says if a process could be captured. Nothing is stopped.

use nvvmm_process::CaptureOptions;
use nvvmm_protocol::{Check, Checked, FromAgent, send};

use super::answers::{count, failure, lines_of};
use super::exclusive::one_at_a_time;
use super::protected;
use crate::stream::{Failure, Stream};

/// Checks what the host asks for.
pub fn run(request: &Check, stream: &mut impl Stream) -> Result<(), Failure> {
    protected::refuse(request.pid)?;
    let _alone = one_at_a_time();
    let options = CaptureOptions {
        tree: request.tree,
        external_stdio: request.external_stdio,
        frees_numbers: request.kill,
    };
    let checked = nvvmm_process::check(request.pid, options).map_err(|error| failure(&error))?;
    let (processes, threads) = checked.counts();
    let answer = Checked {
        processes: count(processes),
        threads: count(threads),
        remarks: lines_of(&checked.remarks()),
    };
    Ok(send(stream, &FromAgent::Checked(answer))?)
}
