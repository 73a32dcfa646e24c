use std::io::pipe;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use super::*;

/// Sets it soon, while others wait.
fn soon(interrupted: &Arc<AtomicBool>) {
    let interrupted = Arc::clone(interrupted);
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        interrupted.store(true, Ordering::Relaxed);
    });
}

fn assert_stopped(ended: std::io::Result<usize>) {
    let ended = ended.unwrap_err();
    assert!(
        ended.get_ref().is_some_and(|inner| inner.is::<Stopped>()),
        "{ended}"
    );
}

#[test]
fn a_signal_ends_a_reading_that_nothing_comes_to() {
    let (reader, mut writer) = pipe().unwrap();
    writer.write_all(b"some").unwrap();
    let interrupted = Arc::default();
    let mut input = Interruptible::input(OwnedFd::from(reader).into(), &interrupted);
    let mut bytes = [0; 8];
    assert_eq!(input.read(&mut bytes).unwrap(), 4);
    soon(&interrupted);
    assert_stopped(input.read(&mut bytes));
    drop(writer);
}

#[test]
fn a_signal_ends_a_writing_that_nobody_takes() {
    let (mut reader, writer) = pipe().unwrap();
    let writer = File::from(OwnedFd::from(writer));
    let interrupted = Arc::default();
    let mut output = Interruptible::output(&writer, &interrupted).unwrap();
    soon(&interrupted);
    let mut written = 0;
    let ended = loop {
        match output.write(&[7; 5000]) {
            Ok(bytes) => written += bytes,
            ended => break ended,
        }
    };
    assert_stopped(ended);
    assert!(written > 5000);
    drop((writer, output));
    let mut taken = Vec::new();
    reader.read_to_end(&mut taken).unwrap();
    assert_eq!(taken, vec![7; written]);
}

#[test]
fn a_pipe_that_nobody_reads_is_broken() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let writer = File::from(OwnedFd::from(writer));
    let mut output = Interruptible::output(&writer, &Arc::default()).unwrap();
    assert_eq!(
        output.write(b"x").unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
}
