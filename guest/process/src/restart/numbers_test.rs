use std::os::unix::process::CommandExt;
use std::process::Command;

use super::*;

fn taken() -> io::Error {
    io::Error::from_raw_os_error(libc::EEXIST)
}

#[test]
fn a_number_that_nobody_has_is_waited_for() {
    // No process can have it.
    let number = Pid::MAX;
    let mut tries = 0;
    let made = make_with(number, || {
        tries += 1;
        Ok(if tries < 50 { Err(taken()) } else { Ok(tries) })
    });
    assert_eq!(made.expect("it is free at last"), 50);
}

#[test]
fn a_number_that_somebody_has_is_refused_at_once() {
    let own = std::process::id() as Pid;
    let refused = make_with(own, || -> Result<io::Result<()>, Error> {
        Ok(Err(taken()))
    });
    let words = refused.unwrap_err().to_string();
    assert!(
        words.contains("cannot have its number back: it is in use"),
        "{words}"
    );
    let other = make_with(own, || -> Result<io::Result<()>, Error> {
        Ok(Err(io::Error::from_raw_os_error(libc::EPERM)))
    });
    assert!(matches!(other.unwrap_err(), Error::System { .. }));
}

#[test]
fn a_number_that_is_a_group_or_session_of_another_is_told_with_its_name() {
    // The leader of a session ends, and its child goes on in it.
    let mut leader = Command::new("sh");
    leader.args(["-c", "sleep 1000 >/dev/null 2>&1 </dev/null & echo $!"]);
    // SAFETY: makes one system call, which is allowed between fork and exec.
    unsafe {
        leader.pre_exec(|| {
            libc::setsid();
            Ok(())
        });
    }
    let leader = leader
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("a shell");
    let number = leader.id() as Pid;
    let said = leader.wait_with_output().expect("its end").stdout;
    let sleeper = String::from_utf8(said).expect("a number");
    let how = InUse::look().of(number).expect("it is in use");
    let killed = Command::new("kill")
        .arg(sleeper.trim())
        .status()
        .expect("kill runs");
    assert!(killed.success());
    let expected = format!("process {} (sleep) is in the session", sleeper.trim());
    assert!(how.starts_with(&expected), "{how}");
}
