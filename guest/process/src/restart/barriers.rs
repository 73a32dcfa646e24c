//! Registrations of a process for memory barriers of its threads (membarrier(2)).

use super::stubs::Stub;
use crate::error::Error;
use crate::image::Image;

/// Commands that say which commands the kernel has.
const QUERY: u64 = 0;
/// Commands that register: for barriers of all processes, of this one, of this one with
/// serialized instructions, of this one with restartable sequences.
const REGISTER: [u32; 4] = [1 << 2, 1 << 4, 1 << 6, 1 << 8];

/// Registers a stub as its process was. When the kernel of the capture did not tell, it is
/// registered for all that this kernel has: a program that did not register sees no difference,
/// and one that did would end without (liburcu).
pub fn register(stub: &Stub, image: &Image) -> Result<(), Error> {
    let mut all = image.processes.iter().zip(&image.barriers);
    let told = all.find(|(process, _)| process.pid == stub.process.pid);
    let wanted = match told.and_then(|(_, barriers)| *barriers) {
        Some(told) => told,
        None => {
            let known = stub.leader().try_call(libc::SYS_membarrier, &[QUERY, 0, 0]);
            // ENOSYS: this kernel has no barriers, so the process had none.
            known?.unwrap_or(0) as u32
        }
    };
    for command in REGISTER.into_iter().filter(|command| wanted & command != 0) {
        let arguments = [command.into(), 0, 0];
        stub.call(
            "register for memory barriers",
            libc::SYS_membarrier,
            &arguments,
        )?;
    }
    Ok(())
}
