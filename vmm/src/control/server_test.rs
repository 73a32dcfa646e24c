use std::io::{BufRead, BufReader, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use super::*;
use crate::checkpoint::report::{AuditReport, RamCounters, SnapshotReport};
use crate::control::{
    CaptureRequest, ControlClient, RestartRequest, RewindRequest, RingRequest, SnapshotRequest,
    VmOrigin, VmState, VmStatus,
};
use crate::process::{CaptureReport, RestartReport};
use crate::ring::{RewindReport, RingStatus};
use crate::stats::VmStats;
use nvvmm_snapshot::Durability;

/// Far longer than anything here takes; a test that reaches it has hung.
const HUNG: Duration = Duration::from_secs(60);

/// A VM that does nothing, and whose snapshots take as long as the test wants.
struct FakeVm {
    pauses: AtomicUsize,
    stops: AtomicUsize,
    snapshot_begun: Mutex<Sender<()>>,
    snapshot_may_end: Mutex<Receiver<()>>,
}

/// The test's ends of the channels of [`FakeVm`].
struct Snapshots {
    begun: Receiver<()>,
    may_end: Sender<()>,
}

fn fake_vm() -> (Arc<FakeVm>, Snapshots) {
    let (snapshot_begun, begun) = channel();
    let (may_end, snapshot_may_end) = channel();
    let vm = FakeVm {
        pauses: AtomicUsize::new(0),
        stops: AtomicUsize::new(0),
        snapshot_begun: Mutex::new(snapshot_begun),
        snapshot_may_end: Mutex::new(snapshot_may_end),
    };
    (Arc::new(vm), Snapshots { begun, may_end })
}

impl VmControl for FakeVm {
    fn status(&self) -> VmStatus {
        VmStatus {
            name: "fake".into(),
            pid: 7,
            state: VmState::Running,
            notice: None,
            waits_for_pid: None,
            vcpus: 2,
            memory_bytes: 64 << 20,
            pool: "/p".into(),
            origin: VmOrigin::Snapshot {
                name: "base".into(),
            },
            uptime_ms: 12,
            console: None,
            ram: RamCounters {
                frames_own: 3,
                ..RamCounters::default()
            },
            restore: None,
            disks: Vec::new(),
            nets: Vec::new(),
            snapshots_taken: vec!["one".into()],
            ring: None,
            arriving: None,
            replica: None,
            sandbox: None,
            reboot_count: 0,
            has_agent: false,
        }
    }

    fn stats(&self) -> Result<VmStats, VmError> {
        Ok(VmStats {
            name: "fake".into(),
            ..VmStats::default()
        })
    }

    fn pause(&self) -> Result<(), VmError> {
        self.pauses.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn resume(&self) -> Result<(), VmError> {
        Err(VmError::new(ErrorKind::PoolFull, "the pool is full").with_remedy("remove a snapshot"))
    }

    fn power_button(&self, press: bool) -> Result<bool, VmError> {
        Ok(press)
    }

    fn stop(&self) -> Result<(), VmError> {
        self.stops.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn audit(&self) -> Result<AuditReport, VmError> {
        Ok(AuditReport::default())
    }

    fn capture(
        &self,
        request: &CaptureRequest,
        mut agent: &UnixStream,
    ) -> Result<CaptureReport, VmError> {
        agent.write_all(b"hello agent").unwrap();
        Ok(CaptureReport {
            name: request.name.clone(),
            pid: request.pid,
            processes: 1,
            threads: 2,
            frozen_us: 3.0,
            total_us: 4.0,
            rounds: 2,
            pages: 5,
            frames_given: 4,
            frames_copied: 0,
            state_bytes: 6,
            metadata_blocks: 7,
        })
    }

    fn restart(
        &self,
        request: &RestartRequest,
        _agent: &UnixStream,
    ) -> Result<RestartReport, VmError> {
        Err(VmError::new(
            ErrorKind::NotFound,
            format!("no snapshot {}", request.name),
        ))
    }

    fn start_ring(&self, request: &RingRequest) -> Result<RingStatus, VmError> {
        Ok(RingStatus {
            running: true,
            failure: None,
            every_us: request.every_us,
            keep: request.keep,
            taken: 4,
            missed: 1,
            newest: Some("fake@4".into()),
            kept: 3,
            lasted_us: 2e6,
            pause_us_mean: 812.0,
            pause_us_max: 900.0,
            held_us_max: 1_240.0,
            total_us_mean: 3_000.0,
            phases_mean: Vec::new(),
        })
    }

    fn stop_ring(&self) -> Result<RingStatus, VmError> {
        Err(VmError::new(ErrorKind::NotFound, "there is no ring"))
    }

    fn rewind(&self, request: &RewindRequest) -> Result<RewindReport, VmError> {
        let RewindRequest::To { name, .. } = request else {
            return Err(VmError::new(ErrorKind::NotFound, "no checkpoint"));
        };
        Ok(RewindReport {
            vm: "fake".into(),
            snapshot: name.clone(),
            total_us: 4.0,
            stopped_us: 3.0,
            paused: false,
            phases: Vec::new(),
        })
    }

    fn snapshot(&self, request: &SnapshotRequest) -> Result<SnapshotReport, VmError> {
        self.snapshot_begun.lock().unwrap().send(()).unwrap();
        self.snapshot_may_end
            .lock()
            .unwrap()
            .recv_timeout(HUNG)
            .unwrap();
        Ok(SnapshotReport {
            name: request.name.clone(),
            disks_only: false,
            phases: Vec::new(),
            pause_us: 1.5,
            held_us_max: 1_240.0,
            total_us: 2.5,
            frames_mapped: 9,
            frames_new: 8,
            frames_copied: 0,
            frames_copied_paused: 0,
            ioctls_paused: 0,
            mmaps_paused: 0,
            state_bytes: 7,
            metadata_blocks: 6,
            digests_made: None,
            outside_disks: Vec::new(),
            durability: Durability::Process,
        })
    }
}

struct Served {
    server: ControlServer,
    path: std::path::PathBuf,
    vm: Arc<FakeVm>,
    snapshots: Snapshots,
    _dir: tempfile::TempDir,
}

fn serve(limits: ServerLimits) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vm.sock");
    let (vm, snapshots) = fake_vm();
    let control: Arc<dyn VmControl> = vm.clone();
    let server = ControlServer::start_limited(&path, control, limits).unwrap();
    Served {
        server,
        path,
        vm,
        snapshots,
        _dir: dir,
    }
}

fn connect(served: &Served) -> UnixStream {
    let stream = UnixStream::connect(&served.path).unwrap();
    stream.set_read_timeout(Some(HUNG)).unwrap();
    stream
}

/// Sends `bytes` and reads one line of answer; empty when the server closed.
fn exchange(stream: &UnixStream, bytes: &[u8]) -> String {
    let mut writer = stream;
    // A server that refuses a line may have closed already.
    let _ = writer.write_all(bytes);
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    line
}

fn is_closed(mut stream: &UnixStream) -> bool {
    let mut rest = [0; 16];
    match stream.read(&mut rest) {
        Ok(count) => count == 0,
        Err(e) => e.kind() == io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn every_request_goes_round() {
    let served = serve(ServerLimits::default());
    let mut client = ControlClient::connect(&served.path).unwrap();
    client.ping().unwrap();
    assert_eq!(client.pid(), Some(std::process::id()));
    assert_eq!(client.process().unwrap().pid(), std::process::id());
    assert_eq!(client.status().unwrap(), served.vm.status());
    assert_eq!(client.stats().unwrap(), served.vm.stats().unwrap());
    client.pause().unwrap();
    assert_eq!(served.vm.pauses.load(Ordering::SeqCst), 1);
    served.snapshots.may_end.send(()).unwrap();
    let report = client.snapshot(SnapshotRequest::from("two")).unwrap();
    assert_eq!(
        (report.name.as_str(), report.frames_mapped, report.pause_us),
        ("two", 9, 1.5)
    );
    client.stop().unwrap();
    assert_eq!(served.vm.stops.load(Ordering::SeqCst), 1);
}

#[test]
fn an_error_travels_whole() {
    let served = serve(ServerLimits::default());
    let error = ControlClient::connect(&served.path)
        .unwrap()
        .resume()
        .unwrap_err();
    let sent =
        VmError::new(ErrorKind::PoolFull, "the pool is full").with_remedy("remove a snapshot");
    assert_eq!(error, sent);
}

#[test]
fn garbage_gets_an_error_and_the_connection_goes_on() {
    let served = serve(ServerLimits::default());
    let stream = connect(&served);
    for garbage in [
        &b"hello\n"[..],
        b"\n",
        b"\0\xff\x80\n",
        b"{\"version\":1}\n",
        b"[[[[\n",
    ] {
        let answer = exchange(&stream, garbage);
        assert!(answer.contains(r#""kind":"usage""#), "{answer}");
    }
    assert!(exchange(&stream, b"{\"version\":9,\"op\":\"status\"}\n").contains("version 9"));
    assert!(
        exchange(&stream, b"{\"version\":1,\"op\":\"pause\"}\n").contains(r#""answer":"done""#)
    );
    assert_eq!(served.vm.pauses.load(Ordering::SeqCst), 1);
}

#[test]
fn the_longest_request_passes_and_a_longer_one_does_not() {
    let served = serve(ServerLimits::default());
    let mut line = br#"{"version":1,"op":"pause"}"#.to_vec();
    line.resize(REQUEST_BYTES_MAX - 1, b' ');
    line.push(b'\n');
    assert!(exchange(&connect(&served), &line).contains(r#""answer":"done""#));
    line.insert(0, b' ');
    let stream = connect(&served);
    let answer = exchange(&stream, &line);
    assert!(answer.contains("longer than 65536 bytes"), "{answer}");
    assert!(is_closed(&stream));
    assert_eq!(served.vm.pauses.load(Ordering::SeqCst), 1);
    // Without any newline, and far longer.
    let stream = connect(&served);
    assert!(exchange(&stream, &vec![b'x'; 4 << 20]).contains("longer than 65536 bytes"));
}

#[test]
fn several_requests_in_one_write_are_answered_in_turn() {
    let served = serve(ServerLimits::default());
    let stream = connect(&served);
    (&stream)
        .write_all(b"{\"version\":1,\"op\":\"pause\"}\n{\"version\":1,\"op\":\"resume\"}\n{\"ver")
        .unwrap();
    let mut lines = BufReader::new(&stream);
    let (mut first, mut second) = (String::new(), String::new());
    lines.read_line(&mut first).unwrap();
    lines.read_line(&mut second).unwrap();
    assert!(
        first.contains("done") && second.contains("pool_full"),
        "{first}{second}"
    );
}

#[test]
fn a_client_that_trickles_is_cut_off() {
    let served = serve(ServerLimits {
        line_timeout: Duration::from_millis(300),
        ..ServerLimits::default()
    });
    let stream = connect(&served);
    let begun = Instant::now();
    // Each byte comes well within the timeout; the line as a whole never does.
    let trickler = {
        let mut stream = stream.try_clone().unwrap();
        thread::spawn(move || {
            while stream.write_all(b" ").is_ok() && begun.elapsed() < HUNG {
                thread::sleep(Duration::from_millis(20));
            }
        })
    };
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer).unwrap();
    assert!(answer.contains("no complete line came in time"), "{answer}");
    trickler.join().unwrap();
}

#[test]
fn a_client_over_the_limit_is_told_and_places_come_back() {
    let served = serve(ServerLimits {
        clients_max: 2,
        ..ServerLimits::default()
    });
    let first = connect(&served);
    let second = connect(&served);
    for stream in [&first, &second] {
        assert!(exchange(stream, b"{\"version\":1,\"op\":\"pause\"}\n").contains("done"));
    }
    let error = ControlClient::connect(&served.path)
        .unwrap()
        .status()
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    drop(first);
    let begun = Instant::now();
    while ControlClient::connect(&served.path)
        .unwrap()
        .status()
        .is_err()
    {
        assert!(begun.elapsed() < HUNG, "the place never came back");
        thread::sleep(Duration::from_millis(5));
    }
    drop(second);
}

#[test]
fn a_long_snapshot_keeps_nobody_else_waiting() {
    let served = serve(ServerLimits::default());
    let path = served.path.clone();
    let taking = thread::spawn(move || {
        ControlClient::connect(&path)
            .unwrap()
            .snapshot(SnapshotRequest::from("slow"))
    });
    served.snapshots.begun.recv_timeout(HUNG).unwrap();
    assert_eq!(
        ControlClient::connect(&served.path)
            .unwrap()
            .status()
            .unwrap()
            .name,
        "fake"
    );
    served.snapshots.may_end.send(()).unwrap();
    assert_eq!(taking.join().unwrap().unwrap().name, "slow");
}

#[test]
fn a_client_that_leaves_in_the_middle_harms_nobody() {
    let served = serve(ServerLimits::default());
    (&connect(&served))
        .write_all(b"{\"version\":1,\"op\":\"sna")
        .unwrap();
    // One that asks for a snapshot and does not wait for its end.
    let asking = connect(&served);
    (&asking)
        .write_all(b"{\"version\":1,\"op\":\"snapshot\",\"name\":\"x\"}\n")
        .unwrap();
    served.snapshots.begun.recv_timeout(HUNG).unwrap();
    drop(asking);
    served.snapshots.may_end.send(()).unwrap();
    assert!(
        ControlClient::connect(&served.path)
            .unwrap()
            .status()
            .is_ok()
    );
}

#[test]
fn the_end_of_the_server_lets_an_answer_out_and_no_new_client_in() {
    let served = serve(ServerLimits {
        drain_timeout: HUNG,
        ..ServerLimits::default()
    });
    let idle = connect(&served);
    let path = served.path.clone();
    let taking = thread::spawn(move || {
        ControlClient::connect(&path)
            .unwrap()
            .snapshot(SnapshotRequest {
                name: "last".into(),
                stop: true,
                durability: None,
                verify: false,
                disks_only: false,
            })
    });
    served.snapshots.begun.recv_timeout(HUNG).unwrap();
    let Served {
        server,
        path,
        snapshots,
        _dir,
        ..
    } = served;
    let ending = thread::spawn(move || drop(server));
    // The accepting thread ends before the draining begins, so once nobody answers the drop is
    // draining.
    let begun = Instant::now();
    while UnixStream::connect(&path).is_ok() {
        assert!(begun.elapsed() < HUNG, "clients are still accepted");
        thread::sleep(Duration::from_millis(5));
    }
    snapshots.may_end.send(()).unwrap();
    assert_eq!(taking.join().unwrap().unwrap().name, "last");
    ending.join().unwrap();
    assert!(is_closed(&idle));
}

#[test]
fn a_request_that_never_ends_does_not_keep_the_server() {
    let served = serve(ServerLimits {
        drain_timeout: Duration::from_millis(50),
        ..ServerLimits::default()
    });
    let path = served.path.clone();
    let taking = thread::spawn(move || {
        ControlClient::connect(&path)
            .unwrap()
            .snapshot(SnapshotRequest::from("stuck"))
    });
    served.snapshots.begun.recv_timeout(HUNG).unwrap();
    let Served {
        server, snapshots, ..
    } = served;
    drop(server);
    snapshots.may_end.send(()).unwrap();
    let _ = taking.join().unwrap();
}

#[test]
fn a_socket_path_in_use_is_refused() {
    let served = serve(ServerLimits::default());
    let error = ControlServer::start(&served.path, served.vm.clone()).unwrap_err();
    assert!(error.message.contains("control socket"), "{error}");
}

fn capture_request() -> CaptureRequest {
    CaptureRequest {
        name: "job".into(),
        pid: 4711,
        tree: false,
        afterwards: Default::default(),
        durability: None,
    }
}

#[test]
fn a_request_about_a_process_brings_the_stream_to_its_agent() {
    let served = serve(ServerLimits::default());
    let mut client = ControlClient::connect(&served.path).unwrap();
    for _ in 0..2 {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let report = client.capture(capture_request(), ours.as_fd()).unwrap();
        assert_eq!(
            (&report.name[..], report.pid, report.frames_given),
            ("job", 4711, 4)
        );
        let mut heard = [0; 11];
        (&theirs).read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello agent");
        // The VM keeps no end of it.
        drop(ours);
        assert!(is_closed(&theirs));
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let request = RestartRequest {
            name: "job".into(),
            attach: true,
            terminal: Some((25, 80)),
            window: false,
            allow_root: false,
        };
        let error = client.restart(request, ours.as_fd()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound);
    }
}

#[test]
fn a_request_about_a_process_without_a_stream_is_no_request() {
    let served = serve(ServerLimits::default());
    let mut client = ControlClient::connect(&served.path).unwrap();
    let without = client.call(&super::Request::Capture(capture_request()), Some(HUNG));
    assert_eq!(without.unwrap_err().kind, ErrorKind::Usage);
    let file = std::fs::File::open("/dev/null").unwrap();
    let no_socket = client.capture(capture_request(), file.as_fd());
    assert_eq!(no_socket.unwrap_err().kind, ErrorKind::Usage);
    client.status().unwrap();
}

/// Serves the requests of a client that is gone already.
fn serve_late(requests: &[u8]) -> Arc<FakeVm> {
    let (vm, _snapshots) = fake_vm();
    let (theirs, ours) = UnixStream::pair().unwrap();
    (&theirs).write_all(requests).unwrap();
    drop(theirs);
    serve_client(LineStream::new(ours), &*vm, HUNG);
    vm
}

#[test]
fn a_request_whose_caller_is_gone_is_not_carried_out() {
    let vm = serve_late(b"{\"version\":1,\"op\":\"stop\"}\n{\"version\":1,\"op\":\"pause\"}\n");
    let done = [&vm.stops, &vm.pauses].map(|count| count.load(Ordering::SeqCst));
    assert_eq!(done, [0, 0]);
}

#[test]
fn a_caller_that_sends_no_more_but_waits_is_served() {
    let (vm, _snapshots) = fake_vm();
    let (theirs, ours) = UnixStream::pair().unwrap();
    writeln!(&theirs, "{{\"version\":1,\"op\":\"stop\"}}").unwrap();
    theirs.shutdown(Shutdown::Write).unwrap();
    serve_client(LineStream::new(ours), &*vm, HUNG);
    assert_eq!(vm.stops.load(Ordering::SeqCst), 1);
    let mut answer = String::new();
    BufReader::new(&theirs).read_line(&mut answer).unwrap();
    assert!(answer.contains("done"), "{answer}");
}
