//! ptrace(2), for threads that were seized. A tracer is a thread: all of this belongs on the one
//! that seized.

use std::io;
use std::ptr;

use super::check;
use crate::arch::{Registers, XSTATE_LEGACY_BYTES, XSTATE_SET, XSTATE_SET_LEGACY};

/// Options of a seizure: events to report, and what happens when the tracer dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Options {
    /// The process continues if the tracer dies.
    Capture,
    /// The process, which is being made, dies with the tracer. Its clones are seized, too.
    Restart,
}

/// The reason why a traced thread stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Before or after a system call.
    Syscall,
    /// Interrupted, just seized, or stopped with its group by the signal.
    Trap {
        /// SIGTRAP, or the signal that stopped the group.
        signal: i32,
    },
    /// After it made a thread or process.
    Cloned,
    /// About to be given a signal.
    Signal(i32),
}

/// The result of waiting for a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The thread stands still.
    Stopped(Stop),
    /// The thread ended.
    Ended,
    /// The thread still runs.
    Runs,
}

/// An rseq area as the kernel has it registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RseqArea {
    /// Its address.
    pub address: u64,
    /// Its size as registered.
    pub size_bytes: u32,
    /// The signature before an abort handler.
    pub signature: u32,
}

/// A queue of pending signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// The queue of the thread.
    Thread,
    /// The queue of the whole process.
    Process,
}

const EVENT_STOP: i32 = 128;
const SIGINFO_BYTES: usize = size_of::<libc::siginfo_t>();

fn plain(
    request: libc::c_uint,
    tid: i32,
    address: usize,
    value: usize,
) -> io::Result<libc::c_long> {
    // SAFETY: only called with requests that take numbers, so the kernel touches no memory of this
    // process.
    check(unsafe { libc::ptrace(request, tid, address, value) })
}

/// Seizes a thread; it goes on running. Its filters of system calls do nothing while it is traced,
/// if this process has none itself.
pub fn seize(tid: i32, options: Options) -> io::Result<()> {
    let mut flags = libc::PTRACE_O_TRACESYSGOOD;
    if options == Options::Restart {
        flags |= libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACEFORK;
    }
    let seize = |flags: i32| plain(libc::PTRACE_SEIZE, tid, 0, flags as usize).map(drop);
    match seize(flags | libc::PTRACE_O_SUSPEND_SECCOMP) {
        Err(error) if [Some(libc::EPERM), Some(libc::EINVAL)].contains(&error.raw_os_error()) => {
            seize(flags)
        }
        seized => seized,
    }
}

/// Reads a filter of system calls of a stopped thread, by its number from the oldest on: its
/// program, and its flags. None: there are no more.
pub fn filter(tid: i32, number: usize) -> io::Result<Option<(Vec<u8>, u64)>> {
    const GET_FILTER: libc::c_uint = 0x420c;
    const GET_METADATA: libc::c_uint = 0x420d;
    const INSTRUCTION_BYTES: usize = 8;
    let count = match plain(GET_FILTER, tid, number, 0) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        count => count? as usize,
    };
    let mut program = vec![0u8; count * INSTRUCTION_BYTES];
    // struct seccomp_metadata: the number, and the flags.
    let mut metadata = [number as u64, 0];
    // SAFETY: the kernel writes as many instructions as it has counted, as the thread stands still,
    // and then to metadata, whose length it is given.
    unsafe {
        check(libc::ptrace(GET_FILTER, tid, number, program.as_mut_ptr()))?;
        let len = size_of_val(&metadata);
        check(libc::ptrace(GET_METADATA, tid, len, metadata.as_mut_ptr()))?;
    }
    Ok(Some((program, metadata[1])))
}

/// Makes a seized thread stop soon.
pub fn interrupt(tid: i32) -> io::Result<()> {
    plain(libc::PTRACE_INTERRUPT, tid, 0, 0).map(drop)
}

/// Lets a stopped thread run, with a signal or 0.
pub fn continue_with(tid: i32, signal: i32) -> io::Result<()> {
    plain(libc::PTRACE_CONT, tid, 0, signal as usize).map(drop)
}

/// Lets a stopped thread run to its next entry to or exit from a system call, with a signal or 0.
pub fn step_syscall(tid: i32, signal: i32) -> io::Result<()> {
    plain(libc::PTRACE_SYSCALL, tid, 0, signal as usize).map(drop)
}

/// Releases a stopped thread from tracing.
pub fn detach(tid: i32) -> io::Result<()> {
    plain(libc::PTRACE_DETACH, tid, 0, 0).map(drop)
}

/// The registers of a stopped thread.
pub fn registers(tid: i32) -> io::Result<Registers> {
    let mut registers = Registers::default();
    // SAFETY: the kernel writes one user_regs_struct, which Registers is laid out as.
    check(unsafe { libc::ptrace(libc::PTRACE_GETREGS, tid, 0, &raw mut registers) })?;
    Ok(registers)
}

/// Sets the registers of a stopped thread.
pub fn set_registers(tid: i32, registers: &Registers) -> io::Result<()> {
    // SAFETY: the kernel reads one user_regs_struct, which Registers is laid out as.
    check(unsafe { libc::ptrace(libc::PTRACE_SETREGS, tid, 0, ptr::from_ref(registers)) }).map(drop)
}

/// The extended state (x87, SSE, AVX and on) of a stopped thread, in the uncompacted XSAVE format;
/// on a CPU without XSAVE what there is of it, in the FXSAVE format ([`XSTATE_LEGACY_BYTES`]).
pub fn xstate(tid: i32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0u8; 16 << 10];
    let mut area = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    let mut get = |set: usize| {
        // SAFETY: area describes bytes, which lives through the call; the kernel sets iov_len to
        // what it wrote.
        check(unsafe { libc::ptrace(libc::PTRACE_GETREGSET, tid, set, &raw mut area) })
    };
    match get(XSTATE_SET) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => get(XSTATE_SET_LEGACY)?,
        other => other?,
    };
    bytes.truncate(area.iov_len);
    Ok(bytes)
}

/// Sets the extended state; EINVAL or EFAULT where it is not one of this CPU's.
pub fn set_xstate(tid: i32, bytes: &[u8]) -> io::Result<()> {
    let area = libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let set = if bytes.len() == XSTATE_LEGACY_BYTES {
        XSTATE_SET_LEGACY
    } else {
        XSTATE_SET
    };
    // SAFETY: area describes bytes, which the kernel only reads.
    check(unsafe { libc::ptrace(libc::PTRACE_SETREGSET, tid, set, &raw const area) }).map(drop)
}

/// The blocked signals of a stopped thread: bit N - 1 for signal N.
pub fn signal_mask(tid: i32) -> io::Result<u64> {
    let mut mask = 0u64;
    // SAFETY: the kernel writes the 8 bytes that the address argument promises.
    check(unsafe { libc::ptrace(libc::PTRACE_GETSIGMASK, tid, 8usize, &raw mut mask) })?;
    Ok(mask)
}

/// Sets the blocked signals of a stopped thread.
pub fn set_signal_mask(tid: i32, mask: u64) -> io::Result<()> {
    // SAFETY: the kernel reads the 8 bytes that the address argument promises.
    check(unsafe { libc::ptrace(libc::PTRACE_SETSIGMASK, tid, 8usize, &raw const mask) }).map(drop)
}

/// The rseq area of a stopped thread.
pub fn rseq_area(tid: i32) -> io::Result<Option<RseqArea>> {
    let mut found = libc::ptrace_rseq_configuration {
        rseq_abi_pointer: 0,
        rseq_abi_size: 0,
        signature: 0,
        flags: 0,
        pad: 0,
    };
    let size = size_of_val(&found);
    // SAFETY: the kernel writes at most `size` bytes, the size of found.
    check(unsafe {
        libc::ptrace(
            libc::PTRACE_GET_RSEQ_CONFIGURATION,
            tid,
            size,
            &raw mut found,
        )
    })?;
    Ok((found.rseq_abi_pointer != 0).then_some(RseqArea {
        address: found.rseq_abi_pointer,
        size_bytes: found.rseq_abi_size,
        signature: found.signature,
    }))
}

/// True if system calls of a stopped thread are dispatched to a handler of its program
/// (PR_SET_SYSCALL_USER_DISPATCH). Linux before 6.4 does not tell.
pub fn dispatches_calls(tid: i32) -> bool {
    const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: libc::c_uint = 0x4211;
    // struct ptrace_sud_config: mode, selector, offset, length.
    let mut found = [0u64; 4];
    // SAFETY: the kernel writes at most the size that is given, which is that of found.
    let asked = unsafe {
        libc::ptrace(
            PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG,
            tid,
            size_of_val(&found),
            found.as_mut_ptr(),
        )
    };
    asked == 0 && found[0] != 0
}

/// The pending signals of a stopped thread, or of its process, oldest first: each the bytes of a
/// siginfo_t.
pub fn pending_signals(tid: i32, queue: Queue) -> io::Result<Vec<Vec<u8>>> {
    const AT_ONCE: usize = 32;
    let mut pending = Vec::new();
    loop {
        let mut found = [[0u8; SIGINFO_BYTES]; AT_ONCE];
        let request = libc::ptrace_peeksiginfo_args {
            off: pending.len() as u64,
            flags: if queue == Queue::Process {
                libc::PTRACE_PEEKSIGINFO_SHARED
            } else {
                0
            },
            nr: AT_ONCE as i32,
        };
        // SAFETY: the kernel reads request and writes at most nr siginfo_t, which found has room
        // for.
        let count = check(unsafe {
            libc::ptrace(
                libc::PTRACE_PEEKSIGINFO,
                tid,
                &raw const request,
                found.as_mut_ptr(),
            )
        })? as usize;
        pending.extend(found[..count.min(AT_ONCE)].iter().map(|info| info.to_vec()));
        if count < AT_ONCE {
            return Ok(pending);
        }
    }
}

/// Waits until a traced thread stops or ends.
pub fn wait_stop(tid: i32) -> io::Result<Waited> {
    wait(tid, 0)
}

/// Polls once for what [`wait_stop`] waits for.
pub fn poll_stop(tid: i32) -> io::Result<Waited> {
    wait(tid, libc::WNOHANG)
}

fn wait(tid: i32, flags: i32) -> io::Result<Waited> {
    let mut status = 0;
    let found = loop {
        // SAFETY: status is a valid place for the kernel to write to.
        match check(unsafe { libc::waitpid(tid, &mut status, libc::__WALL | flags) }.into()) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::ECHILD) => return Ok(Waited::Ended),
            other => break other?,
        }
    };
    if found == 0 {
        return Ok(Waited::Runs);
    }
    if !libc::WIFSTOPPED(status) {
        return Ok(Waited::Ended);
    }
    let signal = libc::WSTOPSIG(status);
    Ok(Waited::Stopped(match status >> 16 {
        0 if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
        0 => Stop::Signal(signal),
        EVENT_STOP => Stop::Trap { signal },
        _ => Stop::Cloned,
    }))
}
