use std::io::Read;
use std::os::unix::net::UnixStream;

use super::*;

/// VMADDR_CID_LOCAL, the loopback transport.
const LOOPBACK: u32 = 1;

#[test]
fn the_host_is_served_and_nobody_else_hears_a_byte() {
    let running = Arc::new(AtomicUsize::new(0));
    // The hypervisor's, the guest's own, a VM's in the guest, and VMADDR_CID_ANY.
    for stranger in [0, LOOPBACK, 3, 4, u32::MAX] {
        let (mut peer, ours) = UnixStream::pair().unwrap();
        admit(ours, stranger, &running);
        // One that is served all the same says its greeting and ends.
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        let mut heard = Vec::new();
        peer.read_to_end(&mut heard).unwrap();
        assert_eq!(heard, b"", "CID {stranger}");
        assert_eq!(running.load(Ordering::SeqCst), 0);
    }
    let (host, ours) = UnixStream::pair().unwrap();
    admit(ours, VMADDR_CID_HOST, &running);
    greet(&host).unwrap();
    send(&host, &ToAgent::End).unwrap();
    assert!(matches!(receive(&host).unwrap(), FromAgent::Failed { .. }));
}

#[test]
fn ports_that_are_taken_are_passed_over_until_none_is_left() {
    // Nobody listens at the other end.
    let taken = match VsockListener::bind_with_cid_port(VMADDR_CID_ANY, 1022) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("SKIPPED: no vsock, or not root: {error}");
            return;
        }
    };
    let error = crate::sys::connect_from([1022, 1022].into_iter(), LOOPBACK, 9).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    drop(taken);
}
