//! The stream between this agent and its VM, which breaks when the VM is restored.

use std::io;
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

use nvvmm_protocol::{AGENT_SOURCE_PORTS, FromGuest, HOST_PORT, ToGuest, greet, receive, send};
use vsock::{VMADDR_CID_HOST, VsockStream};

use crate::notice::{self, Places};
use crate::sys;

/// Pauses between attempts. A restored guest must not wait, and a host without a listener must not
/// be asked too often.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The stream, while there is one.
static STREAM: Mutex<Option<VsockStream>> = Mutex::new(None);

/// Tells the VM something that it can do without.
pub fn tell(message: &FromGuest) {
    let stream = STREAM.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(stream) = stream.as_ref() {
        let _ = send(stream, message);
    }
}

/// Keeps a stream to the VM, for ever.
pub fn keep() {
    let mut pause = FIRST_PAUSE;
    loop {
        if talk().is_some() {
            pause = FIRST_PAUSE;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A stream to the VM, from a port that only root can use: the VM hears nobody else.
fn connect() -> io::Result<VsockStream> {
    let source_ports = AGENT_SOURCE_PORTS.rev();
    sys::connect_from(source_ports, VMADDR_CID_HOST, HOST_PORT).map(VsockStream::from)
}

/// One stream, until it breaks. `None` when the VM did not answer.
fn talk() -> Option<()> {
    static NOT_ROOT: Once = Once::new();
    let connected = connect().inspect_err(|error| {
        if error.kind() == io::ErrorKind::PermissionDenied {
            NOT_ROOT.call_once(|| {
                eprintln!(
                    "nvvmm-agent: cannot use a vsock port below 1024 ({error}), so it learns of \
                     no restore: run it as root, with CAP_NET_BIND_SERVICE"
                );
            });
        }
    });
    let mut stream = connected.ok()?;
    greet(&mut stream).ok()?;
    send(&mut stream, &FromGuest::Hello).ok()?;
    *STREAM.lock().unwrap_or_else(PoisonError::into_inner) = stream.try_clone().ok();
    let mut keep_connections = false;
    while let Ok(message) = receive(&mut stream) {
        keep_connections |= message == ToGuest::KeepConnections;
        if let ToGuest::Restored(restored) = message {
            // Before the hooks, which may renew addresses.
            let mut failures = match std::mem::take(&mut keep_connections) {
                true => Vec::new(),
                false => notice::end_connections(),
            };
            failures.extend(notice::act_on(&restored, &Places::default()));
            for failure in &failures {
                eprintln!("nvvmm-agent: after the restore: {failure}");
            }
            tell(&FromGuest::Settled { failures });
        }
    }
    Some(())
}
