use std::thread;
use std::time::{Duration, Instant};

use nvvmm_protocol::{DATA_BYTES_MAX, Ended, FromAgent, TerminalSize, ToAgent};

use super::*;
use crate::test_stream::HostEnd;

const TERMINAL: TerminalSize = TerminalSize {
    rows: 33,
    columns: 99,
};

fn shell(script: &str, terminal: Option<TerminalSize>) -> HostEnd {
    let command = ["sh", "-c", script].map(|word| word.as_bytes().to_vec());
    HostEnd::ask(ToAgent::Exec(Exec {
        command: command.to_vec(),
        environment: vec![(b"GREETING".to_vec(), b"hello".to_vec())],
        terminal,
    }))
}

/// Output, errors and end of a script without input.
fn outcome(script: &str) -> (String, String, FromAgent) {
    let host = shell(script, None);
    host.say(ToAgent::End);
    let (output, errors, last) = host.hear_all();
    host.end();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output), text(errors), last)
}

#[test]
fn output_errors_and_status_come_back() {
    let (output, errors, last) = outcome("echo $GREETING; echo oops >&2; exit 7");
    assert_eq!((&output[..], &errors[..]), ("hello\n", "oops\n"));
    assert_eq!(last, FromAgent::Exited(Ended::Code(7)));
    let (_, _, last) = outcome("kill -9 $$");
    assert_eq!(last, FromAgent::Exited(Ended::Signal(9)));
}

#[test]
fn input_reaches_the_program_and_ends() {
    let host = shell("cat; echo end", None);
    let content = vec![b'x'; DATA_BYTES_MAX];
    for _ in 0..20 {
        host.say(ToAgent::Data(content.clone()));
        let FromAgent::Data(part) = host.hear() else {
            panic!()
        };
        let mut echoed = part.len();
        while echoed < content.len() {
            let FromAgent::Data(part) = host.hear() else {
                panic!()
            };
            echoed += part.len();
        }
        assert_eq!(echoed, content.len());
    }
    host.say(ToAgent::End);
    assert_eq!(
        host.hear_all(),
        (
            b"end\n".to_vec(),
            Vec::new(),
            FromAgent::Exited(Ended::Code(0))
        )
    );
    host.end();
}

#[test]
fn a_program_on_a_terminal_knows_its_size_and_takes_control_keys() {
    // A shell that is interrupted while it waits for a program goes on if that program ends well.
    // So the last one must have ended when the key comes.
    let host = shell(
        "stty size; read line; stty size; echo ready; exec sleep 1000",
        Some(TERMINAL),
    );
    assert_eq!(host.hear(), FromAgent::Data(b"33 99\r\n".to_vec()));
    host.say(ToAgent::Resize(TerminalSize {
        rows: 5,
        columns: 6,
    }));
    host.say(ToAgent::Data(b"\n".to_vec()));
    let mut seen = Vec::new();
    while !seen.ends_with(b"5 6\r\nready\r\n") {
        let FromAgent::Data(part) = host.hear() else {
            panic!()
        };
        seen.extend(part);
    }
    // Ctrl-C.
    host.say(ToAgent::Data(vec![3]));
    let (_, _, last) = host.hear_all();
    assert!(
        matches!(last, FromAgent::Exited(Ended::Signal(2) | Ended::Code(130))),
        "{last:?}"
    );
    host.end();
}

#[test]
fn a_program_ignores_no_signal_because_the_agent_does() {
    sys::ignore(libc::SIGUSR1);
    let (output, _, _) = outcome("grep -E 'SigBlk|SigIgn' /proc/self/status");
    let set = |name| {
        let line = output.lines().find_map(|line| line.strip_prefix(name));
        u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
    };
    // Signals 32 and 33 are the C library's own: it lets nobody change them.
    let of_programs = !(0b11 << 31);
    assert_eq!(set("SigBlk:") & of_programs, 0, "{output}");
    assert_eq!(set("SigIgn:") & of_programs, 0, "{output}");
}

#[test]
fn the_end_of_input_is_the_key_for_it_on_a_terminal() {
    let host = shell("cat", Some(TERMINAL));
    host.say(ToAgent::End);
    assert_eq!(host.hear_all().2, FromAgent::Exited(Ended::Code(0)));
    host.end();
}

#[test]
fn a_program_ends_with_its_host_also_when_it_takes_no_input() {
    for flood in [false, true] {
        let host = shell("echo $$; exec sleep 1000", None);
        let FromAgent::Data(pid) = host.hear() else {
            panic!()
        };
        let pid: u32 = String::from_utf8(pid).unwrap().trim().parse().unwrap();
        if flood {
            // More than the program's pipe holds: the agent waits for room.
            for _ in 0..5 {
                host.say(ToAgent::Data(vec![0; DATA_BYTES_MAX]));
            }
        }
        host.end();
        let gone = || !std::path::Path::new(&format!("/proc/{pid}")).exists();
        let until = Instant::now() + Duration::from_secs(60);
        while !gone() {
            assert!(Instant::now() < until);
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn what_a_program_leaves_running_is_not_waited_for() {
    let (output, _, last) = outcome("sleep 1000 & echo $!");
    assert_eq!(last, FromAgent::Exited(Ended::Code(0)));
    let killed = Command::new("kill").arg(output.trim()).status().unwrap();
    assert!(killed.success());
}

#[test]
fn what_cannot_be_run_is_told() {
    let refused = |command: &[&str], name: &[u8]| {
        let host = HostEnd::ask(ToAgent::Exec(Exec {
            command: command
                .iter()
                .map(|word| word.as_bytes().to_vec())
                .collect(),
            environment: vec![(name.to_vec(), Vec::new())],
            terminal: None,
        }));
        let FromAgent::Failed { because, message } = host.hear() else {
            panic!()
        };
        host.end();
        (because, message)
    };
    assert_eq!(refused(&[], b"A").0, FailedBecause::Refused);
    let (because, message) = refused(&["nvvmm-no-such-program"], b"A");
    assert_eq!(because, FailedBecause::NotFound);
    assert!(message.contains("nvvmm-no-such-program"), "{message}");
    assert_eq!(refused(&["/etc/passwd"], b"A").0, FailedBecause::Refused);
    assert_eq!(refused(&["true"], b"A=B").0, FailedBecause::Refused);
    assert_eq!(refused(&["true", "a\0b"], b"A").0, FailedBecause::Failed);
}

#[test]
fn a_stream_that_begins_with_no_request_is_refused() {
    let host = HostEnd::ask(ToAgent::End);
    let FromAgent::Failed { because, .. } = host.hear() else {
        panic!()
    };
    assert_eq!(because, FailedBecause::Refused);
    host.end();
}
