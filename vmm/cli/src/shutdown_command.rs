//! `nvvmm shutdown`: asks the guest to switch itself off, and waits until it has.
//!
//! Presses the machine's power button, then has the agent run `poweroff`. A guest without an agent
//! may still follow the button. One that does not follow at all runs on, or its VM process is
//! killed if the user said so.

use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nvvmm::agent::call::{self, call};
use nvvmm::control::RuntimeDir;
use nvvmm::control::registry::Entry;
use nvvmm::{ErrorKind, VmError};
use nvvmm_protocol::{Ended, Exec, FailedBecause, FromAgent, ToAgent, receive, send};

use super::args::ShutdownArguments;
use super::names::{self, Chosen, Kind};
use super::spares;
use super::terminal::tell;
use super::vm_commands::{connect, kill_one};

/// Program that switches a guest off.
const PROGRAM: &str = "poweroff";
/// Longest text of the program that an error repeats, in bytes.
const SAID_BYTES_MAX: usize = 500;
const POLL: Duration = Duration::from_millis(50);
/// Time in which a guest that has a driver for the power button reads that it was pressed.
const BUTTON_PATIENCE: Duration = Duration::from_secs(2);

/// `nvvmm shutdown`.
pub fn run(arguments: &ShutdownArguments) -> Result<ExitCode, VmError> {
    let dir = RuntimeDir::of_user()?;
    let choice = arguments.names.choice(arguments.force);
    let chosen = Chosen::of(&choice, Kind::Vm, &names::running(&dir)?);
    if arguments.names.all {
        spares::end_those_of(&dir, |_| true)?;
    }
    Ok(
        chosen.each_at_once(|vm| match shut_down(&dir, vm, arguments.timeout) {
            Err(failure) if arguments.force && failure.kind == ErrorKind::Refused => {
                tell(&format!(
                    "nvvmm: {}; its process is killed\n",
                    failure.message
                ));
                kill_one(&dir, vm)
            }
            done => done,
        }),
    )
}

fn shut_down(dir: &RuntimeDir, vm: &str, timeout: Duration) -> Result<(), VmError> {
    let until = Instant::now() + timeout;
    let entry = dir.find(vm)?;
    let button = Button::press(&entry);
    let mut answer = match ask(&entry, timeout) {
        Ok(answer) => Some(answer),
        Err(error) => {
            button.must_be_heard(dir, vm, until, error.message, error.remedy)?;
            None
        }
    };
    while dir.is_living(vm)? {
        if Instant::now() >= until {
            return Err(not_in_time(vm, timeout));
        }
        match answer.as_ref().map(|answer| answer.recv_timeout(POLL)) {
            Some(Ok(Answer::Asked)) => tracing::debug!(vm, "the agent has asked the guest"),
            Some(Ok(Answer::Failed(why))) => {
                button.must_be_heard(dir, vm, until, why, None)?;
                answer = None;
            }
            // Its stream ends when the guest ends its programs.
            Some(Err(RecvTimeoutError::Disconnected)) | None => thread::sleep(POLL),
            Some(Err(RecvTimeoutError::Timeout)) => {}
        }
    }
    tracing::debug!(vm, "the guest is off");
    Ok(())
}

/// The VM's power button, which was pressed, or why it could not be.
struct Button<'a> {
    entry: &'a Entry,
    pressed: Result<Instant, VmError>,
}

impl<'a> Button<'a> {
    fn press(entry: &'a Entry) -> Self {
        let pressed = connect(entry).and_then(|mut vm| vm.power_button(true));
        Self {
            entry,
            pressed: pressed.map(|_| Instant::now()),
        }
    }

    /// Waits until the guest has read that the button was pressed: it has a driver for it.
    ///
    /// # Errors
    /// The guest has not read that in time, or nothing was pressed: why the agent failed.
    fn must_be_heard(
        &self,
        dir: &RuntimeDir,
        vm: &str,
        until: Instant,
        why: String,
        remedy: Option<String>,
    ) -> Result<(), VmError> {
        let pressed = match &self.pressed {
            Ok(pressed) => *pressed,
            Err(error) => {
                tracing::debug!(vm, %error, "the power button could not be pressed");
                return Err(not_asked(vm, &why, remedy));
            }
        };
        let until = until.min(pressed + BUTTON_PATIENCE);
        loop {
            let unread = connect(self.entry).and_then(|mut vm| vm.power_button(false));
            match unread {
                Ok(false) => return Ok(()),
                Err(_) if !dir.is_living(vm)? => return Ok(()),
                _ if Instant::now() >= until => {
                    let why = format!("{why}, and it has no driver for the power button");
                    return Err(not_asked(vm, &why, remedy));
                }
                _ => thread::sleep(POLL),
            }
        }
    }
}

/// The program's end, as the agent reports it.
enum Answer {
    /// The guest has begun to shut down.
    Asked,
    /// The guest will not, for this reason.
    Failed(String),
}

/// Has the agent run the program.
fn ask(entry: &Entry, timeout: Duration) -> Result<Receiver<Answer>, VmError> {
    let vm = &entry.paths.name;
    let stream = call(&entry.paths, call::PATIENCE.min(timeout))?;
    let request = ToAgent::Exec(Exec {
        command: vec![PROGRAM.into()],
        environment: Vec::new(),
        terminal: None,
    });
    for message in [request, ToAgent::End] {
        send(&stream, &message).map_err(|error| call::broken(vm, error))?;
    }
    let (sender, answer) = mpsc::channel();
    thread::Builder::new()
        .name("answer".into())
        .spawn(move || {
            if let Some(answer) = hear(&stream) {
                let _ = sender.send(answer);
            }
        })
        .map_err(|e| VmError::io("wait for the guest", &e))?;
    Ok(answer)
}

/// The agent's answer; `None` when the stream ends without one.
fn hear(stream: &UnixStream) -> Option<Answer> {
    let mut said = Vec::new();
    loop {
        match receive(stream).ok()? {
            FromAgent::Data(bytes) | FromAgent::ErrorData(bytes) => {
                let room = SAID_BYTES_MAX.saturating_sub(said.len());
                said.extend_from_slice(&bytes[..bytes.len().min(room)]);
            }
            FromAgent::Exited(Ended::Code(0)) => return Some(Answer::Asked),
            // The shutdown ends programs, this one too.
            FromAgent::Exited(Ended::Signal(_)) => return Some(Answer::Asked),
            FromAgent::Exited(Ended::Code(code)) => {
                let said = String::from_utf8_lossy(&said);
                let why = format!(
                    "'{PROGRAM}' in the guest failed with {code}: {}",
                    said.trim()
                );
                return Some(Answer::Failed(why));
            }
            FromAgent::Failed {
                because: FailedBecause::NotFound,
                ..
            } => {
                return Some(Answer::Failed(format!(
                    "the guest has no program '{PROGRAM}'"
                )));
            }
            FromAgent::Failed { message, .. } => return Some(Answer::Failed(message)),
            _ => {
                return Some(Answer::Failed(
                    "the agent sent an unexpected message".into(),
                ));
            }
        }
    }
}

fn not_asked(vm: &str, why: &str, remedy: Option<String>) -> VmError {
    let otherwise = format!("'nvvmm stop {vm}' ends the VM without its guest");
    VmError::new(
        ErrorKind::Refused,
        format!("the guest of VM '{vm}' cannot be asked to shut down: {why}"),
    )
    .with_remedy(match remedy {
        Some(remedy) => format!("{remedy}; {otherwise}"),
        None => otherwise,
    })
}

fn not_in_time(vm: &str, timeout: Duration) -> VmError {
    VmError::new(
        ErrorKind::Refused,
        format!(
            "the guest of VM '{vm}' has not shut down in {}",
            humantime::format_duration(timeout)
        ),
    )
    .with_remedy(format!(
        "give it more time with --timeout, or end the VM without its guest with 'nvvmm stop {vm}'"
    ))
}

#[cfg(test)]
#[path = "shutdown_command_test.rs"]
mod shutdown_command_test;
