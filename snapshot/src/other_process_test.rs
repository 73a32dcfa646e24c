use std::process::{Command, Stdio};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn state(letter: char, cpu_ticks: u64) -> Option<ProcessState> {
    Some(ProcessState { letter, cpu_ticks })
}

/// Seconds until the limit is reached, with a state for each second.
fn seconds_until(states: impl Fn(u64) -> (Option<ProcessState>, u64)) -> u64 {
    let mut elapsed = Elapsed::default();
    (1..100_000)
        .find(|second| {
            let (state, progress) = states(*second);
            elapsed.is_too_long_after(SECOND, state, progress)
        })
        .unwrap()
}

#[test]
fn a_stopped_process_is_not_waited_for_long() {
    assert_eq!(seconds_until(|_| (state('T', 7), 0)), STOPPED_MAX.as_secs());
    assert_eq!(seconds_until(|_| (state('t', 7), 0)), STOPPED_MAX.as_secs());
}

#[test]
fn a_process_that_works_is_waited_for_an_hour_and_one_that_gets_on_for_ever() {
    assert_eq!(seconds_until(|second| (state('S', second), 0)), 3600);
    assert_eq!(
        seconds_until(|second| (state('S', 7), second.min(9_000))),
        9_000 - 1 + IDLE_MAX.as_secs()
    );
}

#[test]
fn a_process_that_does_nothing_has_a_minute_and_a_disk_has_five() {
    assert_eq!(seconds_until(|_| (state('S', 7), 0)), 60);
    assert_eq!(seconds_until(|_| (None, 0)), 20);
    assert_eq!(seconds_until(|_| (state('D', 7), 0)), 300);
}

#[test]
fn a_process_that_was_stopped_and_goes_on_has_all_its_time_again() {
    let mut elapsed = Elapsed::default();
    let half = STOPPED_MAX / 2;
    assert!(!elapsed.is_too_long_after(half, state('T', 7), 0));
    assert!(!elapsed.is_too_long_after(half / 2, state('R', 8), 0));
    assert!(!elapsed.is_too_long_after(half, state('T', 8), 0));
}

#[test]
fn the_name_of_a_process_may_have_brackets_in_it() {
    let stat = "12 (a) T 9) S 1 12 12 0 -1 4194560 94 0 0 0 3 4 0 0 20 0 1 0 100 0 0";
    assert_eq!(ProcessState::parse(stat), state('S', 7));
    assert_eq!(ProcessState::parse("12"), None);
    assert_eq!(ProcessState::parse("12 (a)"), None);
    assert_eq!(ProcessState::parse("12 (a) S 1 2"), None);
}

#[test]
fn a_stopped_process_is_named_with_its_command_and_state() {
    let mut child = Command::new("/bin/sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    while !ProcessState::of(child.id()).unwrap().is_stopped() {
        std::thread::yield_now();
    }
    let text = ProcessText(child.id()).to_string();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(
        text,
        format!("process {pid} (sleep 1000), which is stopped")
    );
    assert_eq!(ProcessState::of(child.id()), None);
}

#[test]
fn a_command_that_would_trouble_a_terminal_is_named_without_it() {
    let mut child = Command::new("/bin/sh")
        .args(["\x1b[2J\nboo", "x"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let text = ProcessText(child.id()).to_string();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!text.contains('\x1b') && !text.contains('\n'), "{text:?}");
}
