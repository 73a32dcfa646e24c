use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixListener,
    thread,
};

use super::{Console, number, numbers};

/// A guest that answers each line with the next of `answers`.
fn console(answers: &'static [&'static str]) -> (tempfile::TempDir, Console) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines();
        for (_, answer) in lines.zip(answers) {
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let console = Console::connect(&path).unwrap();
    (dir, console)
}

#[test]
fn answers_are_told_from_what_else_is_said() {
    let (_dir, mut console) = console(&["@ ready vcpus=2\n@ fill ok frames=256\n"]);
    assert_eq!(console.ask("fill 1 7").unwrap(), "@ fill ok frames=256");
}

#[test]
fn a_lie_and_a_refusal_are_errors() {
    let (_dir, mut console) = console(&["@ check bad gfn=7 what=stale\n", "@ err churn is on\n"]);
    assert!(console.ask("check").unwrap_err().message.contains("gfn=7"));
    assert!(
        console
            .ask("fill 1 1")
            .unwrap_err()
            .message
            .contains("churn is on")
    );
}

#[test]
fn a_guest_that_is_gone_is_an_error_at_once() {
    let (_dir, mut console) = console(&["@ bye\n"]);
    console.ask("bye").unwrap();
    assert!(console.ask("stat").is_err());
}

#[test]
fn numbers_are_found_by_name() {
    assert_eq!(
        number("@ check ok frames=25 churned=1", "frames").unwrap(),
        25
    );
    assert!(number("@ check ok frames=x", "frames").is_err());
    assert!(number("@ check ok", "frames").is_err());
}

#[test]
fn several_numbers_have_commas_between_them() {
    let answer = "@ stat filled=4096 churn=on seq=12,7 faults=0";
    assert_eq!(numbers(answer, "seq").unwrap(), [12, 7]);
    assert_eq!(numbers(answer, "faults").unwrap(), [0]);
    assert!(number(answer, "seq").is_err());
    assert!(numbers(answer, "churn").is_err());
}
