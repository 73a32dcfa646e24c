//! Captures and restarts of the guest's processes, with crate nvvmm-process. The host takes and
//! places frames; here it is told which.

pub mod capture;
mod frames;
mod protected;
pub mod reserve;
pub mod restart;
#[cfg(test)]
mod test_host;
pub mod window;

use std::sync::{Mutex, MutexGuard, PoisonError};

use nvvmm_process::Error;
use nvvmm_protocol::{FailedBecause, ToAgent};

use crate::serve::{Failure, Stream};

/// How long a message about a failure may be: there can be as many refusals as descriptors.
const MESSAGE_CHARS_MAX: usize = 8 << 10;

/// A process in the making has for a moment all that the agent has open, so nobody looks for who
/// has what meanwhile.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn one_at_a_time() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the host is told.
fn failure(error: &Error) -> Failure {
    let because = match error {
        Error::Refused(_) => FailedBecause::Refused,
        Error::Gone(_) => FailedBecause::NotFound,
        _ => FailedBecause::Failed,
    };
    let message = error.to_string().chars().take(MESSAGE_CHARS_MAX).collect();
    Failure::Said(because, message)
}

fn refused(message: impl Into<String>) -> Failure {
    Failure::Said(FailedBecause::Refused, message.into())
}

/// Waits until the host has done, or kept, what it was sent.
fn wait_until_done(stream: &mut impl Stream) -> Result<(), Failure> {
    match nvvmm_protocol::receive(stream)? {
        ToAgent::Done => Ok(()),
        ToAgent::Refused { message } => Err(Failure::Said(
            FailedBecause::Failed,
            format!("the host cannot do its part: {message}"),
        )),
        _ => Err(refused("that is no answer")),
    }
}

/// A count for the host.
fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
