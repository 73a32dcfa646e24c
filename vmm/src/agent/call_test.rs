use std::os::unix::net::UnixListener;

use nvvmm_protocol::VERSION;

use super::*;
use crate::control::RuntimeDir;

/// More than an answer takes on any machine.
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);

/// Plays the device for the first client that asks for a stream, and the agent behind it.
fn answer_with(
    patience: Duration,
    line: &'static str,
    agent: fn(&UnixStream),
) -> Result<UnixStream, VmError> {
    let directory = tempfile::tempdir().unwrap();
    let paths = RuntimeDir::at(&directory.path().join("runtime"))
        .unwrap()
        .paths("vm");
    let listener = UnixListener::bind(&paths.vsock).unwrap();
    let device = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 12];
        stream.read_exact(&mut asked).unwrap();
        assert_eq!(&asked, b"CONNECT 512\n");
        stream.write_all(line.as_bytes()).unwrap();
        agent(&stream);
    });
    let called = call(&paths, patience);
    device.join().unwrap();
    called
}

#[test]
fn an_agent_that_is_too_old_for_a_request_is_refused_with_the_versions() {
    let directory = tempfile::tempdir().unwrap();
    let paths = RuntimeDir::at(&directory.path().join("runtime"))
        .unwrap()
        .paths("vm");
    let listener = UnixListener::bind(&paths.vsock).unwrap();
    let device = thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0; 12]).unwrap();
            stream.write_all(b"OK 1\n").unwrap();
            greet(&stream).unwrap();
        }
    });
    call_since(&paths, LONG, VERSION).unwrap();
    let error = call_since(&paths, LONG, VERSION + 1).unwrap_err();
    device.join().unwrap();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(
        error.to_string().contains("is of an older nvvmm"),
        "{error}"
    );
}

#[test]
fn an_agent_that_greets_is_found_and_what_it_says_next_is_not_lost() {
    let mut stream = answer_with(LONG, "OK 1073741824\n", |mut stream| {
        greet(stream).unwrap();
        stream.write_all(b"next").unwrap();
    })
    .unwrap();
    let mut next = String::new();
    stream.read_to_string(&mut next).unwrap();
    assert_eq!(next, "next");
}

#[test]
fn an_agent_of_the_version_before_is_found() {
    let mut stream = answer_with(LONG, "OK 1\n", |mut stream| {
        stream.write_all(b"NVMA\x04\0\0\0").unwrap();
        let mut greeting = [0; 8];
        stream.read_exact(&mut greeting).unwrap();
        // It wants its own version, and looks at no more.
        let answer = match greeting[..6] == *b"NVMA\x04\0" {
            true => "found",
            false => "refused",
        };
        stream.write_all(answer.as_bytes()).unwrap();
    })
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "found");
}

#[test]
fn one_that_does_not_answer_in_time_or_says_something_else_is_refused() {
    let refused = |patience, line, agent: fn(&UnixStream)| {
        let error = answer_with(patience, line, agent).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        assert!(error.remedy.is_some());
        error.message
    };
    // It answers nothing until the caller has hung up: neither the device nor the agent.
    for line in ["", "OK 1073741824\n"] {
        let silent = refused(SHORT, line, |mut stream| {
            let _ = stream.read_to_end(&mut Vec::new());
        });
        assert_eq!(silent, "the agent in vm did not answer within 0.05 s");
    }
    let other_version = refused(LONG, "OK 1\n", |mut stream| {
        stream.write_all(b"NVMA\x07\0\0\0").unwrap();
        let _ = stream.read(&mut [0; 8]);
    });
    assert!(other_version.contains("version 7"), "{other_version}");
}

#[test]
fn no_words_of_the_system_are_in_what_is_said_of_an_agent_that_is_silent() {
    for (kind, words) in [
        (io::ErrorKind::WouldBlock, ""),
        (io::ErrorKind::TimedOut, ""),
        (
            io::ErrorKind::UnexpectedEof,
            ": it ends each stream at once",
        ),
        (
            io::ErrorKind::ConnectionRefused,
            ": the VM takes no streams to its guest",
        ),
        (
            io::ErrorKind::NotFound,
            ": the VM takes no streams to its guest",
        ),
    ] {
        let error = silent("web", PATIENCE, &kind.into());
        let expected = format!("the agent in web did not answer within 10 s{words}");
        assert_eq!(error.message, expected);
        assert!(error.remedy.is_some());
    }
}

#[test]
fn what_is_no_answer_of_a_device_is_refused() {
    for (said, wrong) in [
        ("", "nobody listens"),
        ("NO\n", "an unknown answer"),
        (
            "OK 1111111111111111111111111111111111111111",
            "an unknown answer",
        ),
    ] {
        let (caller, mut device) = UnixStream::pair().unwrap();
        device.write_all(said.as_bytes()).unwrap();
        drop(device);
        let error = expect_ok(&caller).unwrap_err().to_string();
        assert!(error.contains(wrong), "{said:?}: {error}");
    }
}
