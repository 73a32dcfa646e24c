//! Ctrl-C and SIGTERM end what takes long in good order.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nvvmm::VmError;
use nvvmm_snapshot::stream::Stopped;
use signal_hook::consts::{SIGINT, SIGTERM};

/// Interval of checks for a signal while nothing can be read or written.
const LOOK_EVERY_MS: u16 = 100;

/// Number of the signal that came, 0 before there was one.
static CAME: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// Gives a flag that the first Ctrl-C sets. A second one kills the process as usual.
pub(super) fn ends_on_signal() -> Result<Arc<AtomicBool>, VmError> {
    let interrupted = Arc::new(AtomicBool::new(false));
    set_on_signal(&interrupted)?;
    Ok(interrupted)
}

/// Has the first Ctrl-C from now on set a flag. A second one kills the process as usual.
pub(super) fn set_on_signal(interrupted: &Arc<AtomicBool>) -> Result<(), VmError> {
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(interrupted))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(interrupted)))
            .and_then(|_| {
                signal_hook::flag::register_usize(signal, Arc::clone(&CAME), signal as usize)
            })
            .map_err(|e| VmError::io("watch for signals", &e))?;
    }
    Ok(())
}

/// Ends this process by the signal that has interrupted its work. Its parent then sees that, as
/// with any program. Returns if no signal came.
pub(super) fn end_by_signal() {
    let signal = CAME.load(Ordering::Relaxed);
    if signal != 0
        && let Err(error) = signal_hook::low_level::emulate_default_handler(signal as i32)
    {
        tracing::warn!(%error, "cannot end by signal {signal}");
    }
}

/// Answer to a progress report: work goes on unless it was interrupted.
pub(super) fn unless(interrupted: &AtomicBool) -> ControlFlow<()> {
    match interrupted.load(Ordering::Relaxed) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

/// True for the error of a read or a write that a signal has ended.
pub(super) fn is_stop(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Stopped>())
}

/// A file or pipe whose reads and writes a signal ends, also while nothing comes or nobody takes
/// anything.
pub(super) struct Interruptible {
    file: File,
    interrupted: Arc<AtomicBool>,
    limit: Option<Duration>,
}

impl Interruptible {
    /// Wraps a file that is read.
    pub(super) fn input(file: File, interrupted: &Arc<AtomicBool>) -> Self {
        Self {
            file,
            interrupted: Arc::clone(interrupted),
            limit: None,
        }
    }

    /// Has a read or a write fail when nothing comes, or nobody takes anything, for so long.
    pub(super) fn set_limit(&mut self, limit: Duration) {
        self.limit = Some(limit);
    }

    /// Wraps a file that is written. A pipe is opened once more, without blocking writes: the open
    /// pipe of others is not to change.
    pub(super) fn output(file: &File, interrupted: &Arc<AtomicBool>) -> std::io::Result<Self> {
        let is_pipe = file.metadata()?.file_type().is_fifo();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut unwaiting = OpenOptions::new();
        unwaiting.write(true).custom_flags(libc::O_NONBLOCK);
        // It cannot be opened when nobody reads, which the first write says, too.
        let file = match is_pipe.then(|| unwaiting.open(path)) {
            Some(Ok(pipe)) => pipe,
            _ => file.try_clone()?,
        };
        Ok(Self::input(file, interrupted))
    }

    /// Waits until the file is ready, up to the limit.
    fn wait(&self, ready: PollFlags) -> std::io::Result<()> {
        let began = Instant::now();
        while !self.waits(ready)? {
            if self.limit.is_some_and(|limit| began.elapsed() >= limit) {
                return Err(ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Waits a moment for what the file may be ready for. False: it is not yet.
    fn waits(&self, ready: PollFlags) -> std::io::Result<bool> {
        let mut looked = [PollFd::new(self.file.as_fd(), ready)];
        let found = match poll(&mut looked, PollTimeout::from(LOOK_EVERY_MS)) {
            Ok(found) => found > 0,
            Err(Errno::EINTR) => false,
            Err(errno) => return Err(errno.into()),
        };
        // A signal counts before an end of the input that comes with it.
        match self.interrupted.load(Ordering::Relaxed) {
            true => Err(std::io::Error::other(Stopped)),
            false => Ok(found),
        }
    }
}

impl Read for Interruptible {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.wait(PollFlags::POLLIN)?;
        self.file.read(into)
    }
}

impl Write for Interruptible {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        loop {
            match self.file.write(bytes) {
                Err(full) if full.kind() == ErrorKind::WouldBlock => {
                    self.wait(PollFlags::POLLOUT)?
                }
                other => return other,
            };
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
#[path = "interruption_test.rs"]
mod interruption_test;
