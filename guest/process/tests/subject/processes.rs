//! A process with children.

use std::fs::File;
use std::io::{Read, Write, pipe};
use std::process::exit;

use crate::memory::Region;
use crate::{Check, Fixture, wait_for};

pub fn scenario(name: &str, fixture: &Fixture) -> Option<Check> {
    Some(match name {
        "tree" => tree(fixture),
        _ => return None,
    })
}

/// Starts a child; it ends with what the body returns.
pub fn fork(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: there is one thread, so the child may go on like any program.
    match unsafe { libc::fork() } {
        0 => exit(body()),
        pid => {
            assert!(pid > 0, "fork");
            pid
        }
    }
}

pub fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: status is a place for the answer.
    let ended = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(ended, pid, "its child is not its child");
    assert!(libc::WIFEXITED(status), "{status:#x}");
    libc::WEXITSTATUS(status)
}

/// Two children and a grandchild, which share memory that nobody has written since, a file, and
/// pipes; one child leads a process group that the grandchild is in. All of them wait; the
/// grandchild's answer comes up through its parent.
fn tree(fixture: &Fixture) -> Check {
    let region = Region::anonymous(64);
    (0..64).for_each(|page| region.fill(page, 21));
    std::fs::write(fixture.path("shared"), "0123456789").expect("a file");
    let mut shared = File::open(fixture.path("shared")).expect("the file");
    let (mut answers, mut answer) = pipe().expect("a pipe");
    let (mut questions, mut question) = pipe().expect("a pipe");
    let go = fixture.path("go");
    let first = fork(|| {
        // SAFETY: the call takes numbers only.
        assert_eq!(unsafe { libc::setpgid(0, 0) }, 0);
        // SAFETY: the call takes nothing.
        let group = unsafe { libc::getpid() };
        let grandchild = fork(|| {
            region.fill(1, 22);
            std::fs::write(go.with_file_name("grandchild"), "").expect("a file");
            let mut word = [0; 3];
            questions.read_exact(&mut word).expect("a question");
            (2..64).for_each(|page| region.assert_filled(page, 21));
            region.assert_filled(1, 22);
            // SAFETY: the calls take numbers only.
            let related = unsafe { libc::getpgid(0) == group && libc::getppid() == group };
            answer
                .write_all(if related && &word == b"go?" {
                    b"yes"
                } else {
                    b"no!"
                })
                .expect("room");
            17
        });
        wait(grandchild) + 1
    });
    let second = fork(|| {
        wait_for(&go);
        let mut digits = [0; 4];
        (&shared).read_exact(&mut digits).expect("digits");
        i32::from(&digits == b"0123")
    });
    wait_for(&fixture.path("grandchild"));
    Box::new(move || {
        assert_eq!(wait(second), 1);
        let mut digits = [0; 4];
        shared.read_exact(&mut digits).expect("digits");
        assert_eq!(
            &digits, b"4567",
            "parent and child have no common offset any more"
        );
        question.write_all(b"go?").expect("room");
        assert_eq!(wait(first), 18);
        let mut word = [0; 3];
        answers.read_exact(&mut word).expect("an answer");
        assert_eq!(&word, b"yes");
        (0..64).for_each(|page| region.assert_filled(page, 21));
    })
}
