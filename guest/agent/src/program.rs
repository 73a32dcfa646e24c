//! Programs that the host runs in the guest.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nvvmm_protocol::{Exec, FailedBecause};

use crate::attached::{self, Ends, Stdio};
use crate::stream::{Failure, Stream};
use crate::sys;

/// Runs a program to its end.
pub fn run(exec: &Exec, stream: &mut impl Stream) -> Result<(), Failure> {
    let (program, ends) = start(exec)?;
    attached::carry(program, ends, stream)
}

fn start(exec: &Exec) -> Result<(u32, Ends), Failure> {
    let [program, arguments @ ..] = &exec.command[..] else {
        let message = "there is no program to run".to_owned();
        return Err(Failure::Said(FailedBecause::Refused, message));
    };
    let what = String::from_utf8_lossy(program).into_owned();
    let mut command = Command::new(OsStr::from_bytes(program));
    command.args(arguments.iter().map(|argument| OsStr::from_bytes(argument)));
    for (name, value) in &exec.environment {
        if name.is_empty() || name.contains(&b'=') {
            let message = format!(
                "{:?} is no name of a variable",
                String::from_utf8_lossy(name)
            );
            return Err(Failure::Said(FailedBecause::Refused, message));
        }
        command.env(OsStr::from_bytes(name), OsStr::from_bytes(value));
    }
    sys::with_usual_signals(&mut command);
    if exec.terminal.is_some() {
        sys::lead_session(&mut command);
    } else {
        command.process_group(0);
    }
    let start = || -> io::Result<(u32, Ends)> {
        let stdio = Stdio::new(exec.terminal)?;
        let [input, output, errors] = stdio.theirs;
        let child = command.stdin(input).stdout(output).stderr(errors).spawn()?;
        // Closes our copies of the program's ends, so that the streams end with the program.
        drop(command);
        Ok((child.id(), stdio.ours))
    };
    start().map_err(|error| match error.kind() {
        // fork(2), whose words would mislead: the limit is of processes or threads.
        io::ErrorKind::WouldBlock => {
            let why = "the guest can start no more programs for now";
            Failure::Said(FailedBecause::Failed, format!("{what}: {why}"))
        }
        _ => Failure::io(&what, &error),
    })
}

#[cfg(test)]
#[path = "program_test.rs"]
mod program_test;
