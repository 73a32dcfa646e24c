//! Stubs that make something in the name of a process: the kernel notes who made it.

use std::os::fd::{AsFd, OwnedFd};

use super::stubs::{Stub, Stubs};
use crate::error::{Error, failed};
use crate::image::{Image, What};
use crate::sys;

/// Leaves an identity as it is, in a call that sets several.
const SAME: u64 = u32::MAX as u64;

/// The stub of the process with this number. If that has ended, one that has such a file open.
pub fn find<'a, 'i>(
    stubs: &'a mut Stubs<'i>,
    image: &Image,
    pid: i32,
    is_it: impl Fn(u32, &What) -> bool,
) -> Result<&'a Stub<'i>, Error> {
    let has_it = |stub: &Stub| {
        let mut descriptors = stub.process.descriptors.iter();
        descriptors
            .any(|descriptor| is_it(descriptor.file, &image.files[descriptor.file as usize].what))
    };
    let stubs: &'a [Stub<'i>] = stubs.all();
    let maker = stubs.iter().find(|stub| stub.process.pid == pid);
    maker
        .or_else(|| stubs.iter().find(|stub| has_it(stub)))
        .ok_or(Error::BadImage("a socket is nobody's"))
}

/// Takes an open file from a stub.
pub fn take(stub: &Stub, fd: u64) -> Result<OwnedFd, Error> {
    let process = sys::pidfd_open(stub.process.pid).map_err(failed("open a process"))?;
    let taken = sys::pidfd_getfd(process.as_fd(), fd as i32);
    let taken = taken.map_err(failed("take an open file"))?;
    stub.call("close a descriptor", libc::SYS_close, &[fd])?;
    Ok(taken)
}

/// Acts while a stub has this user and group.
pub fn acting_as<T>(
    stub: &Stub,
    user: u32,
    group: u32,
    act: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    // The group first, and last when it comes back: it takes the privileges of the user 0.
    let one = |number: u32| [SAME, number.into(), SAME];
    stub.call("become another group", libc::SYS_setresgid, &one(group))?;
    stub.call("become another user", libc::SYS_setresuid, &one(user))?;
    let done = act();
    stub.call("become root again", libc::SYS_setresuid, &one(0))?;
    stub.call("become root again", libc::SYS_setresgid, &one(0))?;
    done
}
