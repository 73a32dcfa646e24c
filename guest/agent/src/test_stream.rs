//! A stream to a test in place of the host.

use std::io;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use nvvmm_protocol::{FromAgent, ToAgent, greet, receive, send};

use crate::serve::serve;
use crate::stream::Stream;

impl Stream for UnixStream {
    fn another(&self) -> io::Result<Self> {
        self.try_clone()
    }
}

/// The host's end of a stream that is being served.
pub struct HostEnd {
    stream: UnixStream,
    serving: JoinHandle<()>,
}

impl HostEnd {
    pub fn connect() -> Self {
        let (stream, theirs) = UnixStream::pair().unwrap();
        let serving = thread::spawn(move || serve(theirs));
        greet(&stream).unwrap();
        Self { stream, serving }
    }

    /// Connects and sends a request.
    pub fn ask(request: ToAgent) -> Self {
        let host = Self::connect();
        host.say(request);
        host
    }

    pub fn say(&self, message: ToAgent) {
        send(&self.stream, &message).unwrap();
    }

    pub fn hear(&self) -> FromAgent {
        receive(&self.stream).unwrap()
    }

    /// The first message of a capture after the processes are frozen.
    pub fn hear_frozen(&self) -> FromAgent {
        loop {
            match self.hear() {
                FromAgent::Ahead(_) => self.say(ToAgent::Done),
                other => return other,
            }
        }
    }

    /// All that comes, up to the message that nothing follows.
    pub fn hear_all(&self) -> (Vec<u8>, Vec<u8>, FromAgent) {
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        loop {
            match self.hear() {
                FromAgent::Data(bytes) => output.extend(bytes),
                FromAgent::ErrorData(bytes) => errors.extend(bytes),
                last => return (output, errors, last),
            }
        }
    }

    /// Ends the stream, and waits until the agent has noticed.
    pub fn end(self) {
        drop(self.stream);
        self.serving.join().unwrap();
    }
}
