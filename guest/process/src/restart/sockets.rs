//! Sockets that are not pairs, as far as processes must set them up themselves.

use super::fetch::Fetch;
use super::files::OpenFiles;
use super::makers;
use super::stubs::Stubs;
use crate::error::{Error, failed};
use crate::image::{Image, SocketState, What};

/// Has unix sockets listen, each by the process that did it: those who connect are told who that
/// was. Then connects those that send packets.
pub fn start(stubs: &mut Stubs, image: &Image, files: &OpenFiles) -> Result<(), Error> {
    for (index, file) in (0..).zip(&image.files) {
        let What::Socket(socket) = &file.what else {
            continue;
        };
        if let SocketState::Listening { backlog, listener } = socket.state
            && socket.family == libc::AF_UNIX
        {
            let (pid, user, group) = listener;
            let stub = makers::find(stubs, image, pid, |other, _| other == index)?;
            let fetch = Fetch::new(&stub.blank, 0)?;
            let fd = fetch.get(&stub.blank, files.number(index))?;
            makers::acting_as(stub, user, group, || {
                stub.call("listen", libc::SYS_listen, &[fd, backlog.into()])
            })?;
            stub.call("close a descriptor", libc::SYS_close, &[fd])?;
            fetch.end(&stub.blank)?;
        }
    }
    for (index, file) in (0..).zip(&image.files) {
        if let What::Socket(socket) = &file.what {
            let connected = socket.connect(files.file(index));
            connected.map_err(failed("connect a socket to where its packets go"))?;
        }
    }
    Ok(())
}
