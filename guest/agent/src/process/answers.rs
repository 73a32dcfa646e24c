//! Answers to the host, and answers of the host, in a capture or restart.

use nvvmm_process::{Error, Refusal};
use nvvmm_protocol::{FailedBecause, ToAgent};

use crate::stream::{Failure, Stream};

/// Length limit of a message about a failure: there can be as many refusals as descriptors.
const MESSAGE_BYTES_MAX: usize = 8 << 10;

/// The failure that the host is told of.
pub fn failure(error: &Error) -> Failure {
    let because = match error {
        Error::Refused(_) | Error::OtherArchitecture(_) => FailedBecause::Refused,
        Error::Gone(_) => FailedBecause::NotFound,
        _ => FailedBecause::Failed,
    };
    Failure::Said(because, shortened(&error.to_string()))
}

/// A line for each, as many as a message may have.
pub fn lines_of(remarks: &[Refusal]) -> String {
    let lines: Vec<String> = remarks
        .iter()
        .map(|remark| remark.to_string().replace('\n', "\\n"))
        .collect();
    shortened(&lines.join("\n"))
}

/// As many lines as a message may have, and how many more there were.
fn shortened(message: &str) -> String {
    let mut kept = String::new();
    let mut lines = message.lines();
    while let Some(line) = lines.next() {
        if kept.len() + line.len() > MESSAGE_BYTES_MAX {
            let more = 1 + lines.count();
            kept.push_str(&format!("and {more} more"));
            return kept;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept.truncate(kept.trim_end().len());
    kept
}

/// A refusal that the host is told of.
pub fn refused(message: impl Into<String>) -> Failure {
    Failure::Said(FailedBecause::Refused, message.into())
}

/// Waits until the host has done, or kept, what it was sent.
pub fn wait_until_done(stream: &mut impl Stream) -> Result<(), Failure> {
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
pub fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "answers_test.rs"]
mod answers_test;
