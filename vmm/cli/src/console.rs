//! `nvvmm console`: the terminal and a VM's console socket, byte for byte.

use std::io::{self, Read, Write, stdin, stdout};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nvvmm::control::client::{CONNECT_TIMEOUT, connect};
use nvvmm::control::{ControlClient, RuntimeDir};
use nvvmm::{ErrorKind, VmError};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::terminal::{ESCAPE_KEY, RawTerminal, tell};

/// Attaches stdin and stdout to the console of the VM until Ctrl-], a signal, or the end of the VM.
pub fn attach(vm: &str) -> Result<(), VmError> {
    let entry = RuntimeDir::of_user()?.find(vm)?;
    // A VM process that is stopped would take the connection, and say nothing.
    if let Ok(mut control) = ControlClient::connect(&entry.paths.control) {
        control.ping()?;
    }
    let socket = connect(&entry.paths.console, CONNECT_TIMEOUT).map_err(|e| {
        VmError::new(
            ErrorKind::Refused,
            format!(
                "the console socket {} does not answer: {e}",
                entry.paths.console.display()
            ),
        )
        .with_remedy("the VM is starting or ending; look at 'nvvmm ps' in a moment")
    })?;
    let (signalled, on_signal) = UnixStream::pair().map_err(failed)?;
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::low_level::pipe::register(signal, on_signal.try_clone().map_err(failed)?)
            .map_err(failed)?;
    }
    let raw = RawTerminal::enter()?;
    if raw.is_some() {
        tell(&format!(
            "nvvmm: this is the console of {vm}; Ctrl-] leaves it\n"
        ));
    }
    let end = relay(&socket, &signalled, raw.is_some());
    let was_terminal = raw.is_some();
    drop(raw);
    let end = end.map_err(failed)?;
    if was_terminal {
        tell(&format!("\nnvvmm: {}\n", end.text(vm)));
    }
    Ok(())
}

fn failed(e: io::Error) -> VmError {
    VmError::io("carry the console", &e)
}

/// Reason for the end of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Left,
    VmGone,
    Signalled,
}

impl End {
    fn text(self, vm: &str) -> String {
        match self {
            Self::Left => format!("left the console, {vm} goes on"),
            Self::VmGone => format!("{vm} closed its console"),
            Self::Signalled => "left the console on a signal".to_owned(),
        }
    }
}

/// Carries bytes both ways. When stdin ends, output goes on until the VM closes the console.
fn relay(socket: &UnixStream, signalled: &UnixStream, escape: bool) -> io::Result<End> {
    let mut bytes = [0; 4096];
    let mut typing = true;
    loop {
        let keyboard = stdin();
        let mut waits = vec![
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(signalled.as_fd(), PollFlags::POLLIN),
        ];
        if typing {
            waits.push(PollFd::new(keyboard.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut waits, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let ready: Vec<bool> = waits.iter().map(|w| w.any() == Some(true)).collect();
        if ready[1] {
            return Ok(End::Signalled);
        }
        if ready[0] {
            let mut from_vm: &UnixStream = socket;
            match from_vm.read(&mut bytes) {
                Ok(0) => return Ok(End::VmGone),
                Ok(count) => show(&bytes[..count])?,
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(End::VmGone),
                Err(e) => return Err(e),
            }
        }
        if ready.get(2) == Some(&true) {
            // Unbuffered, or poll would not see what a buffer holds.
            let count = nix::unistd::read(&keyboard, &mut bytes)?;
            let typed = &bytes[..count];
            let (typed, leave) = if escape {
                before_escape(typed)
            } else {
                (typed, false)
            };
            let mut to_vm: &UnixStream = socket;
            match to_vm.write_all(typed) {
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                    ) =>
                {
                    return Ok(End::VmGone);
                }
                other => other?,
            }
            if leave {
                return Ok(End::Left);
            }
            if count == 0 {
                typing = false;
                socket.shutdown(Shutdown::Write)?;
            }
        }
    }
}

fn show(bytes: &[u8]) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

/// Input before Ctrl-], and true if there was a Ctrl-].
pub fn before_escape(typed: &[u8]) -> (&[u8], bool) {
    match typed.iter().position(|&key| key == ESCAPE_KEY) {
        Some(at) => (&typed[..at], true),
        None => (typed, false),
    }
}

#[cfg(test)]
#[path = "console_test.rs"]
mod console_test;
