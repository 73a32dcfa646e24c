//! Pairs of unix sockets. The kernel notes who made one (SO_PEERCRED), so a stub makes it.

use std::os::fd::{AsFd, OwnedFd};

use super::files::OpenFiles;
use super::stubs::{Stub, Stubs};
use crate::error::{Error, failed};
use crate::image::{Image, What};
use crate::special::SocketPair;
use crate::sys;

/// Leaves an identity as it is, in a call that sets several.
const SAME: u64 = u32::MAX as u64;

/// Makes all pairs of an image, with what is in them, and puts their ends among the open files.
pub fn make(stubs: &mut Stubs, image: &Image, files: &mut OpenFiles) -> Result<(), Error> {
    for (index, pair) in (0..).zip(&image.pairs) {
        let stub = maker_of(stubs, image, index, pair)?;
        let made = as_maker(stub, pair)?;
        for (end, other) in [(0, 1), (1, 0)] {
            pair.ends[end]
                .fill(&made[other])
                .map_err(failed("fill a socket"))?;
        }
        for (end, made) in pair.ends.iter().zip(&made) {
            end.finish(made).map_err(failed("set up a socket"))?;
        }
        files.put_sockets(image, index, &made)?;
    }
    Ok(())
}

/// The process that made a pair. If that has ended, one that has it open.
fn maker_of<'a, 'i>(
    stubs: &'a mut Stubs<'i>,
    image: &Image,
    index: u32,
    pair: &SocketPair,
) -> Result<&'a Stub<'i>, Error> {
    let is_end = |file: u32| {
        let what = &image.files[file as usize].what;
        matches!(what, What::SocketEnd { pair, .. } if *pair == index)
    };
    let has_it = |stub: &Stub| {
        let mut descriptors = stub.process.descriptors.iter();
        descriptors.any(|descriptor| is_end(descriptor.file))
    };
    let stubs: &'a [Stub<'i>] = stubs.all();
    let maker = stubs.iter().find(|stub| stub.process.pid == pair.maker.0);
    maker
        .or_else(|| stubs.iter().find(|stub| has_it(stub)))
        .ok_or(Error::BadImage("a pair of sockets is nobody's"))
}

/// Makes a pair in a stub that has the maker's user and group for the moment.
fn as_maker(stub: &Stub, pair: &SocketPair) -> Result<[OwnedFd; 2], Error> {
    let become_one = |user: u32, group: u32| {
        // The group first, and last when it comes back: it takes the privileges of the user 0.
        let group = [SAME, group.into(), SAME];
        let user = [SAME, user.into(), SAME];
        (group, user)
    };
    let (_, user, group) = pair.maker;
    let (to_group, to_user) = become_one(user, group);
    stub.call("become a pair's maker", libc::SYS_setresgid, &to_group)?;
    stub.call("become a pair's maker", libc::SYS_setresuid, &to_user)?;
    let address = stub.put(&[0; 8])?;
    let kind = (pair.kind | libc::SOCK_CLOEXEC) as u64;
    let arguments = [libc::AF_UNIX as u64, kind, 0, address];
    let made = stub.leader().try_call(libc::SYS_socketpair, &arguments)?;
    let (to_group, to_user) = become_one(0, 0);
    stub.call("become root again", libc::SYS_setresuid, &to_user)?;
    stub.call("become root again", libc::SYS_setresgid, &to_group)?;
    made.map_err(failed("make a pair of sockets"))?;
    let numbers = stub.blank.memory.read_u64(address)?;
    let process = sys::pidfd_open(stub.process.pid).map_err(failed("open a process"))?;
    let take = |fd: u64| {
        let taken = sys::pidfd_getfd(process.as_fd(), fd as i32);
        let taken = taken.map_err(failed("take a socket"))?;
        stub.call("close a descriptor", libc::SYS_close, &[fd])?;
        Ok(taken)
    };
    Ok([take(numbers & u64::from(u32::MAX))?, take(numbers >> 32)?])
}
