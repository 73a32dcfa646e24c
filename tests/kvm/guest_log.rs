//! A guest fills neither the host's disk nor its memory through the VM's log.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nvvmm_tests::Host;

/// Far below what the guests here cause without a limit, and above what they cause with one.
const LOG_BYTES_MAX: u64 = 16 << 10;
/// Times that a guest does what makes a log line.
const OFTEN: u32 = 50_000;
/// Place of the guest's code in its memory.
const CODE: u64 = 0x10_0000;

/// A guest of the flat boot protocol (guest/bare-metal/README.md) with this code.
pub fn flat_guest(code: &[u8]) -> Vec<u8> {
    const HEADER: u64 = 64;
    const SEGMENT: u64 = 56;
    let mut note = Vec::new();
    for word in [6_u32, 8, 1] {
        note.extend(word.to_le_bytes());
    }
    note.extend(b"nvvmm\0\0\0");
    note.extend([1_u32, 0].iter().flat_map(|word| word.to_le_bytes()));
    let note_at = HEADER + 2 * SEGMENT;
    let code_at = note_at + note.len() as u64;

    // ELF64, little-endian, an executable for x86-64.
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2_u16, 62].iter().flat_map(|half| half.to_le_bytes()));
    file.extend(1_u32.to_le_bytes());
    file.extend([CODE, HEADER, 0].iter().flat_map(|word| word.to_le_bytes()));
    file.extend(0_u32.to_le_bytes());
    let sizes = [HEADER as u16, SEGMENT as u16, 2, 64, 0, 0];
    file.extend(sizes.iter().flat_map(|half| half.to_le_bytes()));
    let mut segment = |kind: u32, flags: u32, at: u64, address: u64, bytes: u64| {
        file.extend([kind, flags].iter().flat_map(|half| half.to_le_bytes()));
        let fields = [at, address, address, bytes, bytes, 1];
        file.extend(fields.iter().flat_map(|word| word.to_le_bytes()));
    };
    segment(4, 4, note_at, 0, note.len() as u64);
    segment(1, 5, code_at, CODE, code.len() as u64);
    file.extend(note);
    file.extend(code);
    file
}

/// Code that asks for sleep state S3 [`OFTEN`] times and then switches the machine off.
fn sleepless() -> Vec<u8> {
    let mut code = vec![0xb9];
    code.extend(OFTEN.to_le_bytes()); // mov ecx, OFTEN
    code.extend([0xba, 0x00, 0x06, 0x00, 0x00]); // mov edx, 0x600
    code.extend([0xb0, 0x2c]); // mov al, 3 << 2 | 0x20
    code.extend([0xee, 0xff, 0xc9, 0x75, 0xfb]); // again: out dx, al; dec ecx; jnz again
    code.extend([0xb0, 0x34, 0xee]); // mov al, 5 << 2 | 0x20; out dx, al
    code.extend([0xeb, 0xfe]); // wait: jmp wait
    code
}

/// Size of both parts of a VM's log, in bytes.
fn log_bytes(host: &Host, vm: &str) -> u64 {
    let size = |suffix: &str| {
        let path = host.runtime().join(format!("{vm}.{suffix}"));
        fs::metadata(path).map_or(0, |file| file.len())
    };
    size("log") + size("log.1")
}

#[test]
fn a_guest_that_writes_to_ports_for_ever() {
    let host = Host::new(64);
    let kernel = host.runtime().join("sleepless");
    fs::write(&kernel, flat_guest(&sleepless())).unwrap();
    let vm = host.boot(&["--kernel", kernel.to_str().unwrap(), "--paused"], 16, 1);
    let name = vm.name.clone();
    vm.resume();
    vm.wait_gone();
    assert!(host.is_logged("sleep state"));
    assert!(log_bytes(&host, &name) <= LOG_BYTES_MAX);
}

/// Connects to the agent's port of the VM process as a program of the guest would, through the
/// socket behind the device. Returns when the VM process has closed the stream.
fn intrude(socket: &Path) {
    let mut stream = UnixStream::connect(socket).unwrap();
    // Closed already: no matter.
    let _ = stream.write_all(b"NVMA\xff\xff\0\0");
    let _ = stream.read_to_end(&mut Vec::new());
}

#[test]
fn an_agent_that_connects_for_ever() {
    let host = Host::new(64);
    let vm = host.boot(
        &[
            "--kernel",
            std::env::var("NVVMM_BAREMETAL_GUEST").unwrap().as_str(),
            "-v",
        ],
        16,
        1,
    );
    let socket = host.runtime().join(format!("{}.vsock_512", vm.name));
    for _ in 0..2000 {
        intrude(&socket);
    }
    assert!(host.is_logged("agent"));
    assert!(log_bytes(&host, &vm.name) <= LOG_BYTES_MAX);
    vm.kill();
    host.run(&["ps"]).ok();
    assert!(!socket.exists(), "what a killed VM leaves goes when seen");
}
