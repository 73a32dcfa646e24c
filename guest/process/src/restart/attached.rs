//! Owners and locks of open files, as far as a process must set them itself: locks of ranges, and
//! receivers of signals.

use super::files::refuse_lock;
use super::stubs::Stub;
use crate::error::{Error, failed};
use crate::image::{Attached, Image, RecordLock};

const F_SETSIG: u64 = 10;
const F_SETOWN_EX: u64 = 15;

/// Sets it for the files of a stub that has all its descriptors, and closes none any more.
pub fn set(stub: &Stub, image: &Image) -> Result<(), Error> {
    if let Some(settings) = stub.settings {
        for lock in &settings.locks {
            self::lock(stub, lock)?;
        }
    }
    for attached in &image.attached {
        // Any process that has the file open can do it; the first one does.
        let mut owners = image.processes.iter();
        let first = owners.find(|process| {
            let mut descriptors = process.descriptors.iter();
            descriptors.any(|descriptor| descriptor.file == attached.file)
        });
        if first.is_some_and(|process| process.pid == stub.process.pid) {
            set_owner(stub, image, attached)?;
        }
    }
    Ok(())
}

/// The number that a stub has for a file.
fn number(stub: &Stub, file: u32) -> Option<i32> {
    let mut descriptors = stub.process.descriptors.iter();
    let found = descriptors.find(|descriptor| descriptor.file == file);
    found.map(|descriptor| descriptor.fd)
}

fn lock(stub: &Stub, lock: &RecordLock) -> Result<(), Error> {
    let Some(fd) = number(stub, lock.file) else {
        return Err(Error::BadImage(
            "a process has a lock of a file that is not open",
        ));
    };
    let kind = if lock.exclusive {
        libc::F_WRLCK
    } else {
        libc::F_RDLCK
    };
    // struct flock: type, whence, padding, start, length, process, padding.
    let numbers = [kind as u16 as u64, lock.start, lock.len_bytes, 0];
    let address = stub.put(&numbers.map(u64::to_le_bytes).concat())?;
    let arguments = [fd as u64, libc::F_SETLK as u64, address];
    match stub.leader().try_call(libc::SYS_fcntl, &arguments)? {
        Ok(_) => Ok(()),
        Err(error) if [Some(libc::EAGAIN), Some(libc::EACCES)].contains(&error.raw_os_error()) => {
            Err(refuse_lock(stub.process.pid, fd))
        }
        Err(error) => Err(failed(format!("lock a part of fd {fd}"))(error)),
    }
}

fn set_owner(stub: &Stub, image: &Image, attached: &Attached) -> Result<(), Error> {
    let Some(fd) = number(stub, attached.file) else {
        return Ok(());
    };
    let fd = fd as u64;
    if let Some((kind, number)) = attached.owner {
        let address = stub.put(&[kind, number].map(i32::to_le_bytes).concat())?;
        let arguments = [fd, F_SETOWN_EX, address];
        stub.call("set who gets signals", libc::SYS_fcntl, &arguments)?;
    }
    if attached.signal != 0 {
        let arguments = [fd, F_SETSIG, attached.signal as u64];
        stub.call("set a file's signal", libc::SYS_fcntl, &arguments)?;
    }
    let flags = image.files[attached.file as usize].flags;
    if flags & libc::O_ASYNC != 0 {
        let arguments = [fd, libc::F_SETFL as u64, flags as u64];
        stub.call("have signals sent", libc::SYS_fcntl, &arguments)?;
    }
    Ok(())
}
