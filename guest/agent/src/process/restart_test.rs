use std::process::Stdio;

use nvvmm_protocol::{AfterCapture, Ended, Exec, FailedBecause, TerminalSize};

use super::*;
use crate::process::test_host::*;
use crate::test_stream::HostEnd;

#[test]
fn a_restarted_process_finds_all_as_it_was_any_number_of_times() {
    if !can_run() {
        return;
    }
    let (subject, kept) = captured(Subject::start(), false);
    for _ in 0..2 {
        kept.restart(subject.pid, false).end();
        subject.go();
        wait_until("nobody reaps it", || !subject.exists());
        assert_eq!(subject.output(), WHOLE.0);
        subject.again();
    }
}

#[test]
fn the_host_is_attached_to_it() {
    if !can_run() {
        return;
    }
    let (subject, kept) = captured(Subject::start_on(Stdio::piped(), Stdio::piped()), true);
    let host = kept.restart(subject.pid, true);
    subject.go();
    let (output, errors, last) = host.hear_all();
    assert_eq!((output, errors), (WHOLE.0.as_bytes().to_vec(), Vec::new()));
    assert_eq!(last, FromAgent::Exited(Ended::Code(WHOLE.1)));
    host.end();
    assert!(!subject.exists());
    subject.again();

    let host = kept.restart(subject.pid, true);
    host.end();
    wait_until("it was not hung up on", || !subject.exists());
}

#[test]
fn a_session_on_a_terminal_is_one_again() {
    if !can_run() {
        return;
    }
    let terminal = Some(TerminalSize {
        rows: 30,
        columns: 90,
    });
    let script = "echo pid $$; read word; stty size; echo $word; read word";
    let command = ["sh", "-c", script].map(|word| word.as_bytes().to_vec());
    let program = HostEnd::ask(ToAgent::Exec(Exec {
        command: command.to_vec(),
        environment: Vec::new(),
        terminal,
    }));
    let line = hear_until(&program, "\n");
    let pid = line.trim().strip_prefix("pid ").unwrap().parse().unwrap();
    let mut kept = Kept::default();
    let host = ask_capture(pid, true, AfterCapture::Kill);
    kept.hear_capture(&host, pid);
    host.end();
    assert_eq!(program.hear(), FromAgent::Exited(Ended::Signal(9)));
    program.end();

    let host = kept.restart_on(pid, true, terminal);
    host.say(ToAgent::Data(b"hello\n".to_vec()));
    hear_until(&host, "30 90\r\nhello\r\n");
    // Ctrl-C.
    host.say(ToAgent::Data(vec![3]));
    let (_, _, last) = host.hear_all();
    assert!(
        matches!(last, FromAgent::Exited(Ended::Signal(2) | Ended::Code(130))),
        "{last:?}"
    );
    host.end();
}

/// All output until it ends so.
fn hear_until(host: &HostEnd, end: &str) -> String {
    let mut heard = String::new();
    while !heard.ends_with(end) {
        match host.hear() {
            FromAgent::Data(bytes) => heard.push_str(std::str::from_utf8(&bytes).unwrap()),
            other => panic!("{other:?} after {heard:?}"),
        }
    }
    heard
}

#[test]
fn external_streams_become_nothing_when_nobody_is_attached() {
    if !can_run() {
        return;
    }
    let (subject, kept) = captured(Subject::start_on(Stdio::piped(), Stdio::piped()), true);
    kept.restart(subject.pid, false).end();
    for fd in 0..2 {
        let leads_to = std::fs::read_link(format!("/proc/{}/fd/{fd}", subject.pid)).unwrap();
        assert_eq!(leads_to.to_str(), Some("/dev/null"));
    }
    subject.go();
    wait_until("nobody reaps it", || !subject.exists());
}

#[test]
fn nothing_is_left_when_the_host_goes_away_or_refuses() {
    if !can_run() {
        return;
    }
    let (subject, kept) = captured(Subject::start(), false);
    let host = kept.ask_restart(false);
    assert!(matches!(host.hear(), FromAgent::Frames(_)));
    assert!(subject.exists());
    host.end();
    assert!(!subject.exists());
    for (answer, because, words) in [
        (
            ToAgent::Refused {
                message: "no such page".to_owned(),
            },
            FailedBecause::Failed,
            "no such page",
        ),
        (ToAgent::End, FailedBecause::Refused, "no answer"),
    ] {
        let host = kept.ask_restart(false);
        assert!(matches!(host.hear(), FromAgent::Frames(_)));
        host.say(answer);
        expect_failure(&host, because, words);
        host.end();
        assert!(!subject.exists());
    }
}

#[test]
fn what_is_no_image_is_refused() {
    let ask = |bytes| {
        HostEnd::ask(ToAgent::Restart(Restart {
            bytes,
            attach: true,
            terminal: None,
            window: None,
        }))
    };
    let host = ask(u64::MAX);
    expect_failure(&host, FailedBecause::Refused, "larger than any");
    host.end();

    let host = ask(3);
    host.say(ToAgent::Data(vec![0; 4]));
    expect_failure(&host, FailedBecause::Refused, "another length");
    host.end();

    let host = ask(3);
    host.say(ToAgent::End);
    expect_failure(&host, FailedBecause::Refused, "another length");
    host.end();

    let host = ask(3);
    host.say(ToAgent::Done);
    expect_failure(&host, FailedBecause::Refused, "no part of an image");
    host.end();

    let host = ask(100);
    host.say(ToAgent::Data(vec![b'x'; 100]));
    host.say(ToAgent::End);
    expect_failure(&host, FailedBecause::Failed, "not a usable process image");
    host.end();
}

#[test]
fn a_number_in_use_is_refused() {
    if !can_run() {
        return;
    }
    let subject = Subject::start();
    let mut kept = Kept::default();
    let host = ask_capture(subject.pid, false, AfterCapture::Thaw);
    kept.hear_capture(&host, subject.pid);
    host.end();
    let host = kept.ask_restart(false);
    expect_failure(
        &host,
        FailedBecause::Refused,
        "cannot have its number back: it is in use",
    );
    host.end();
    subject.ends_well();
}
