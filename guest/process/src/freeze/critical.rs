//! A thread that was frozen inside a restartable sequence (rseq(2)).

use crate::arch::Registers;
use crate::error::{Error, Pid, failed};
use crate::inject::Memory;
use crate::sys;

/// Offset in `struct rseq` of the address of the thread's critical section.
const RSEQ_CS_OFFSET: u64 = 8;

/// The abort handler, if the thread is inside a critical section: the thread must continue
/// there. A freeze preempts the thread, so the kernel would send it there, too. But system
/// calls that the thread makes for the capture end the section unnoticed.
pub fn abort_address(pid: Pid, tid: Pid, registers: &Registers) -> Result<Option<u64>, Error> {
    let Some(area) =
        sys::rseq_area(tid).map_err(failed(format!("read the rseq area of thread {tid}")))?
    else {
        return Ok(None);
    };
    let memory = Memory::open(pid)?;
    let section = memory.read_u64(area.address + RSEQ_CS_OFFSET)?;
    if section == 0 {
        return Ok(None);
    }
    // struct rseq_cs: version and flags (4 bytes each), start_ip, post_commit_offset, abort_ip.
    let start = memory.read_u64(section + 8)?;
    let len = memory.read_u64(section + 16)?;
    let abort = memory.read_u64(section + 24)?;
    Ok((registers.instruction().wrapping_sub(start) < len).then_some(abort))
}
