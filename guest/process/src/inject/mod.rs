//! System calls made by a stopped thread, on our behalf.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::arch::Registers;
use crate::error::{Error, Pid, failed};
use crate::sys::{self, Stop, Waited};

const ALL_SIGNALS: u64 = u64::MAX;

/// A seized thread that makes system calls for us. It has every signal blocked meanwhile.
///
/// The calls are made at a `syscall` instruction of its memory. The thread is never let run further
/// than that. The caller ends with [`Remote::park`]. It leaves the thread where the kernel looks
/// for signals before it returns to user mode, so that a system call that was interrupted is
/// restarted by the kernel as usual.
#[derive(Debug)]
pub struct Remote {
    tid: Pid,
    syscall_at: u64,
    base: Registers,
}

impl Remote {
    /// Takes a thread in a ptrace stop, with a `syscall` instruction at that address.
    pub fn new(tid: Pid, syscall_at: u64) -> Result<Self, Error> {
        let base = sys::registers(tid).map_err(lost(tid))?;
        sys::set_signal_mask(tid, ALL_SIGNALS).map_err(lost(tid))?;
        Ok(Self {
            tid,
            syscall_at,
            base,
        })
    }

    /// The thread.
    pub fn tid(&self) -> Pid {
        self.tid
    }

    /// The same thread, from now on with the `syscall` instruction at another address.
    pub fn set_syscall_at(&mut self, syscall_at: u64) {
        self.syscall_at = syscall_at;
    }

    /// Makes one system call. An error of the call itself is the inner one.
    pub fn try_call(
        &self,
        number: libc::c_long,
        arguments: &[u64],
    ) -> Result<io::Result<u64>, Error> {
        let mut values = [0u64; 6];
        values[..arguments.len()].copy_from_slice(arguments);
        let registers = self.base.for_call(self.syscall_at, number, values);
        sys::set_registers(self.tid, &registers).map_err(lost(self.tid))?;
        let mut signal = 0;
        let mut seen = 0;
        while seen < 2 {
            sys::step_syscall(self.tid, signal).map_err(lost(self.tid))?;
            signal = 0;
            match sys::wait_stop(self.tid).map_err(failed("wait for a thread"))? {
                Waited::Stopped(Stop::Syscall) => seen += 1,
                Waited::Stopped(Stop::Signal(found)) if is_fault(found) => {
                    let op = format!("make a system call in thread {}: signal {found}", self.tid);
                    return Err(Error::System {
                        op,
                        source: io::ErrorKind::Other.into(),
                    });
                }
                // A signal that cannot be blocked: a stop. The group stops; the next step wakes it.
                Waited::Stopped(Stop::Signal(found)) => signal = found,
                Waited::Stopped(Stop::Trap { .. } | Stop::Cloned) | Waited::Runs => {}
                Waited::Ended => return Err(Error::Gone(self.tid)),
            }
        }
        let result = sys::registers(self.tid)
            .map_err(lost(self.tid))?
            .call_result();
        Ok(if (-4095..0).contains(&result) {
            Err(io::Error::from_raw_os_error(-result as i32))
        } else {
            Ok(result as u64)
        })
    }

    /// Calls [`Remote::try_call`]. `op` names the operation in an error.
    pub fn call(&self, op: &str, number: libc::c_long, arguments: &[u64]) -> Result<u64, Error> {
        self.try_call(number, arguments)?
            .map_err(failed(format!("{op} in thread {}", self.tid)))
    }

    /// Makes the thread's process end, with this code. It is to be waited for.
    pub fn exit(&self, code: i32) -> Result<(), Error> {
        let arguments = [code as u64, 0, 0, 0, 0, 0];
        let registers = self
            .base
            .for_call(self.syscall_at, libc::SYS_exit_group, arguments);
        sys::set_registers(self.tid, &registers).map_err(lost(self.tid))?;
        sys::continue_with(self.tid, 0).map_err(lost(self.tid))
    }

    /// Leaves the thread stopped and ready to be released. It then runs from that address on, with
    /// every signal blocked.
    pub fn idle(&self, address: u64) -> Result<(), Error> {
        self.park(&self.base.going_on_at(address), ALL_SIGNALS)
    }

    /// Blocks every signal again, after [`Remote::wait_for_signals`].
    pub fn block_signals(&self) -> Result<(), Error> {
        sys::set_signal_mask(self.tid, ALL_SIGNALS).map_err(lost(self.tid))
    }

    /// Leaves the thread stopped, to run from that address on with no signal blocked.
    pub fn wait_for_signals(&self, address: u64) -> Result<(), Error> {
        self.park(&self.base.going_on_at(address), 0)
    }

    /// Leaves the thread stopped with these registers and blocked signals, ready to be released.
    pub fn park(&self, registers: &Registers, signal_mask: u64) -> Result<(), Error> {
        sys::interrupt(self.tid).map_err(lost(self.tid))?;
        let mut signal = 0;
        loop {
            sys::continue_with(self.tid, signal).map_err(lost(self.tid))?;
            signal = 0;
            match sys::wait_stop(self.tid).map_err(failed("wait for a thread"))? {
                Waited::Stopped(Stop::Trap { .. }) => break,
                Waited::Stopped(Stop::Signal(found)) => signal = found,
                Waited::Stopped(_) | Waited::Runs => {}
                Waited::Ended => return Err(Error::Gone(self.tid)),
            }
        }
        sys::set_registers(self.tid, registers).map_err(lost(self.tid))?;
        sys::set_signal_mask(self.tid, signal_mask).map_err(lost(self.tid))
    }
}

fn is_fault(signal: i32) -> bool {
    [
        libc::SIGSEGV,
        libc::SIGBUS,
        libc::SIGILL,
        libc::SIGTRAP,
        libc::SIGFPE,
        libc::SIGSYS,
    ]
    .contains(&signal)
}

fn lost(tid: Pid) -> impl FnOnce(io::Error) -> Error {
    move |source| match source.raw_os_error() {
        Some(libc::ESRCH) => Error::Gone(tid),
        _ => Error::System {
            op: format!("trace thread {tid}"),
            source,
        },
    }
}

/// The memory of a traced process, read and written whatever its protection.
#[derive(Debug)]
pub struct Memory {
    file: File,
}

impl Memory {
    /// Opens the memory of this process.
    pub fn open(pid: Pid) -> Result<Self, Error> {
        let file = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"));
        Ok(Self {
            file: file.map_err(failed(format!("open the memory of process {pid}")))?,
        })
    }

    /// Fills the buffer from that address on.
    pub fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Error> {
        self.file
            .read_exact_at(into, address)
            .map_err(failed(format!("read memory at {address:#x}")))
    }

    /// Writes the bytes to that address.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Error> {
        self.file
            .write_all_at(bytes, address)
            .map_err(failed(format!("write memory at {address:#x}")))
    }

    /// A little-endian number at that address.
    pub fn read_u64(&self, address: u64) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}
