//! A program's standard streams, carried between it and the host.
//!
//! The thread that serves the host's stream waits for the program; one thread carries input, one or
//! two carry output. A program whose host goes away is hung up on, as with a terminal that is
//! closed.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use nvvmm_protocol::{DATA_BYTES_MAX, Ended, FromAgent, TerminalSize, ToAgent, receive, send};

use crate::stream::{Failure, Stream};
use crate::sys;

/// The byte that ends the input of a terminal: Ctrl-D.
const END_OF_INPUT: u8 = 4;

/// Makes the message to the host for output.
type Wrap = fn(Vec<u8>) -> FromAgent;

/// Standard input, output and error: the program's ends, and ours.
pub struct Stdio {
    pub theirs: [OwnedFd; 3],
    pub ours: Ends,
}

/// Our ends.
pub struct Ends {
    input: File,
    outputs: Vec<(File, Wrap)>,
    is_terminal: bool,
}

impl Stdio {
    /// A terminal of that size, or pipes. No other program inherits them.
    pub fn new(terminal: Option<TerminalSize>) -> io::Result<Self> {
        let stdio = match terminal {
            Some(size) => Self::terminal(size)?,
            None => Self::pipes()?,
        };
        sys::set_nonblocking(stdio.ours.input.as_fd())?;
        Ok(stdio)
    }

    fn pipes() -> io::Result<Self> {
        let (input, our_input) = io::pipe()?;
        let (our_output, output) = io::pipe()?;
        let (our_errors, errors) = io::pipe()?;
        let file = |end: OwnedFd| File::from(end);
        Ok(Self {
            theirs: [input.into(), output.into(), errors.into()],
            ours: Ends {
                input: file(our_input.into()),
                outputs: vec![
                    (file(our_output.into()), FromAgent::Data),
                    (file(our_errors.into()), FromAgent::ErrorData),
                ],
                is_terminal: false,
            },
        })
    }

    fn terminal(size: TerminalSize) -> io::Result<Self> {
        let (ours, theirs) = sys::open_terminal()?;
        sys::resize(ours.as_fd(), size)?;
        Ok(Self {
            theirs: [theirs.try_clone()?, theirs.try_clone()?, theirs],
            ours: Ends {
                input: ours.try_clone()?.into(),
                outputs: vec![(ours.into(), FromAgent::Data)],
                is_terminal: true,
            },
        })
    }
}

/// Carries all of it until the program, a child of this process, has ended; tells the host how.
pub fn carry(program: u32, ends: Ends, stream: &mut impl Stream) -> Result<(), Failure> {
    let child = Arc::new(Mutex::new(Some(program)));
    let failed = |error: io::Error| Failure::io("cannot carry the program's output", &error);
    let (exited, running) = io::pipe().map_err(failed)?;
    let output = Arc::new(Mutex::new(stream.another().map_err(failed)?));
    let mut carriers = Vec::new();
    for (source, wrap) in ends.outputs {
        let (output, exited) = (Arc::clone(&output), exited.try_clone().map_err(failed)?);
        carriers.push(thread::spawn(move || {
            carry_output(source, wrap, &exited, &output)
        }));
    }
    let from_host = stream.another().map_err(failed)?;
    let input = Input {
        sink: Some(ends.input),
        terminal: ends.is_terminal,
        child: Arc::clone(&child),
    };
    let input = thread::spawn(move || input.carry(from_host));

    sys::wait_for_exit(program);
    // Before it is reaped: afterwards another process may have its number.
    *child.lock().unwrap_or_else(PoisonError::into_inner) = None;
    let status = sys::reap(program);
    drop(running);
    for carrier in carriers {
        let _ = carrier.join();
    }
    let status = status.map_err(|error| Failure::io("cannot wait for the program", &error))?;
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Code(code),
        (None, signal) => Ended::Signal(signal.unwrap_or_default()),
    };
    let said = send(&mut *stream, &FromAgent::Exited(ended));
    // The input ends when the host ends the stream.
    let _ = input.join();
    Ok(said?)
}

/// Carries output until it ends, or until the program has ended and there is none for now: what it
/// has left running in the background may hold the other end for ever.
fn carry_output(mut source: File, wrap: Wrap, exited: &PipeReader, stream: &Mutex<impl Stream>) {
    let mut bytes = vec![0; DATA_BYTES_MAX];
    loop {
        let Ok([readable, is_over]) = sys::wait_readable([source.as_fd(), exited.as_fd()]) else {
            return;
        };
        if !readable {
            if is_over {
                return;
            }
            continue;
        }
        match source.read(&mut bytes) {
            Ok(0) => return,
            Ok(len) => {
                let message = wrap(bytes[..len].to_vec());
                let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
                // The thread that carries the input notices a host that is gone. Reading goes on,
                // so that the program can end.
                let _ = send(&mut *stream, &message);
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            // EIO: no program has the terminal open.
            Err(_) => return,
        }
    }
}

/// The direction from the host to the program.
struct Input {
    sink: Option<File>,
    terminal: bool,
    /// The program's process id, while it was not reaped.
    child: Arc<Mutex<Option<u32>>>,
}

impl Input {
    /// Carries what comes until the host ends the stream.
    fn carry(mut self, mut stream: impl Stream) {
        while let Ok(message) = receive(&mut stream) {
            match message {
                ToAgent::Data(bytes) => self.write(&bytes, &stream),
                ToAgent::End if self.terminal => self.write(&[END_OF_INPUT], &stream),
                ToAgent::End => self.sink = None,
                ToAgent::Resize(size) => {
                    if let Some(terminal) = self.sink.as_ref().filter(|_| self.terminal) {
                        // A terminal that cannot be resized is gone.
                        let _ = sys::resize(terminal.as_fd(), size);
                    }
                }
                _ => break,
            }
        }
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = *child {
            sys::hang_up(child);
        }
    }

    /// Writes all of `bytes`, unless the program takes no more or the host goes away meanwhile.
    fn write(&mut self, bytes: &[u8], stream: &impl Stream) {
        let mut rest = bytes;
        while let Some(sink) = &mut self.sink
            && !rest.is_empty()
        {
            match sys::wait_writable_unless_ended(sink.as_fd(), stream.as_fd()) {
                Ok(true) => {}
                Ok(false) | Err(_) => return,
            }
            match sink.write(rest) {
                Ok(len) => rest = &rest[len..],
                Err(error)
                    if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
                Err(_) => self.sink = None,
            }
        }
    }
}
