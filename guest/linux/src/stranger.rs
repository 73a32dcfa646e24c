//! A program of the guest without privileges that tries to use nvvmm's agent, and to take its
//! place.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;

use crate::sys;

/// Port of the agent in the guest, and of the VM process on the host.
const PORT: u32 = 512;
/// A port that only root can use.
const LOW_PORT: u32 = 1000;
/// The loopback transport, this guest, and the host.
const PEERS: [(&str, u32); 3] = [("loopback", 1), ("own", 3), ("host", 2)];

/// Becomes an ordinary user, tries each way, and prints `WAY=OUTCOME` for each: `refused`,
/// `closed` without a byte, or `greeted`.
///
/// # Errors
/// The process stays root, or has no vsock.
pub fn try_all() -> io::Result<()> {
    sys::become_nobody()?;
    for (name, cid) in PEERS {
        let socket = sys::vsock_socket(None)?;
        let outcome = match sys::vsock_connect(socket.as_fd(), cid, PORT) {
            Ok(()) => heard(File::from(socket)),
            Err(error) => format!("refused ({error})"),
        };
        println!("{name}={outcome}");
    }
    let outcome = match sys::vsock_socket(Some(LOW_PORT)) {
        Ok(_) => "bound".to_owned(),
        Err(error) => format!("refused ({error})"),
    };
    println!("low-port={outcome}");
    Ok(())
}

/// The first word of whoever took the stream.
fn heard(mut stream: File) -> String {
    match stream.read(&mut [0; 8]) {
        Ok(0) => "closed".to_owned(),
        Ok(_) => "greeted".to_owned(),
        Err(error) => format!("closed ({error})"),
    }
}
