//! Messages that the host and the agent in a guest read from each other: a greeting, then messages.
//!
//! The first byte chooses the reader. The rest is the stream.

use std::fmt::Debug;
use std::io::{self, Read, Write};

use nvvmm_protocol::{
    FRAME_BYTES_MAX, FrameError, FromAgent, FromGuest, Greeting, ToAgent, ToGuest, greet, receive,
    send,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::script::Script;

/// Runs one input.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let reader = script.u8() % 5;
    let stream = script.bytes(usize::MAX);
    match reader {
        0 => messages::<ToAgent>(stream),
        1 => messages::<FromAgent>(stream),
        2 => messages::<FromGuest>(stream),
        3 => messages::<ToGuest>(stream),
        _ => greeting(stream),
    }
}

/// Reads messages until the stream ends or has an error. Each message that was read can be sent,
/// and is received unchanged.
fn messages<T: Serialize + DeserializeOwned + PartialEq + Debug>(mut stream: &[u8]) {
    loop {
        let before = stream.len();
        match receive::<T>(&mut stream) {
            Ok(message) => {
                assert!(
                    before - stream.len() <= 4 + FRAME_BYTES_MAX,
                    "more than a frame was read"
                );
                let mut sent = Vec::new();
                send(&mut sent, &message).expect("sending what came in a frame");
                let again: T = receive(&sent[..]).expect("receiving what was sent");
                assert_eq!(again, message);
            }
            Err(FrameError::Ended) => return assert_eq!(before, 0, "an end before the end"),
            Err(error) => return assert!(!error.to_string().is_empty()),
        }
    }
}

/// A stream that gives the fuzzer's bytes and takes any bytes.
struct AnyPeer<'a>(&'a [u8]);

impl Read for AnyPeer<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

impl Write for AnyPeer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn greeting(stream: &[u8]) {
    if let Err(error) = greet(AnyPeer(stream)) {
        assert!(!error.to_string().is_empty());
    }
    if let Some((bytes, _)) = stream.split_first_chunk()
        && let Ok(greeting) = Greeting::decode(*bytes)
    {
        assert_eq!(
            Greeting::decode(greeting.encode()).expect("what was encoded"),
            greeting
        );
    }
}
