use proptest::prelude::*;

use super::*;
use crate::message::*;
use crate::{
    AfterCapture, Capture, Captured, Check, Checked, FrameRun, Frames, GreetingError, RUNS_MAX,
    Restart, Restarted, VERSION, VERSION_MIN, greet,
};

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

fn sent(message: &impl Serialize) -> Vec<u8> {
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
    assert!(matches!(
        receive::<ToAgent>(&mut rest),
        Err(FrameError::Ended)
    ));
}

#[test]
fn version_5_has_one_more_message() {
    assert_eq!((VERSION_MIN, VERSION), (4, 6));
    assert_eq!(sent(&ToGuest::KeepConnections), [1, 0, 0, 0, 2]);
}

#[test]
fn version_6_has_a_check_and_its_answer() {
    let check = Check {
        pid: 77,
        tree: true,
        external_stdio: false,
        kill: true,
    };
    assert_eq!(
        sent(&ToAgent::Check(check)),
        *b"\x06\0\0\0\x0a\x9a\x01\x01\0\x01"
    );
    let checked = Checked {
        processes: 2,
        threads: 3,
        remarks: "a".into(),
    };
    assert_eq!(
        sent(&FromAgent::Checked(checked)),
        *b"\x05\0\0\0\x0b\x02\x03\x01a"
    );
}

#[test]
fn the_encoding_of_version_4_stays() {
    assert_eq!(sent(&ToGuest::Welcome), [1, 0, 0, 0, 0]);
    assert_eq!(sent(&ToAgent::End), [1, 0, 0, 0, 4]);
    assert_eq!(
        sent(&FromGuest::Idle(vec![Frames { gfn: 3, count: 4 }])),
        [4, 0, 0, 0, 2, 1, 3, 4]
    );
    assert_eq!(
        sent(&exec()),
        *b"\x17\0\0\0\0\x02\x02ls\x02-l\x01\x04TERM\x05xterm\x01\x18\x50"
    );
    assert_eq!(
        sent(&FromAgent::Exited(Ended::Code(-1))),
        [3, 0, 0, 0, 2, 0, 1]
    );
    let capture = Capture {
        pid: 77,
        tree: true,
        external_stdio: false,
        afterwards: AfterCapture::Kill,
    };
    assert_eq!(
        sent(&ToAgent::Capture(capture)),
        *b"\x06\0\0\0\x06\x9a\x01\x01\x00\x02"
    );
    let restart = Restart {
        bytes: 300,
        attach: true,
        terminal: None,
        window: Some(5),
    };
    assert_eq!(
        sent(&ToAgent::Restart(restart)),
        *b"\x07\0\0\0\x07\xac\x02\x01\x00\x01\x05"
    );
    assert_eq!(sent(&ToAgent::Done), [1, 0, 0, 0, 8]);
    let message = "no".to_owned();
    assert_eq!(
        sent(&ToAgent::Refused { message }),
        *b"\x04\0\0\0\x09\x02no"
    );
}

#[test]
fn the_encoding_of_version_4_stays_for_what_the_agent_says_of_processes() {
    let run = FrameRun {
        gfn: 128,
        pages: 2,
        image_page: 3,
    };
    assert_eq!(
        sent(&FromAgent::Frames(vec![run])),
        [6, 0, 0, 0, 6, 1, 128, 1, 2, 3]
    );
    assert_eq!(
        sent(&FromAgent::Ahead(vec![Frames { gfn: 3, count: 4 }])),
        [4, 0, 0, 0, 10, 1, 3, 4]
    );
    assert_eq!(
        sent(&FromAgent::Image { bytes: 5, pages: 6 }),
        [3, 0, 0, 0, 7, 5, 6]
    );
    let captured = Captured {
        processes: 1,
        threads: 2,
        frozen_us: 3,
        pages_sent: 4,
        rounds: 5,
    };
    assert_eq!(
        sent(&FromAgent::Captured(captured)),
        [6, 0, 0, 0, 8, 1, 2, 3, 4, 5]
    );
    let restarted = Restarted {
        pid: 1,
        processes: 2,
        threads: 3,
        pages: 4,
        elapsed_us: 5,
        populate_us: 6,
        place_us: 7,
        pages_reserved: 8,
    };
    assert_eq!(
        sent(&FromAgent::Restarted(restarted)),
        [9, 0, 0, 0, 9, 2, 2, 3, 4, 5, 6, 7, 8]
    );
}

#[test]
fn a_message_has_a_bounded_number_of_runs_and_always_room_for_so_many() {
    let largest = FrameRun {
        gfn: u64::MAX,
        pages: u32::MAX,
        image_page: u64::MAX,
    };
    let most = FromAgent::Frames(vec![largest; RUNS_MAX]);
    assert_eq!(receive::<FromAgent>(&sent(&most)[..]).unwrap(), most);
    let smallest = FrameRun {
        gfn: 0,
        pages: 0,
        image_page: 0,
    };
    let more = sent(&FromAgent::Frames(vec![smallest; RUNS_MAX + 1]));
    assert!(matches!(
        receive::<FromAgent>(&more[..]),
        Err(FrameError::Malformed(_))
    ));
    let idle = |count| FromGuest::Idle(vec![Frames { gfn: 0, count: 0 }; count]);
    assert!(receive::<FromGuest>(&sent(&idle(RUNS_MAX))[..]).is_ok());
    assert!(matches!(
        receive::<FromGuest>(&sent(&idle(RUNS_MAX + 1))[..]),
        Err(FrameError::Malformed(_))
    ));
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
        assert!(matches!(
            receive::<ToAgent>(bytes),
            Err(FrameError::Malformed(_))
        ));
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
fn the_newest_version_of_both_is_spoken() {
    for (bytes, spoken) in [
        // Up to version 4 the last two bytes were zero.
        (b"NVMA\x04\0\0\0", 4),
        (b"NVMA\x04\0\x05\0", 5),
        (b"NVMA\x05\0\x09\0", 6),
        (b"NVMA\x01\0\x04\0", 4),
        (b"NVMA\x05\0\x03\0", 5),
    ] {
        let mut other = Other(bytes, Vec::new());
        assert_eq!(greet(&mut other).unwrap(), spoken, "{bytes:?}");
        // Version 4 compares the first two bytes of the versions, and looks at no others.
        assert_eq!(other.1, b"NVMA\x04\0\x06\0");
    }
    for (bytes, named) in [
        (b"NVMA\x03\x01\xff\xff", 0x103),
        (b"NVMA\x03\0\0\0", 3),
        (b"NVMA\x01\0\x02\0", 2),
        (b"NVMA\x07\0\x08\0", 7),
    ] {
        let mut other = Other(bytes, Vec::new());
        let refused = greet(&mut other);
        assert!(
            matches!(refused, Err(GreetingError::Version { theirs }) if theirs == named),
            "{bytes:?}: {refused:?}"
        );
        assert_eq!(other.1.len(), 8, "it is told all the same");
    }
    let mut stranger = Other(b"SSH-2.0-", Vec::new());
    assert!(matches!(greet(&mut stranger), Err(GreetingError::NotNvvmm)));
    let mut gone = Other(b"NVMA", Vec::new());
    assert!(matches!(greet(&mut gone), Err(GreetingError::Io(_))));
}

proptest! {
    /// Whatever comes is a message, which is encoded in no other way that is shorter, or an error.
    #[test]
    fn any_bytes_are_a_message_or_an_error(
        payload in proptest::collection::vec(any::<u8>(), 0..64)
    ) {
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
