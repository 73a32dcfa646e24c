//! Pairs of unix sockets. The kernel notes who made one (SO_PEERCRED), so a stub makes it.

use std::os::fd::{AsFd, OwnedFd};

use super::files::OpenFiles;
use super::makers::{self, take};
use super::stubs::{Stub, Stubs};
use crate::error::{Error, failed};
use crate::image::{Connection, Image, What};
use crate::special::SocketPair;
use crate::sys;

/// Makes all pairs of an image, with what is in them, and puts their ends among the open files.
/// Listeners listen already.
pub fn make(stubs: &mut Stubs, image: &Image, files: &mut OpenFiles) -> Result<(), Error> {
    for (index, pair) in (0..).zip(&image.pairs) {
        let stub = maker_of(stubs, image, index, pair)?;
        let mut connections = image.connections.iter();
        let made = match connections.find(|connection| connection.pair == index) {
            Some(connection) => connect(stub, image, files, connection, pair)?,
            None => as_maker(stub, pair)?,
        };
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
    makers::find(
        stubs,
        image,
        pair.maker.0,
        |_, what| matches!(what, What::SocketEnd { pair, .. } if *pair == index),
    )
}

/// Connects as the maker did, and accepts that.
fn connect(
    stub: &Stub,
    image: &Image,
    files: &OpenFiles,
    connection: &Connection,
    pair: &SocketPair,
) -> Result<[OwnedFd; 2], Error> {
    let (_, user, group) = pair.maker;
    let listener = image.listener(connection);
    let listener = listener.ok_or(Error::BadImage("nobody listens for a connection"))?;
    let address = stub.put(&connection.address)?;
    let fd = makers::acting_as(stub, user, group, || {
        let kind = (pair.kind | libc::SOCK_CLOEXEC) as u64;
        let arguments = [libc::AF_UNIX as u64, kind, 0];
        let fd = stub.call("make a socket", libc::SYS_socket, &arguments)?;
        let arguments = [fd, address, connection.address.len() as u64];
        stub.call("connect a socket", libc::SYS_connect, &arguments)?;
        Ok(fd)
    })?;
    let connected = take(stub, fd)?;
    let accepted = sys::accept(files.file(listener).as_fd());
    let accepted = accepted.map_err(failed("accept a connection"))?;
    Ok(match connection.second {
        true => [connected, accepted],
        false => [accepted, connected],
    })
}

/// Makes a pair in a stub that has the maker's user and group for the moment.
fn as_maker(stub: &Stub, pair: &SocketPair) -> Result<[OwnedFd; 2], Error> {
    let (_, user, group) = pair.maker;
    let address = stub.put(&[0; 8])?;
    let kind = (pair.kind | libc::SOCK_CLOEXEC) as u64;
    let arguments = [libc::AF_UNIX as u64, kind, 0, address];
    makers::acting_as(stub, user, group, || {
        stub.call("make a pair of sockets", libc::SYS_socketpair, &arguments)
    })?;
    let numbers = stub.blank.memory.read_u64(address)?;
    Ok([
        take(stub, numbers & u64::from(u32::MAX))?,
        take(stub, numbers >> 32)?,
    ])
}
