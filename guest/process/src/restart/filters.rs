//! Filters of system calls (seccomp). They do nothing while a stub is traced.

use super::stubs::Stub;
use crate::error::{Error, ProcessPart, Refusal};
use crate::observe;

const SET_MODE_FILTER: u64 = 1;
const LOGS: u64 = 2;
const INSTRUCTION_BYTES: usize = 8;

/// Gives a stub the filters of its process. It has one thread, from which others have them, too.
pub fn install(stub: &Stub) -> Result<(), Error> {
    let filters = stub.confined.map_or(&[][..], |confined| &confined.filters);
    if filters.is_empty() {
        return Ok(());
    }
    let own = std::process::id() as i32;
    if observe::status(own, own)?.seccomp != 0 {
        let reason = "has filters of system calls, which nvvmm cannot set, as it has some itself";
        let refusal = Refusal::new(stub.process.pid, ProcessPart::Process, reason);
        return Err(Error::Refused(vec![refusal]));
    }
    for filter in filters {
        // struct sock_fprog: the number of instructions, padding, their address.
        let count = (filter.program.len() / INSTRUCTION_BYTES) as u64;
        let program = stub.blank.workspace.arguments() + 16;
        let mut bytes = [count, program].map(u64::to_le_bytes).concat();
        bytes.extend(&filter.program);
        let address = stub.put(&bytes)?;
        let flags = if filter.logs { LOGS } else { 0 };
        let arguments = [SET_MODE_FILTER, flags, address];
        stub.call("install a filter", libc::SYS_seccomp, &arguments)?;
    }
    Ok(())
}
