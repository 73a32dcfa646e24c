//! Programs on the host that talk to the guest through a vsock device, and packets of a guest that
//! is almost correct.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use nvvmm_devices::HostSocket;
use nvvmm_devices::virtio::{GUEST_CID, Vsock};

use super::console::no_sigpipe;
use crate::script::Script;

/// Port of the host on which a program listens.
const HOST_PORT: u32 = 50;
/// Most programs at a time.
const PROGRAMS_MAX: usize = 8;
const HEADER_BYTES: usize = 44;

fn path() -> PathBuf {
    std::env::temp_dir().join(format!("nvvmm-fuzz-{}.vsock", std::process::id()))
}

/// A vsock device. There is one at a time.
pub(super) fn device() -> Vsock {
    no_sigpipe();
    let socket = HostSocket::bind(&path()).expect("a socket");
    Vsock::new(Arc::new(socket)).expect("an epoll descriptor")
}

/// The programs, and one that listens for the guest.
pub(super) struct Programs {
    listener: UnixListener,
    streams: Vec<UnixStream>,
}

impl Programs {
    pub(super) fn new() -> Self {
        let path = Self::path();
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("a socket");
        listener.set_nonblocking(true).expect("a socket option");
        Self {
            listener,
            streams: Vec::new(),
        }
    }

    fn path() -> PathBuf {
        path().with_extension(format!("vsock_{HOST_PORT}"))
    }

    fn add(&mut self, stream: UnixStream) {
        stream.set_nonblocking(true).expect("a socket option");
        if self.streams.len() < PROGRAMS_MAX {
            self.streams.push(stream);
        }
    }

    /// Does one step of a program: a byte that chooses the step, one that chooses the program, then
    /// operands. An error means that the connection was refused or closed.
    pub(super) fn step(&mut self, script: &mut Script) {
        let (what, which) = (script.u8() % 7, usize::from(script.u8()));
        let len = usize::from(script.u8());
        let bytes = script.bytes(len);
        if what == 0 {
            self.add(UnixStream::connect(path()).expect("the device listens"));
        } else if what == 1 {
            while let Ok((stream, _)) = self.listener.accept() {
                self.add(stream);
            }
        }
        if self.streams.is_empty() {
            return;
        }
        let which = which % self.streams.len();
        let stream = &mut self.streams[which];
        match what {
            0 => drop(stream.write(format!("CONNECT {len}\n").as_bytes())),
            1 => {}
            2 => drop(stream.write(bytes)),
            3 => drop(stream.read(&mut [0; 4096])),
            4 => drop(stream.shutdown(Shutdown::Write)),
            5 => drop(stream.shutdown(Shutdown::Read)),
            _ => drop(self.streams.swap_remove(which)),
        }
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(Self::path());
    }
}

/// A packet of the guest. Its fields are of the right kind more often than not.
pub(super) fn packet(script: &mut Script) -> Vec<u8> {
    let (op, flags, ports) = (u16::from(script.u8()), u32::from(script.u8()), script.u8());
    let len = usize::from(script.u16());
    let src_port = u32::from(ports >> 4);
    let dst_port = match ports & 0xf {
        0..8 => HOST_PORT,
        // The first ports that the device assigns to programs of the host.
        port => (1 << 30) + u32::from(port - 8),
    };
    let mut packet = Vec::with_capacity(HEADER_BYTES + len);
    packet.extend(GUEST_CID.to_le_bytes());
    packet.extend(2_u64.to_le_bytes());
    packet.extend(src_port.to_le_bytes());
    packet.extend(dst_port.to_le_bytes());
    packet.extend((len as u32).to_le_bytes());
    packet.extend(1_u16.to_le_bytes());
    packet.extend((op % 9).to_le_bytes());
    packet.extend(flags.to_le_bytes());
    packet.extend(script.u32().to_le_bytes());
    packet.extend(script.u32().to_le_bytes());
    packet.resize(HEADER_BYTES + len.min(0x800), 0x5a);
    // A packet that is wrong everywhere.
    if op >= 0x80 {
        packet[usize::from(op) % HEADER_BYTES] ^= script.u8();
    }
    packet
}
