//! `nvvmm console`: the terminal and a VM's console socket, byte for byte.
//!
//! `attended` uses the same for a VM in the foreground. On a terminal, Ctrl-] leaves the console;
//! `keys` has what else it can begin.

use std::io::{self, Read, Write, stdin, stdout};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nvvmm::control::client::{self, CONNECT_TIMEOUT};
use nvvmm::control::{ControlClient, RuntimeDir};
use nvvmm::{ErrorKind, VmError};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::keys::{Keys, Step};
use super::terminal::{RawTerminal, tell};

/// Attaches stdin and stdout to the console of the VM until Ctrl-], a signal, or the end of the VM.
pub fn attach(vm: &str) -> Result<(), VmError> {
    let entry = RuntimeDir::of_user()?.find(vm)?;
    // A VM process that is stopped would take the connection, and say nothing.
    if let Ok(mut control) = ControlClient::connect(&entry.paths.control) {
        control.ping()?;
    }
    let socket = connect(&entry.paths.console)?;
    let leave = signal_stream(&[SIGHUP, SIGINT, SIGTERM])?;
    let raw = RawTerminal::enter()?;
    if raw.is_some() {
        tell(&format!(
            "nvvmm: this is the console of {vm}; Ctrl-] leaves it\n"
        ));
    }
    let console = Console {
        vm,
        socket: &socket,
        leave: &leave,
        end: None,
        end_vm: &|| ControlClient::connect(&entry.paths.control)?.stop(),
    };
    let end = console.relay(raw.is_some());
    let was_terminal = raw.is_some();
    drop(raw);
    let end = end.map_err(failed)?;
    if was_terminal {
        tell(&format!("\nnvvmm: {}\n", end.text(vm)));
    }
    Ok(())
}

/// Connects to a console's socket.
pub(super) fn connect(path: &Path) -> Result<UnixStream, VmError> {
    client::connect(path, CONNECT_TIMEOUT).map_err(|e| {
        VmError::new(
            ErrorKind::Refused,
            format!("the console socket {} does not answer: {e}", path.display()),
        )
        .with_remedy("the VM is starting or ending; look at 'nvvmm ps' in a moment")
    })
}

/// A stream that can be read when one of these signals has come.
pub(super) fn signal_stream(signals: &[i32]) -> Result<UnixStream, VmError> {
    let (signalled, on_signal) = UnixStream::pair().map_err(failed)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, on_signal.try_clone().map_err(failed)?)
            .map_err(failed)?;
    }
    Ok(signalled)
}

pub(super) fn failed(e: io::Error) -> VmError {
    VmError::io("carry the console", &e)
}

/// Reason for the end of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The user left.
    Left,
    /// The VM closed its console.
    VmGone,
    /// A signal came that means to leave.
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

/// A console that stdin and stdout are attached to.
pub(super) struct Console<'a> {
    /// Name of the VM.
    pub vm: &'a str,
    /// The VM's side.
    pub socket: &'a UnixStream,
    /// Readable when a signal came that means to leave.
    pub leave: &'a UnixStream,
    /// Readable when a signal came that means to end the VM.
    pub end: Option<&'a UnixStream>,
    /// Asks the VM to end.
    pub end_vm: &'a dyn Fn() -> Result<(), VmError>,
}

/// Streams that are ready.
#[derive(Clone, Copy, Debug, Default)]
struct Ready {
    leave: bool,
    end: bool,
    output: bool,
    input: bool,
}

impl Console<'_> {
    /// Carries bytes both ways. When stdin ends, output goes on until the VM closes the console.
    /// With `escape`, stdin is a terminal, and Ctrl-] is the user's.
    pub fn relay(&self, escape: bool) -> io::Result<End> {
        let mut bytes = [0; 4096];
        let mut keys = escape.then(Keys::default);
        let mut typing = true;
        loop {
            let until = keys.as_ref().and_then(Keys::until);
            let ready = self.wait(typing, until)?;
            if ready.leave {
                return Ok(End::Signalled);
            }
            if ready.end {
                self.end_it();
                let _ = self
                    .end
                    .map(|mut stream| stream.read(&mut bytes))
                    .transpose()?;
            }
            if ready.output {
                let mut from_vm = self.socket;
                match from_vm.read(&mut bytes) {
                    Ok(0) => return Ok(End::VmGone),
                    Ok(count) => show(&bytes[..count])?,
                    Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
                        return Ok(End::VmGone);
                    }
                    Err(e) => return Err(e),
                }
            }
            let steps = match (ready.input, &mut keys) {
                (false, None) => continue,
                (false, Some(keys)) => keys.late(Instant::now()),
                (true, keys) => {
                    // Unbuffered, or poll would not see what a buffer holds.
                    let count = nix::unistd::read(stdin(), &mut bytes)?;
                    typing = count > 0;
                    match keys {
                        None => vec![Step::ToGuest(bytes[..count].to_vec())],
                        Some(keys) => keys.typed(&bytes[..count], Instant::now()),
                    }
                }
            };
            for step in steps {
                if let Some(end) = self.take(&step)? {
                    return Ok(end);
                }
            }
            if ready.input && !typing {
                self.socket.shutdown(Shutdown::Write)?;
            }
        }
    }

    /// Waits for a signal, for output unless the user is being asked, and for input.
    fn wait(&self, typing: bool, asked_until: Option<Instant>) -> io::Result<Ready> {
        let keyboard = stdin();
        let watched = [
            (Some(self.leave.as_fd()), true),
            (self.end.map(AsFd::as_fd), true),
            (Some(self.socket.as_fd()), asked_until.is_none()),
            (Some(keyboard.as_fd()), typing),
        ];
        let mut waits = Vec::new();
        let mut places = [None; 4];
        for (index, (fd, wanted)) in watched.into_iter().enumerate() {
            if let (Some(fd), true) = (fd, wanted) {
                places[index] = Some(waits.len());
                waits.push(PollFd::new(fd, PollFlags::POLLIN));
            }
        }
        let limit = asked_until.map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now());
            // A moment more, so that the time is really up.
            PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut waits, limit) {
            Err(Errno::EINTR) => return Ok(Ready::default()),
            other => other?,
        };
        let is_ready = |index: usize| {
            places[index].is_some_and(|place: usize| waits[place].any() == Some(true))
        };
        Ok(Ready {
            leave: is_ready(0),
            end: is_ready(1),
            output: is_ready(2),
            input: is_ready(3),
        })
    }

    /// Carries out what the user typed. Gives the end of the relay, if it is that.
    fn take(&self, step: &Step) -> io::Result<Option<End>> {
        let vm = self.vm;
        match step {
            Step::ToGuest(typed) => {
                let mut to_vm = self.socket;
                match to_vm.write_all(typed) {
                    Err(e)
                        if matches!(
                            e.kind(),
                            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                        ) =>
                    {
                        return Ok(Some(End::VmGone));
                    }
                    other => other?,
                }
            }
            Step::Ask => tell(&format!(
                "\nnvvmm: Enter leaves the console, q ends {vm}, b goes back: "
            )),
            Step::AskToEnd => tell(&format!(
                "\nnvvmm: end {vm}? Changes since its last snapshot are lost. y ends it, other \
                 keys go back: "
            )),
            Step::Back => tell(&format!("\nnvvmm: back at the console of {vm}\n")),
            Step::EndVm => {
                tell(&format!("\nnvvmm: {vm} is asked to end\n"));
                self.end_it();
            }
            Step::Leave => return Ok(Some(End::Left)),
        }
        Ok(None)
    }

    fn end_it(&self) {
        if let Err(error) = (self.end_vm)() {
            super::error::print(&error);
        }
    }
}

fn show(bytes: &[u8]) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}
