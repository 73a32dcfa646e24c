use std::os::unix::net::UnixListener;

use super::*;
use crate::control::RuntimeDir;

/// What a device says to the first who asks it for a stream, and what the agent behind it does.
fn answer_with(line: &'static str, agent: fn(&UnixStream)) -> Result<UnixStream, ControlError> {
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
    let called = call(&paths, Duration::from_millis(200));
    device.join().unwrap();
    called
}

#[test]
fn an_agent_that_greets_is_found_and_what_it_says_next_is_not_lost() {
    let mut stream = answer_with("OK 1073741824\n", |mut stream| {
        greet(stream).unwrap();
        stream.write_all(b"next").unwrap();
    })
    .unwrap();
    let mut next = String::new();
    stream.read_to_string(&mut next).unwrap();
    assert_eq!(next, "next");
}

#[test]
fn one_that_does_not_answer_in_time_or_says_something_else_is_refused() {
    let refused = |line, agent: fn(&UnixStream)| {
        let error = answer_with(line, agent).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        assert!(error.remedy.is_some());
        error.message
    };
    assert!(refused("", |_| {}).contains("vm does not answer"));
    assert!(refused("NO\n", |_| {}).contains("vm does not answer"));
    assert!(refused("OK 1111111111111111111111111111111111111111", |_| {}).contains("does not answer"));
    let other_version = refused("OK 1\n", |mut stream| {
        stream.write_all(b"NVMA\x07\0\0\0").unwrap();
        let _ = stream.read(&mut [0; 8]);
    });
    assert!(other_version.contains("version 7"), "{other_version}");
}

#[test]
fn an_agents_words_do_not_reach_the_terminal_raw() {
    let error = failed("vm", FailedBecause::NotFound, "\x1b[2Jgone");
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert_eq!(error.message, "vm: \\u{1b}[2Jgone");
}
