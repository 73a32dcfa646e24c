use std::collections::HashSet;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use nvvmm_protocol::{Ended, Exec, FailedBecause, ToAgent};

use super::*;
use crate::process::test_host::*;
use crate::test_stream::HostEnd;

#[test]
fn a_captured_process_goes_on() {
    if !can_run() {
        return;
    }
    let subject = Subject::start();
    let mut kept = Kept::default();
    let host = ask_capture(subject.pid, false, AfterCapture::Thaw);
    let captured = kept.hear_capture(&host, subject.pid);
    assert_eq!((captured.processes, captured.threads), (1, 1));
    assert!(captured.pages_sent >= kept.image_pages && kept.image_pages > 20);
    assert!(
        captured.rounds >= 2,
        "a second listing says that the first holds"
    );
    assert!(captured.frozen_us > 0);
    host.end();
    subject.ends_well();
}

#[test]
fn it_can_stay_stopped() {
    if !can_run() {
        return;
    }
    let subject = Subject::start();
    let host = ask_capture(subject.pid, false, AfterCapture::Stop);
    Kept::default().hear_capture(&host, subject.pid);
    host.end();
    wait_until("it is not stopped", || subject.state() == 'T');
    // SAFETY: takes no pointers.
    unsafe { libc::kill(subject.pid, libc::SIGCONT) };
    subject.ends_well();
}

#[test]
fn frames_are_named_ahead_while_it_runs() {
    if !can_run() {
        return;
    }
    let subject = Subject::start();
    let host = ask_capture(subject.pid, false, AfterCapture::Thaw);
    let mut ahead = HashSet::new();
    let runs = loop {
        match host.hear() {
            FromAgent::Ahead(frames) => {
                assert_ne!(subject.state(), 't', "it is not frozen yet");
                ahead.extend(
                    frames
                        .iter()
                        .flat_map(|run| run.gfn..run.gfn + u64::from(run.count)),
                );
            }
            FromAgent::Frames(runs) => break runs,
            other => panic!("{other:?}"),
        }
        host.say(ToAgent::Done);
    };
    let frames = runs
        .iter()
        .flat_map(|run| run.gfn..run.gfn + u64::from(run.pages));
    let (known, new): (Vec<u64>, Vec<u64>) = frames.partition(|frame| ahead.contains(frame));
    assert!(
        known.len() > 10 * new.len(),
        "{} known, {} new",
        known.len(),
        new.len()
    );
    host.end();
    subject.ends_well();
}

#[test]
fn it_goes_on_when_the_host_goes_away() {
    if !can_run() {
        return;
    }
    let subject = Subject::start();
    let host = ask_capture(subject.pid, false, AfterCapture::Kill);
    assert!(matches!(host.hear_frozen(), FromAgent::Frames(_)));
    assert_eq!(subject.state(), 't', "it is frozen meanwhile");
    host.end();

    let host = ask_capture(subject.pid, false, AfterCapture::Kill);
    let mut kept = Kept::default();
    while let FromAgent::Frames(runs) = host.hear_frozen() {
        kept.take(subject.pid, &runs);
        host.say(ToAgent::Done);
    }
    kept.hear_image(&host);
    assert_eq!(subject.state(), 't', "it is frozen until the image is kept");
    host.end();
    subject.ends_well();
}

#[test]
fn it_goes_on_when_the_host_refuses() {
    if !can_run() {
        return;
    }
    let subject = Subject::start();
    let no = || ToAgent::Refused {
        message: "the pool is full".to_owned(),
    };
    let host = ask_capture(subject.pid, false, AfterCapture::Kill);
    assert!(matches!(host.hear_frozen(), FromAgent::Frames(_)));
    host.say(no());
    expect_failure(&host, FailedBecause::Failed, "the pool is full");
    host.end();

    for afterwards in [AfterCapture::Kill, AfterCapture::Stop, AfterCapture::Thaw] {
        let host = ask_capture(subject.pid, false, afterwards);
        while let FromAgent::Frames(_) = host.hear_frozen() {
            host.say(ToAgent::Done);
        }
        Kept::default().hear_image(&host);
        host.say(no());
        expect_failure(&host, FailedBecause::Failed, "the pool is full");
        host.end();
        assert!(!['t', 'T'].contains(&subject.state()));
    }
    subject.ends_well();
}

#[test]
fn a_host_that_answers_out_of_turn_is_told_so_and_the_process_goes_on() {
    if !can_run() {
        return;
    }
    let subject = Subject::start();
    for answer in [
        ToAgent::End,
        ToAgent::Data(vec![1]),
        ToAgent::Read { path: Vec::new() },
    ] {
        let host = ask_capture(subject.pid, false, AfterCapture::Kill);
        assert!(matches!(host.hear_frozen(), FromAgent::Frames(_)));
        host.say(answer);
        expect_failure(&host, FailedBecause::Refused, "no answer");
        host.end();
    }
    subject.ends_well();
}

#[test]
fn what_cannot_be_held_is_refused_by_name() {
    if !can_run() {
        return;
    }
    let (socket, other_end) = UnixStream::pair().unwrap();
    let subject = Subject::start_on(OwnedFd::from(socket), std::process::Stdio::null());
    let host = ask_capture(subject.pid, false, AfterCapture::Kill);
    let words = format!("process {}, fd 0 is a socket", subject.pid);
    expect_failure(&host, FailedBecause::Refused, &words);
    host.end();
    other_end.shutdown(Shutdown::Both).unwrap();
    let host = ask_capture(subject.pid, true, AfterCapture::Kill);
    Kept::default().hear_capture(&host, subject.pid);
    host.end();
    subject.was_killed();
}

/// The program is a child of the agent, and another thread waits for it.
#[test]
fn a_program_that_the_host_runs_can_be_captured_too() {
    if !can_run() {
        return;
    }
    let command = ["sh", "-c", "echo $$; read word; exit 5"].map(|word| word.as_bytes().to_vec());
    let program = HostEnd::ask(ToAgent::Exec(Exec {
        command: command.to_vec(),
        environment: Vec::new(),
        terminal: None,
    }));
    let FromAgent::Data(pid) = program.hear() else {
        panic!("it says nothing")
    };
    let pid = String::from_utf8(pid).unwrap().trim().parse().unwrap();
    let mut kept = Kept::default();
    for afterwards in [AfterCapture::Thaw, AfterCapture::Kill] {
        let host = ask_capture(pid, true, afterwards);
        kept.hear_capture(&host, pid);
        host.end();
    }
    assert_eq!(program.hear(), FromAgent::Exited(Ended::Signal(9)));
    program.end();
    let host = kept.restart(pid, true);
    host.say(ToAgent::Data(b"word\n".to_vec()));
    assert_eq!(host.hear(), FromAgent::Exited(Ended::Code(5)));
    host.end();
}

#[test]
fn the_agent_and_what_it_lives_on_are_refused() {
    let own = std::process::id() as i32;
    // SAFETY: takes no arguments.
    let (parent, thread) = unsafe { (libc::getppid(), libc::gettid()) };
    let of_parent = if parent == 1 {
        "is the first process"
    } else {
        "started the agent"
    };
    let thread_of = format!("{thread} is a thread of process {own}");
    for (pid, because, words) in [
        (own, FailedBecause::Refused, "is the agent"),
        (1, FailedBecause::Refused, "is the first process"),
        (parent, FailedBecause::Refused, of_parent),
        (thread, FailedBecause::Refused, &thread_of[..]),
        (0, FailedBecause::Refused, "is no number"),
        (-1, FailedBecause::Refused, "is no number"),
        (i32::MAX, FailedBecause::NotFound, "does not exist"),
    ] {
        let host = ask_capture(pid, true, AfterCapture::Kill);
        expect_failure(&host, because, words);
        host.end();
    }
    // Where threads of the kernel can be seen.
    if std::fs::read("/proc/2/comm").is_ok_and(|name| name == b"kthreadd\n") {
        let host = ask_capture(2, true, AfterCapture::Kill);
        expect_failure(
            &host,
            FailedBecause::Refused,
            "process 2 is a thread of the kernel",
        );
        host.end();
    }
}
