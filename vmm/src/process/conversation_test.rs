//! Conversations with an agent that may lie.

use std::os::unix::net::UnixStream;
use std::thread;

use nvvmm_protocol::{
    AfterCapture, Capture, Captured, FailedBecause, FrameRun, Frames, FromAgent, Restart,
    Restarted, ToAgent, receive, send,
};

use super::{test_images::run, *};

/// Keeps what it is asked for.
#[derive(Default)]
struct Noted {
    taken: usize,
    ahead: usize,
    committed: Option<(Vec<u8>, u64)>,
    refuses: bool,
}

impl Noted {
    fn note(&mut self, runs: &[FrameRun]) -> Result<(), ProcessError> {
        if self.refuses {
            return Err(ProcessError::Overtaken);
        }
        self.taken += runs.len();
        Ok(())
    }
}

impl CaptureSteps for Noted {
    fn give_ahead(&mut self, frames: &[Frames]) -> Result<(), ProcessError> {
        self.ahead += frames.len();
        Ok(())
    }

    fn take(&mut self, runs: &[FrameRun]) -> Result<(), ProcessError> {
        self.note(runs)
    }

    fn commit(&mut self, image: Vec<u8>, pages: u64) -> Result<(), ProcessError> {
        self.committed = Some((image, pages));
        Ok(())
    }
}

impl PlaceSteps for Noted {
    fn place(&mut self, runs: &[FrameRun]) -> Result<(), ProcessError> {
        self.note(runs)
    }
}

const CAPTURED: Captured = Captured {
    processes: 1,
    threads: 1,
    frozen_us: 1,
    pages_sent: 1,
    rounds: 1,
};

/// Result of a capture whose agent sends these messages, whatever it receives.
fn capture_with(said: Vec<FromAgent>, steps: &mut Noted) -> Result<Captured, AgentError> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let agent = thread::spawn(move || {
        for message in &said {
            let _ = send(&theirs, message);
        }
        theirs.shutdown(std::net::Shutdown::Write).unwrap();
        // Heard to the end, so that the host's words find room.
        while receive::<ToAgent>(&theirs).is_ok() {}
    });
    let request = Capture {
        pid: 1,
        tree: false,
        external_stdio: true,
        afterwards: AfterCapture::Thaw,
    };
    let outcome = conversation::capture(&ours, request, 100, steps);
    drop(ours);
    agent.join().unwrap();
    outcome
}

fn image(bytes: u64, parts: &[usize]) -> Vec<FromAgent> {
    let mut said = vec![FromAgent::Image { bytes, pages: 3 }];
    said.extend(parts.iter().map(|len| FromAgent::Data(vec![7; *len])));
    said.push(FromAgent::End);
    said
}

#[test]
fn an_agent_that_does_as_it_should_is_heard_to_the_end() {
    let mut steps = Noted::default();
    let mut said = vec![
        FromAgent::Ahead(vec![Frames { gfn: 1, count: 7 }; 2]),
        FromAgent::Frames(vec![run(1, 1, 0)]),
    ];
    said.extend(image(50, &[30, 0, 20]));
    said.push(FromAgent::Captured(CAPTURED));
    assert_eq!(capture_with(said, &mut steps).unwrap(), CAPTURED);
    assert_eq!((steps.ahead, steps.taken), (2, 1));
    assert_eq!(steps.committed, Some((vec![7; 50], 3)));
}

#[test]
fn an_agent_that_talks_out_of_turn_captures_nothing() {
    let frames = || FromAgent::Frames(vec![run(1, 1, 0)]);
    let wrong = [
        vec![FromAgent::Captured(CAPTURED)],
        vec![FromAgent::End],
        vec![FromAgent::Data(vec![1])],
        image(50, &[20, 20]),
        image(50, &[30, 30]),
        image(101, &[101]),
        image(u64::MAX, &[1]),
        vec![
            FromAgent::Image {
                bytes: 50,
                pages: 3,
            },
            frames(),
        ],
        vec![frames()],
        vec![],
    ];
    for said in wrong {
        let mut steps = Noted::default();
        let outcome = capture_with(said.clone(), &mut steps);
        assert!(outcome.is_err() && steps.committed.is_none(), "{said:?}");
    }
    // Once the image is there, nothing can be added to it.
    for late in [
        frames(),
        FromAgent::Ahead(vec![Frames { gfn: 1, count: 1 }]),
    ] {
        let mut steps = Noted::default();
        let said: Vec<_> = image(1, &[1])
            .into_iter()
            .chain([late, FromAgent::Captured(CAPTURED)])
            .collect();
        assert!(matches!(
            capture_with(said, &mut steps),
            Err(AgentError::OutOfTurn)
        ));
        assert_eq!((steps.ahead, steps.taken), (0, 0));
    }
}

#[test]
fn what_the_guest_says_of_a_failure_is_passed_on_for_the_command_to_escape() {
    let said = FromAgent::Failed {
        because: FailedBecause::Refused,
        message: "\x1b[2Jfd 3: a socket".into(),
    };
    let error = capture_with(vec![said], &mut Noted::default()).unwrap_err();
    assert_eq!(error.to_string(), "\u{1b}[2Jfd 3: a socket");
}

#[test]
fn bytes_that_are_no_message_end_a_restart() {
    use std::io::Write;
    let (ours, theirs) = UnixStream::pair().unwrap();
    let agent = thread::spawn(move || {
        (&theirs).write_all(&[0xff; 64]).unwrap();
        while receive::<ToAgent>(&theirs).is_ok() {}
    });
    let request = Restart {
        bytes: 3,
        attach: false,
        terminal: None,
        window: None,
    };
    let outcome: Result<Restarted, _> =
        conversation::restart(&ours, request, b"abc", &mut Noted::default());
    assert!(matches!(outcome, Err(AgentError::Stream(_))), "{outcome:?}");
    // A command that is attached to a process afterwards waits for it as long as it takes.
    assert_eq!(ours.read_timeout().unwrap(), None);
    assert_eq!(ours.write_timeout().unwrap(), None);
    drop(ours);
    agent.join().unwrap();
}

#[test]
fn an_agent_is_told_that_the_host_cannot() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let agent = thread::spawn(move || {
        let mut heard = vec![receive::<ToAgent>(&theirs).unwrap()];
        send(&theirs, &FromAgent::Frames(vec![run(1, 1, 0)])).unwrap();
        while let Ok(message) = receive::<ToAgent>(&theirs) {
            heard.push(message);
            let failed = FromAgent::Failed {
                because: FailedBecause::Failed,
                message: String::new(),
            };
            let _ = send(&theirs, &failed);
        }
        heard
    });
    let request = Capture {
        pid: 1,
        tree: false,
        external_stdio: true,
        afterwards: AfterCapture::Kill,
    };
    let mut steps = Noted {
        refuses: true,
        ..Noted::default()
    };
    let outcome = conversation::capture(&ours, request, 100, &mut steps);
    assert!(
        matches!(outcome, Err(AgentError::Ours(ProcessError::Overtaken))),
        "{outcome:?}"
    );
    drop(ours);
    let heard = agent.join().unwrap();
    assert!(matches!(heard[1], ToAgent::Refused { .. }), "{heard:?}");
}
