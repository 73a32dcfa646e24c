use nvvmm_protocol::{Greeting, Role};

use super::*;

fn news() -> News {
    News {
        restored: restored(),
        keep_connections: false,
    }
}

fn restored() -> Restored {
    Restored {
        snapshot: "base".into(),
        vm: "copy".into(),
        role: Role::Copy,
        slept_ns: 5,
        host_time_ns: 0,
        step_clock: true,
        seed: [7; 32],
    }
}

/// An agent that has said hello, and what it was answered.
fn hello(path: &Path) -> (UnixStream, ToGuest) {
    let stream = UnixStream::connect(path).unwrap();
    greet(&stream).unwrap();
    send(&stream, &FromGuest::Hello).unwrap();
    let answer = receive(&stream).unwrap();
    (stream, answer)
}

/// The agent says that it is done, which is known when it has been answered again.
fn settle(stream: &UnixStream) -> ToGuest {
    send(
        stream,
        &FromGuest::Settled {
            failures: Vec::new(),
        },
    )
    .unwrap();
    send(stream, &FromGuest::Hello).unwrap();
    receive(stream).unwrap()
}

fn is_ended(stream: &UnixStream) -> bool {
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    receive::<ToGuest>(stream).is_err()
}

#[test]
fn a_restored_guest_is_told_until_it_has_settled() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vm.vsock_512");
    let link = AgentLink::start(&path).unwrap();
    assert_eq!(hello(&path).1, ToGuest::Welcome);
    link.new_guest(Some(news()));
    let (first, told) = hello(&path);
    let ToGuest::Restored(restored) = told else {
        panic!("{told:?}")
    };
    assert!(restored.host_time_ns > 0);
    let expected = Restored {
        host_time_ns: restored.host_time_ns,
        ..self::restored()
    };
    assert_eq!(restored, expected);
    drop(first);
    let (second, told) = hello(&path);
    assert!(
        matches!(told, ToGuest::Restored(_)),
        "the first one did not settle"
    );
    assert_eq!(settle(&second), ToGuest::Welcome);
    drop(second);
    assert_eq!(hello(&path).1, ToGuest::Welcome);
    link.new_guest(Some(news()));
    assert!(matches!(hello(&path).1, ToGuest::Restored(_)));
    link.new_guest(None);
    assert_eq!(
        hello(&path).1,
        ToGuest::Welcome,
        "a guest that boots was not restored"
    );
}

/// Has an agent that speaks these versions ask, when connections are to stay. Gives the answers
/// that it hears, and what whoever listens hears.
fn asks_with(greeting: Greeting) -> (Vec<ToGuest>, Vec<bool>) {
    use std::io::{Read, Write};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vm.vsock_512");
    let link = AgentLink::start(&path).unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    link.on_told(move |kept| hears.lock().unwrap().push(kept));
    link.new_guest(Some(News {
        keep_connections: true,
        ..news()
    }));
    let mut stream = UnixStream::connect(&path).unwrap();
    stream.write_all(&greeting.encode()).unwrap();
    stream.read_exact(&mut [0; Greeting::BYTES]).unwrap();
    send(&stream, &FromGuest::Hello).unwrap();
    let mut answers = vec![receive(&stream).unwrap()];
    while !matches!(answers.last(), Some(ToGuest::Restored(_))) {
        answers.push(receive(&stream).unwrap());
    }
    // What was heard is known when the next answer is there.
    assert_eq!(settle(&stream), ToGuest::Welcome);
    let heard = heard.lock().unwrap().clone();
    (answers, heard)
}

#[test]
fn connections_are_to_stay_only_for_an_agent_that_can_keep_them() {
    let (answers, heard) = asks_with(Greeting::OURS);
    assert_eq!(answers[0], ToGuest::KeepConnections);
    assert_eq!((answers.len(), heard), (2, vec![true]));
    // The greeting of version 4: its last bytes were zero.
    let (answers, heard) = asks_with(Greeting {
        oldest: 4,
        newest: 0,
    });
    assert_eq!((answers.len(), heard), (1, vec![false]));
}

#[test]
fn an_agent_of_the_guest_before_settles_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vm.vsock_512");
    let link = AgentLink::start(&path).unwrap();
    let (old, _) = hello(&path);
    link.new_guest(Some(news()));
    assert!(is_ended(&old));
    assert!(matches!(hello(&path).1, ToGuest::Restored(_)));
}

#[test]
fn a_second_agent_does_not_take_the_place_of_one_that_lives() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vm.vsock_512");
    let link = AgentLink::start(&path).unwrap();
    link.new_guest(Some(news()));
    let (first, _) = hello(&path);
    for _ in 0..3 {
        let second = UnixStream::connect(&path).unwrap();
        assert!(is_ended(&second), "it hears nothing, above all no seed");
    }
    assert_eq!(settle(&first), ToGuest::Welcome);
    // It ends itself, or says something that is no message.
    drop(first);
    let (third, answer) = hello(&path);
    assert_eq!(answer, ToGuest::Welcome);
    io::Write::write_all(&mut &third, b"\xff\xff\xff\xff").unwrap();
    assert!(is_ended(&third));
    assert_eq!(hello(&path).1, ToGuest::Welcome);
}

#[test]
fn what_is_no_message_ends_its_stream_alone() {
    use std::io::Write;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vm.vsock_512");
    let link = AgentLink::start(&path).unwrap();
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"NVMA\x09\0\0\0",
        b"NVMA\x01\0\0\0\xff\xff\xff\xff",
        b"NVMA\x01\0\0\0\x01\0\0\0\x77",
    ] {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(garbage).unwrap();
        let mut greeting = [0; 8];
        std::io::Read::read_exact(&mut stream, &mut greeting).unwrap();
        assert!(is_ended(&stream), "{garbage:?}");
    }
    let (stream, answer) = hello(&path);
    assert_eq!(answer, ToGuest::Welcome);
    drop(link);
    assert!(is_ended(&stream));
    assert!(!path.exists());
}

#[test]
fn whoever_listens_hears_of_frames_that_are_not_used() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vm.vsock_512");
    let link = AgentLink::start(&path).unwrap();
    let (stream, _) = hello(&path);
    let frames = |gfn| vec![Frames { gfn, count: 2 }];
    // Nobody listens yet.
    send(&stream, &FromGuest::Idle(frames(1))).unwrap();
    settle(&stream);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let hears = Arc::clone(&heard);
    link.on_idle(move |frames| hears.lock().unwrap().extend_from_slice(frames));
    send(&stream, &FromGuest::Idle(frames(7))).unwrap();
    send(&stream, &FromGuest::Idle(Vec::new())).unwrap();
    settle(&stream);
    assert_eq!(*heard.lock().unwrap(), frames(7));
}
