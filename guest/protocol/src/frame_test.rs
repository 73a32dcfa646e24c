use proptest::prelude::*;

use super::*;
use crate::message::*;
use crate::{GreetingError, VERSION, greet};

fn exec() -> ToAgent {
    ToAgent::Exec(Exec {
        command: vec![b"ls".to_vec(), b"-l".to_vec()],
        environment: vec![(b"TERM".to_vec(), b"xterm".to_vec())],
        terminal: Some(TerminalSize {
            rows: 24,
            columns: 80,
        }),
    })
}

fn sent(message: &ToAgent) -> Vec<u8> {
    let mut bytes = Vec::new();
    send(&mut bytes, message).unwrap();
    bytes
}

#[test]
fn messages_come_back_as_they_were_in_their_order() {
    let messages = [exec(), ToAgent::Data(vec![7; DATA_BYTES_MAX]), ToAgent::End];
    let stream: Vec<u8> = messages.iter().flat_map(sent).collect();
    let mut rest = &stream[..];
    for message in messages {
        assert_eq!(receive::<ToAgent>(&mut rest).unwrap(), message);
    }
    assert!(matches!(receive::<ToAgent>(&mut rest), Err(FrameError::Ended)));
}

#[test]
fn the_encoding_of_version_1_stays() {
    assert_eq!(VERSION, 1);
    assert_eq!(sent(&ToAgent::End), [1, 0, 0, 0, 4]);
    assert_eq!(
        sent(&exec()),
        *b"\x17\0\0\0\0\x02\x02ls\x02-l\x01\x04TERM\x05xterm\x01\x18\x50"
    );
    let mut bytes = Vec::new();
    send(&mut bytes, &FromAgent::Exited(Ended::Code(-1))).unwrap();
    assert_eq!(bytes, [3, 0, 0, 0, 2, 0, 1]);
}

#[test]
fn a_message_that_is_cut_off_is_an_error_and_not_an_end() {
    let whole = sent(&exec());
    for len in 1..whole.len() {
        let error = receive::<ToAgent>(&whole[..len]).unwrap_err();
        assert!(matches!(error, FrameError::Io(_)), "{len}: {error}");
    }
}

#[test]
fn what_is_too_long_is_neither_sent_nor_kept() {
    let long = ToAgent::Data(vec![0; FRAME_BYTES_MAX]);
    let mut stream = Vec::new();
    assert!(matches!(
        send(&mut stream, &long),
        Err(FrameError::TooLong { .. })
    ));
    assert!(stream.is_empty());
    let length = (FRAME_BYTES_MAX as u32 + 1).to_le_bytes();
    assert!(matches!(
        receive::<ToAgent>(&length[..]),
        Err(FrameError::TooLong { .. })
    ));
}

#[test]
fn bytes_behind_a_message_and_unknown_messages_are_errors() {
    let left_over = [2, 0, 0, 0, 4, 0];
    assert!(matches!(
        receive::<ToAgent>(&left_over[..]),
        Err(FrameError::LeftOver(1))
    ));
    for bytes in [&[1, 0, 0, 0, 99][..], &[0, 0, 0, 0]] {
        assert!(matches!(receive::<ToAgent>(bytes), Err(FrameError::Malformed(_))));
    }
}

/// The other side of a greeting: what it says, and what it was told.
struct Other<'a>(&'a [u8], Vec<u8>);

impl Read for Other<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

impl Write for Other<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.1.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn each_side_is_told_the_version_of_the_other() {
    let mut other = Other(b"NVMA\x01\0\0\0", Vec::new());
    greet(&mut other).unwrap();
    assert_eq!(other.1, b"NVMA\x01\0\0\0");
    let mut newer = Other(b"NVMA\x02\x01\xff\xff", Vec::new());
    assert!(matches!(
        greet(&mut newer),
        Err(GreetingError::Version { theirs: 0x102 })
    ));
    assert_eq!(newer.1.len(), 8, "it is told all the same");
    let mut stranger = Other(b"SSH-2.0-", Vec::new());
    assert!(matches!(greet(&mut stranger), Err(GreetingError::NotNvvmm)));
    let mut gone = Other(b"NVMA", Vec::new());
    assert!(matches!(greet(&mut gone), Err(GreetingError::Io(_))));
}

proptest! {
    /// Whatever comes is a message, which is encoded in no other way that is shorter, or an error.
    #[test]
    fn any_bytes_are_a_message_or_an_error(payload in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut frame = (payload.len() as u32).to_le_bytes().to_vec();
        frame.extend(&payload);
        if let Ok(message) = receive::<ToAgent>(&frame[..]) {
            prop_assert_eq!(receive::<ToAgent>(&sent(&message)[..]).unwrap(), message);
        }
        let _ = receive::<FromAgent>(&frame[..]);
        let _ = receive::<FromGuest>(&frame[..]);
        let _ = receive::<ToGuest>(&frame[..]);
    }
}
