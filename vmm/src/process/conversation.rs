//! What is said to the agent, and for how long it is waited for.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nvvmm_protocol::{
    Capture, Captured, DATA_BYTES_MAX, FailedBecause, FrameError, FrameRun, Frames, FromAgent,
    Restart, Restarted, ToAgent, receive, send,
};

use super::ProcessError;

/// How long an agent may be silent, and how long it may take for all.
const SILENCE_MAX: Duration = Duration::from_secs(120);
const CONVERSATION_MAX: Duration = Duration::from_secs(1800);

/// Why a conversation with an agent did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The stream broke, or the agent says what no agent says.
    #[error("the stream to the guest's agent: {0}")]
    Stream(#[from] FrameError),
    /// It is silent.
    #[error("the guest's agent does not go on")]
    Silent,
    /// It says something that does not belong here.
    #[error("the guest's agent answers out of turn")]
    OutOfTurn,
    /// It could not, and says why.
    #[error("{}", .message.escape_debug())]
    Said {
        /// What sort of failure it is.
        because: FailedBecause,
        /// In words; they are the guest's.
        message: String,
    },
    /// The VM could not do its part.
    #[error("{0}")]
    Ours(#[from] ProcessError),
}

/// What a capture has the VM do.
pub trait CaptureSteps {
    /// Does what can be done ahead about frames that are likely to be taken.
    fn give_ahead(&mut self, frames: &[Frames]) -> Result<(), ProcessError>;

    /// Takes frames into the image.
    fn take(&mut self, runs: &[FrameRun]) -> Result<(), ProcessError>;

    /// Commits the image.
    fn commit(&mut self, image: Vec<u8>, pages: u64) -> Result<(), ProcessError>;
}

/// What a restart has the VM do.
pub trait PlaceSteps {
    /// Puts pages of the image into frames.
    fn place(&mut self, runs: &[FrameRun]) -> Result<(), ProcessError>;
}

/// Has the agent capture a process, with an image of at most `image_bytes_max` besides pages. An
/// error may come after [`CaptureSteps::commit`]: the image is there, but what was to become of the
/// process afterwards may have failed.
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

/// Has the agent restart a process from `image`.
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

    /// Tells the agent what came of its wish. If that was nothing it undoes what it has done, and
    /// says so: when it has, the processes go on, or are gone.
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

    /// What follows `Image`.
    fn hear_image(&self, bytes: u64, bytes_max: usize) -> Result<Vec<u8>, AgentError> {
        if bytes > bytes_max as u64 {
            let what = format!("{bytes} bytes of state, {bytes_max} is the limit");
            // It sends them before it listens, so that there is no answer to this.
            return Err(ProcessError::Lie(what).into());
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
