//! The console's connections on the host.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, RawFd};

use super::client::Client;
use super::kept::KeptOutput;
use crate::host_socket::HostSocket;

/// Source of console input and destinations of output. All of them may be missing.
#[derive(Default)]
pub struct ConsoleStreams {
    /// Input, usually a duplicate of standard input. Putting a terminal into raw mode is the
    /// caller's part.
    pub input: Option<File>,
    /// Output, usually a duplicate of standard output.
    pub output: Option<File>,
    /// A socket that clients connect to for both.
    pub socket: Option<HostSocket>,
    /// A file that keeps the latest output.
    pub kept: Option<KeptOutput>,
    /// Those who are connected to it already.
    pub(super) clients: HashMap<RawFd, Client>,
}

impl ConsoleStreams {
    /// Standard output, and standard input when `with_input`.
    ///
    /// # Errors
    /// A descriptor cannot be duplicated: it is closed, or there are too many.
    pub fn stdio(with_input: bool) -> io::Result<Self> {
        let output = Some(File::from(io::stdout().as_fd().try_clone_to_owned()?));
        let input = match with_input {
            true => Some(File::from(io::stdin().as_fd().try_clone_to_owned()?)),
            false => None,
        };
        Ok(Self {
            input,
            output,
            ..Self::default()
        })
    }
}
