//! The control socket: requests from any process to a VM, and answers that a command reads.
//!
//! If the first byte is even, the rest is the data that a client sends until it closes. If it is
//! odd, it chooses a request, and the rest is the answer that the command gets.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nvvmm::checkpoint::report::{AuditReport, RamCounters, SnapshotReport};
use nvvmm::control::message::{Answer, PROTOCOL_VERSION, REQUEST_BYTES_MAX, Request, Versioned};
use nvvmm::control::{
    CaptureRequest, ReplicaStatus, RestartRequest, RewindRequest, RingRequest, SnapshotRequest,
    VmControl, VmOrigin, VmState, VmStatus, fuzzing,
};
use nvvmm::process::{CaptureReport, RestartReport};
use nvvmm::ring::{RewindReport, RingStatus};
use nvvmm::stats::VmStats;
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::Durability;

/// Timeout that is never reached, as nothing here waits. The fuzzer's own limit is shorter.
const HUNG: Duration = Duration::from_secs(600);
/// Bytes that a socket holds while nothing reads it: the bytes sent, which are shorter than the
/// longest line, and answers to as many lines.
const SENT_BYTES_MAX: usize = REQUEST_BYTES_MAX - 1;
const LINES_MAX: usize = 32;

/// Runs one input.
pub fn run(input: &[u8]) {
    let Some((&selector, bytes)) = input.split_first() else {
        return;
    };
    if selector.is_multiple_of(2) {
        serve(bytes);
    } else {
        call(selector / 2, bytes);
    }
}

/// A VM that carries out its requests and counts them.
#[derive(Default)]
struct CountingVm {
    requests: AtomicUsize,
}

impl CountingVm {
    fn count(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }
}

impl VmControl for CountingVm {
    fn status(&self) -> VmStatus {
        self.count();
        VmStatus {
            name: "vm".into(),
            pid: 1,
            state: VmState::Running,
            notice: None,
            waits_for_pid: None,
            vcpus: 1,
            memory_bytes: 1 << 21,
            pool: PathBuf::from("/pool"),
            origin: VmOrigin::Snapshot {
                name: "base".into(),
            },
            disks: Vec::new(),
            nets: Vec::new(),
            uptime_ms: 1,
            console: None,
            ram: RamCounters::default(),
            restore: None,
            snapshots_taken: Vec::new(),
            ring: None,
            arriving: None,
            replica: None,
            sandbox: None,
            reboot_count: 0,
            has_agent: false,
        }
    }

    fn stats(&self) -> Result<VmStats, VmError> {
        self.count();
        Ok(VmStats::default())
    }

    fn pause(&self) -> Result<(), VmError> {
        self.count();
        Ok(())
    }

    fn resume(&self) -> Result<(), VmError> {
        self.pause()
    }

    fn power_button(&self, press: bool) -> Result<bool, VmError> {
        self.pause().map(|()| press)
    }

    fn stop(&self) -> Result<(), VmError> {
        self.pause()
    }

    fn replicated(&self, _status: ReplicaStatus) {
        self.count();
    }

    fn snapshot(&self, request: &SnapshotRequest) -> Result<SnapshotReport, VmError> {
        self.count();
        Ok(SnapshotReport {
            name: request.name.chars().take(64).collect(),
            disks_only: false,
            phases: Vec::new(),
            pause_us: 0.0,
            held_us_max: 1_240.0,
            total_us: 0.0,
            frames_mapped: 0,
            frames_new: 0,
            frames_copied: 0,
            frames_copied_paused: 0,
            ioctls_paused: 0,
            mmaps_paused: 0,
            state_bytes: 0,
            metadata_blocks: 0,
            digests_made: None,
            outside_disks: Vec::new(),
            durability: Durability::Process,
        })
    }

    fn capture(&self, request: &CaptureRequest, _: &UnixStream) -> Result<CaptureReport, VmError> {
        self.count();
        Err(VmError::failed(request.name.clone()))
    }

    fn restart(&self, request: &RestartRequest, _: &UnixStream) -> Result<RestartReport, VmError> {
        self.count();
        Err(VmError::failed(request.name.clone()))
    }

    fn start_ring(&self, request: &RingRequest) -> Result<RingStatus, VmError> {
        self.count();
        Ok(RingStatus {
            running: true,
            failure: None,
            every_us: request.every_us,
            keep: request.keep,
            taken: 0,
            missed: 0,
            newest: None,
            kept: 0,
            lasted_us: 0.0,
            pause_us_mean: 0.0,
            pause_us_max: 0.0,
            held_us_max: 1_240.0,
            total_us_mean: 0.0,
            phases_mean: Vec::new(),
        })
    }

    fn stop_ring(&self) -> Result<RingStatus, VmError> {
        let request = RingRequest {
            every_us: 0,
            keep: 1,
            replace: false,
            durability: None,
        };
        self.start_ring(&request)
    }

    fn rewind(&self, _: &RewindRequest) -> Result<RewindReport, VmError> {
        self.count();
        Ok(RewindReport {
            vm: "vm".into(),
            snapshot: "vm@1".into(),
            total_us: 0.0,
            stopped_us: 0.0,
            paused: false,
            phases: Vec::new(),
        })
    }

    fn audit(&self) -> Result<AuditReport, VmError> {
        self.count();
        Ok(AuditReport::default())
    }
}

/// The part of `bytes` that the sockets between two ends in one thread can hold.
fn sendable(bytes: &[u8]) -> &[u8] {
    let bytes = &bytes[..bytes.len().min(SENT_BYTES_MAX)];
    let mut ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    match ends.nth(LINES_MAX - 1) {
        Some((end, _)) => &bytes[..=end],
        None => bytes,
    }
}

/// Serves whole lines. Each gets one answer of the protocol. An answer without an error means that
/// something was done.
fn serve(bytes: &[u8]) {
    let bytes = sendable(bytes);
    let (mut client, server) = UnixStream::pair().expect("a socket pair");
    client.write_all(bytes).expect("room in the socket");
    client.shutdown(Shutdown::Write).expect("an open socket");
    let vm = CountingVm::default();
    fuzzing::serve(server, &vm, HUNG);

    let mut answers = Vec::new();
    client.read_to_end(&mut answers).expect("answers");
    let mut done = 0;
    let mut answered = 0;
    for line in answers.split_inclusive(|byte| *byte == b'\n') {
        let answer: Versioned<Answer> =
            serde_json::from_slice(line).expect("an answer of the protocol");
        assert_eq!(line.last(), Some(&b'\n'), "the answer was cut off");
        answered += 1;
        match answer.body {
            // The VM is no spare one: to be taken is refused.
            Answer::Error { error } => assert!(
                matches!(error.kind, ErrorKind::Usage | ErrorKind::Refused),
                "{error}"
            ),
            _ => done += 1,
        }
    }
    let lines = bytes.iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(answered, lines, "answers to whole lines");
    assert_eq!(
        done,
        vm.requests.into_inner(),
        "what was done and what was said to be"
    );
}

/// Reads an answer as a command does. The command succeeds only with an answer of this version, and
/// never with an error.
fn call(selector: u8, bytes: &[u8]) {
    let bytes = sendable(bytes);
    let (client, mut server) = UnixStream::pair().expect("a socket pair");
    server.write_all(bytes).expect("room in the socket");
    server.shutdown(Shutdown::Write).expect("an open socket");
    let mut client = fuzzing::client(client);
    let base = SnapshotRequest {
        name: "base".into(),
        stop: false,
        durability: None,
        verify: false,
        disks_only: false,
    };
    let succeeded = match selector % 10 {
        0 => client.status().is_ok(),
        1 => client.pause().is_ok(),
        2 => client.resume().is_ok(),
        3 => client.stop().is_ok(),
        4 => client.audit().is_ok(),
        5 => client.snapshot(base).is_ok(),
        6 => client.stop_ring().is_ok(),
        7 => client.rewind("a".into()).is_ok(),
        8 => client.stats().is_ok(),
        _ => client.call(&Request::Status, Some(HUNG)).is_ok(),
    };
    if succeeded {
        let line = bytes
            .split(|byte| *byte == b'\n')
            .next()
            .unwrap_or_default();
        let answer: Versioned<Answer> = serde_json::from_slice(line).expect("an answer");
        assert_eq!(answer.version, PROTOCOL_VERSION);
        assert!(!matches!(answer.body, Answer::Error { .. }));
    }
}
