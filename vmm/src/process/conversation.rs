//! Conversation with the guest's agent, with limits on how long the VM waits.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nvvmm_protocol::{
    Capture, Captured, DATA_BYTES_MAX, FailedBecause, FrameError, FrameRun, Frames, FromAgent,
    Restart, Restarted, ToAgent, receive, send,
};

use super::ProcessError;

/// Time for which an agent may be silent, and time that it may take in all.
const SILENCE_MAX: Duration = Duration::from_secs(120);
const CONVERSATION_MAX: Duration = Duration::from_secs(1800);

/// Why a conversation with an agent did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The stream broke, or the agent sent bytes that are no message.
    #[error("the stream to the guest's agent: {0}")]
    Stream(#[from] FrameError),
    /// The agent is silent.
    #[error("the guest's agent has not answered in time")]
    Silent,
    /// The agent sent a message that is not expected here.
    #[error("the guest's agent answers out of turn")]
    OutOfTurn,
    /// The agent failed, and sent the reason.
    #[error("{message}")]
    Said {
        /// Kind of the failure.
        because: FailedBecause,
        /// The guest's own words.
        message: String,
    },
    /// The VM could not do its part.
    #[error("{0}")]
    Ours(#[from] ProcessError),
}

/// The VM's part in a capture.
pub trait CaptureSteps {
    /// Shares frames ahead that are likely to be taken.
    fn give_ahead(&mut self, frames: &[Frames]) -> Result<(), ProcessError>;

    /// Takes frames into the image.
    fn take(&mut self, runs: &[FrameRun]) -> Result<(), ProcessError>;

    /// Commits the image.
    fn commit(&mut self, image: Vec<u8>, pages: u64) -> Result<(), ProcessError>;
}

/// The VM's part in a restart.
pub trait PlaceSteps {
    /// Puts pages of the image into frames.
    fn place(&mut self, runs: &[FrameRun]) -> Result<(), ProcessError>;
}

/// Asks the agent to capture a process, with an image of at most `image_bytes_max` besides pages.
///
/// # Errors
/// An error may come after [`CaptureSteps::commit`]. The image exists then, but to resume or to
/// kill the process may have failed.
pub fn capture(
    stream: &UnixStream,
    request: Capture,
    image_bytes_max: usize,
    steps: &mut dyn CaptureSteps,
) -> Result<Captured, AgentError> {
    let agent = Agent::new(stream);
    agent.say(&ToAgent::Capture(request))?;
    let mut committed = false;
    loop {
        match agent.hear()? {
            FromAgent::Ahead(frames) if !committed => agent.answer(steps.give_ahead(&frames))?,
            FromAgent::Frames(runs) if !committed => agent.answer(steps.take(&runs))?,
            FromAgent::Image { bytes, pages } if !committed => {
                let image = agent.hear_image(bytes, image_bytes_max)?;
                agent.answer(steps.commit(image, pages))?;
                committed = true;
            }
            FromAgent::Captured(captured) if committed => return Ok(captured),
            other => return Err(failure(other)),
        }
    }
}

/// Asks the agent to restart a process from `image`.
pub fn restart(
    stream: &UnixStream,
    request: Restart,
    image: &[u8],
    steps: &mut dyn PlaceSteps,
) -> Result<Restarted, AgentError> {
    let agent = Agent::new(stream);
    agent.say(&ToAgent::Restart(request))?;
    for part in image.chunks(DATA_BYTES_MAX) {
        agent.say(&ToAgent::Data(part.to_vec()))?;
    }
    agent.say(&ToAgent::End)?;
    loop {
        match agent.hear()? {
            FromAgent::Frames(runs) => agent.answer(steps.place(&runs))?,
            FromAgent::Restarted(restarted) => return Ok(restarted),
            other => return Err(failure(other)),
        }
    }
}

fn failure(said: FromAgent) -> AgentError {
    match said {
        FromAgent::Failed { because, message } => AgentError::Said { because, message },
        _ => AgentError::OutOfTurn,
    }
}

struct Agent<'a> {
    stream: &'a UnixStream,
    until: Instant,
}

impl<'a> Agent<'a> {
    fn new(stream: &'a UnixStream) -> Self {
        Self {
            stream,
            until: Instant::now() + CONVERSATION_MAX,
        }
    }

    fn say(&self, message: &ToAgent) -> Result<(), AgentError> {
        self.stream
            .set_write_timeout(Some(SILENCE_MAX))
            .map_err(FrameError::from)?;
        send(self.stream, message).map_err(silent_or)
    }

    fn hear(&self) -> Result<FromAgent, AgentError> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(AgentError::Silent);
        }
        let patience = left.min(SILENCE_MAX);
        self.stream
            .set_read_timeout(Some(patience))
            .map_err(FrameError::from)?;
        receive(self.stream).map_err(silent_or)
    }

    /// Tells the agent the result of its request. After a failure the agent undoes its part and
    /// answers: the processes go on then, or are gone.
    fn answer(&self, outcome: Result<(), ProcessError>) -> Result<(), AgentError> {
        let Err(error) = outcome else {
            return self.say(&ToAgent::Done);
        };
        let message = error.to_string();
        if self.say(&ToAgent::Refused { message }).is_ok() {
            let _ = self.hear();
        }
        Err(error.into())
    }

    /// Receives the bytes that follow `Image`.
    fn hear_image(&self, bytes: u64, bytes_max: usize) -> Result<Vec<u8>, AgentError> {
        if bytes > bytes_max as u64 {
            let what = format!("{bytes} bytes of state, {bytes_max} is the limit");
            // The agent sends them before it listens, so this gets no answer.
            return Err(ProcessError::Invalid(what).into());
        }
        let mut image = Vec::new();
        loop {
            match self.hear()? {
                FromAgent::Data(part) if image.len() + part.len() <= bytes as usize => {
                    image.extend(part)
                }
                FromAgent::End if image.len() as u64 == bytes => return Ok(image),
                other => return Err(failure(other)),
            }
        }
    }
}

impl Drop for Agent<'_> {
    /// The command that gave the stream has it still, and may be attached to a process that is
    /// silent for longer: limits are the socket's, not a descriptor's.
    fn drop(&mut self) {
        let _ = self.stream.set_read_timeout(None);
        let _ = self.stream.set_write_timeout(None);
    }
}

fn silent_or(error: FrameError) -> AgentError {
    match error {
        FrameError::Io(source)
            if matches!(
                source.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            ) =>
        {
            AgentError::Silent
        }
        other => other.into(),
    }
}
