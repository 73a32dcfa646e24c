//! passt: user-mode networking for one VM, in a process of its own.
//!
//! Each passt has one end of a socket pair, and ends when the other one is closed: with the VM,
//! however that ends. Options are those that versions from 2023 to now have in common.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::unistd::pipe2;
use nvvmm_devices::virtio::{NetPort, NetSpec, Published, StreamBackend};

use super::{NetError, ports};

const PROGRAM: &str = "passt";
/// Longest time that a passt which says nothing has before it counts as ready.
const PATIENCE: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(1);
/// Lines of its log that are not about anything.
const NOISE: [&str; 2] = ["Failed to send ", "Don't run as root"];
/// Longest tail of what it said that is logged, in bytes.
const SAID_BYTES_MAX: usize = 2000;

/// A started passt. It is a child of this process, which reaps it when it has ended, or has the
/// system do that: nothing here waits for it.
pub struct Passt {
    child: Child,
    stream: UnixStream,
    said: File,
}

impl Passt {
    /// Starts a passt for a card, and waits until it answers.
    ///
    /// # Errors
    /// There is none, it has ended, or a port of `published` cannot be had.
    pub fn start(spec: &NetSpec, published: &[Published]) -> Result<NetPort, NetError> {
        ports::check_free(published)?;
        let mut passt = Self::spawn(spec.mtu, published)?;
        passt.wait_until_ready(spec.mac.0)?;
        ports::check_taken(published)?;
        let backend = StreamBackend::new(PROGRAM, passt.stream)
            .map_err(host("make the stream to passt one that does not wait"))?;
        let said = Mutex::new(passt.said);
        let port = NetPort::new(Box::new(backend));
        Ok(port.with_last_words(Box::new(move || {
            said_in(&mut said.lock().unwrap_or_else(PoisonError::into_inner))
        })))
    }

    fn spawn(mtu: u16, published: &[Published]) -> Result<Self, NetError> {
        let (stream, theirs) = UnixStream::pair().map_err(host("make a socket pair for passt"))?;
        // A pipe that is full drops what is said, and keeps nobody waiting.
        let (said, stderr) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
            .map_err(|error| host("make a pipe for passt")(error.into()))?;
        fcntl(&theirs, FcntlArg::F_SETFD(FdFlag::empty()))
            .map_err(|error| host("give passt its socket")(error.into()))?;
        let mut command = Command::new(PROGRAM);
        command
            .args(["--foreground", "--quiet", "--no-map-gw", "--mtu"])
            .arg(mtu.to_string())
            .arg("--fd")
            .arg(theirs.as_raw_fd().to_string())
            .args(published.iter().flat_map(ports::passt_option))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            // Keys of a terminal that end this process end passt after it.
            .process_group(0);
        let child = command.spawn().map_err(|error| match error.kind() {
            ErrorKind::NotFound => NetError::NoPasst,
            _ => host("start passt")(error),
        })?;
        Ok(Self {
            child,
            stream,
            said: File::from(said),
        })
    }

    /// Asks who has an address that nobody has: passt answers when it does its work, and then it
    /// listens at its ports.
    fn wait_until_ready(&mut self, mac: [u8; 6]) -> Result<(), NetError> {
        let asked = self.stream.write_all(&arp_request(mac));
        let until = Instant::now() + PATIENCE;
        let answered = asked.and_then(|()| {
            self.stream.set_nonblocking(true)?;
            self.wait_for_answer(until)
        });
        match answered {
            Ok(()) => Ok(()),
            // It has ended, or is about to.
            Err(_) => {
                let ended = self.child.wait();
                let said = said_in(&mut self.said);
                let code = ended.map_or(String::new(), |status| status.to_string());
                let why = [said, code].into_iter().find(|text| !text.is_empty());
                Err(NetError::Passt(
                    why.unwrap_or_else(|| "it has ended".to_owned()),
                ))
            }
        }
    }

    fn wait_for_answer(&mut self, until: Instant) -> io::Result<()> {
        let mut bytes = [0; 4096];
        let mut got = Vec::new();
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => got.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // What has come ends with a frame, so that the card begins with one.
                    let is_ready = !got.is_empty() || Instant::now() >= until;
                    if is_ready && ends_with_a_frame(&got) {
                        return Ok(());
                    }
                    thread::sleep(POLL);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The bytes are whole frames, each behind its length.
fn ends_with_a_frame(mut bytes: &[u8]) -> bool {
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let Some(rest) = rest.get(u32::from_be_bytes(*length) as usize..) else {
            return false;
        };
        bytes = rest;
    }
    bytes.is_empty()
}

/// A frame, behind its length, that asks for an address of the range for documents (RFC 5737).
fn arp_request(mac: [u8; 6]) -> Vec<u8> {
    let (nobody, asked) = ([0, 0, 0, 0], [192, 0, 2, 254]);
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(nobody);
    frame.extend([0; 6]);
    frame.extend(asked);
    let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
    bytes.extend(frame);
    bytes
}

/// The last of what passt has said, in one line.
fn said_in(said: &mut File) -> String {
    let mut bytes = Vec::new();
    // Without an end: the pipe does not wait.
    let _ = said.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty());
    let lines = lines.filter(|line| !NOISE.iter().any(|noise| line.starts_with(noise)));
    let line = lines.collect::<Vec<_>>().join("; ");
    let from = line.len().saturating_sub(SAID_BYTES_MAX);
    let from = (from..=line.len()).find(|at| line.is_char_boundary(*at));
    line[from.unwrap_or_default()..].to_owned()
}

fn host(op: &'static str) -> impl FnOnce(io::Error) -> NetError {
    move |source| NetError::Host { op, source }
}
