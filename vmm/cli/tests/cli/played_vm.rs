//! The test process as a VM, through the public control API.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nvvmm::checkpoint::report::{AuditReport, RamCounters, SnapshotReport};
use nvvmm::control::{
    CaptureRequest, Claim, ControlServer, NameChoice, RestartRequest, RewindRequest, RingRequest,
    SnapshotRequest, VmControl, VmOrigin, VmState, VmStatus,
};
use nvvmm::process::{CaptureReport, RestartReport};
use nvvmm::ring::{RewindReport, RingStatus};
use nvvmm::stats::VmStats;
use nvvmm::{ErrorKind, VmError};

use crate::world::World;

/// Words of a VM named `evil`, and of its guest's agent: a terminal would obey them.
const OBEYED: &str = "said \x1b[2J\u{9b}2J\u{202e}\nnvvmm: all is well\r";

/// A VM that remembers what it was asked for; a stop or a snapshot with stop ends its registry
/// entry.
pub struct Played {
    name: String,
    asked: Mutex<Vec<String>>,
    claim: Mutex<Option<Claim>>,
    server: Mutex<Option<ControlServer>>,
}

pub struct PlayedVm {
    vm: Arc<Played>,
}

impl Drop for PlayedVm {
    fn drop(&mut self) {
        // It has the VM, too.
        let server = self.vm.server.lock().unwrap().take();
        drop(server);
    }
}

impl PlayedVm {
    /// This process as the VM `name`.
    pub fn play(world: &World, name: &str) -> Self {
        let claim = world
            .registry()
            .claim(&NameChoice::Given(name.to_owned()), Path::new("/pool"))
            .unwrap();
        let paths = claim.paths().clone();
        let vm = Arc::new(Played {
            name: name.to_owned(),
            asked: Mutex::default(),
            claim: Mutex::new(Some(claim)),
            server: Mutex::new(None),
        });
        let server = ControlServer::start(&paths.control, vm.clone()).unwrap();
        *vm.server.lock().unwrap() = Some(server);
        PlayedVm { vm }
    }

    /// Requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.vm.asked.lock().unwrap().clone()
    }
}

impl Played {
    fn note(&self, what: &str) {
        self.asked.lock().unwrap().push(what.to_owned());
    }

    fn end(&self) {
        let claim = self.claim.lock().unwrap().take();
        let server = self.server.lock().unwrap().take();
        thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            // As when a process ends: a socket without files would be a VM that lost them.
            drop(server);
            drop(claim);
        });
    }
}

impl VmControl for Played {
    fn status(&self) -> VmStatus {
        VmStatus {
            name: self.name.clone(),
            pid: std::process::id(),
            state: VmState::Running,
            notice: (self.name == "evil").then(|| OBEYED.to_owned()),
            waits_for_pid: None,
            vcpus: 2,
            memory_bytes: 512 << 20,
            pool: "/pool".into(),
            origin: VmOrigin::Boot {
                kernel: "/k".into(),
            },
            uptime_ms: 61_000,
            console: None,
            ram: RamCounters {
                frames_own: 256,
                ..RamCounters::default()
            },
            restore: None,
            disks: Vec::new(),
            nets: Vec::new(),
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
        Ok(VmStats {
            name: self.name.clone(),
            ram: RamCounters {
                write_faults: 41,
                ..RamCounters::default()
            },
            ..VmStats::default()
        })
    }

    fn pause(&self) -> Result<(), VmError> {
        self.note("pause");
        Ok(())
    }

    fn resume(&self) -> Result<(), VmError> {
        Err(VmError::new(ErrorKind::PoolFull, "the pool is full").with_remedy("remove a snapshot"))
    }

    fn power_button(&self, press: bool) -> Result<bool, VmError> {
        if press {
            self.note("power button");
        }
        // Guests of this name have a driver for it.
        Ok(self.name != "listens")
    }

    fn stop(&self) -> Result<(), VmError> {
        self.note("stop");
        self.end();
        Ok(())
    }

    fn audit(&self) -> Result<AuditReport, VmError> {
        Ok(AuditReport::default())
    }

    fn capture(&self, _: &CaptureRequest, _: &UnixStream) -> Result<CaptureReport, VmError> {
        Err(VmError::failed("a played VM has no processes"))
    }

    fn restart(&self, _: &RestartRequest, _: &UnixStream) -> Result<RestartReport, VmError> {
        Err(VmError::failed("a played VM has no processes"))
    }

    fn start_ring(&self, request: &RingRequest) -> Result<RingStatus, VmError> {
        self.note(&format!("ring {} {}", request.every_us, request.keep));
        Ok(ring(request, true))
    }

    fn stop_ring(&self) -> Result<RingStatus, VmError> {
        self.note("ring stop");
        let request = RingRequest {
            every_us: 10_000,
            keep: 3,
            replace: false,
            durability: None,
        };
        Ok(ring(&request, false))
    }

    fn rewind(&self, request: &RewindRequest) -> Result<RewindReport, VmError> {
        let snapshot = match request {
            RewindRequest::To { name, .. } => name.clone(),
            RewindRequest::Back { checkpoints: 9, .. } => {
                return Err(VmError::new(ErrorKind::NotFound, "there are 3 checkpoints"));
            }
            RewindRequest::Back { checkpoints, .. } => {
                format!("{}@{}", self.name, 10 - checkpoints)
            }
        };
        Ok(RewindReport {
            vm: self.name.clone(),
            snapshot,
            total_us: 41_000.0,
            stopped_us: 39_500.0,
            paused: false,
            phases: Vec::new(),
        })
    }

    fn snapshot(&self, request: &SnapshotRequest) -> Result<SnapshotReport, VmError> {
        self.note(&format!("snapshot {} {}", request.name, request.stop));
        if self.name == "evil" {
            return Err(VmError::failed(OBEYED).with_remedy(OBEYED));
        }
        if request.name == "taken" {
            return Err(VmError::new(
                ErrorKind::Refused,
                "the name 'taken' is taken",
            ));
        }
        if request.stop {
            self.end();
        }
        Ok(SnapshotReport {
            name: request.name.clone(),
            disks_only: false,
            phases: Vec::new(),
            pause_us: 812.0,
            held_us_max: 1_240.0,
            total_us: 3_000.0,
            frames_mapped: 256,
            frames_new: 256,
            frames_copied: 0,
            frames_copied_paused: 0,
            ioctls_paused: 0,
            mmaps_paused: 0,
            state_bytes: 4096,
            metadata_blocks: 1,
            digests_made: None,
            outside_disks: Vec::new(),
            durability: nvvmm_snapshot::Durability::Process,
        })
    }
}

fn ring(request: &RingRequest, running: bool) -> RingStatus {
    RingStatus {
        running,
        failure: None,
        every_us: request.every_us,
        keep: request.keep,
        taken: 4,
        missed: 1,
        newest: Some("web@4".into()),
        kept: 3,
        lasted_us: 2e6,
        pause_us_mean: 812.0,
        pause_us_max: 900.0,
        held_us_max: 1_240.0,
        total_us_mean: 3_000.0,
        phases_mean: Vec::new(),
    }
}
