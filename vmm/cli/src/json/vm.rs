//! VMs as `ps`, `run` and `restore` print them.

use std::num::NonZeroU64;

use nvvmm::checkpoint::report::{RamCounters, RestoreReport};
use nvvmm::control::arriving::ArrivingStatus;
use nvvmm::control::life::Life;
use nvvmm::control::message;
use nvvmm::control::{DiskStatus, NetStatus, ReplicaStatus, SandboxStatus, VmOrigin, VmStatus};
use nvvmm::spec::{NetSource, Published};
use serde::Serialize;

use super::ring::Ring;
use super::{Failure, Phase, blocks_bytes, path_text, rfc3339, whole_us, word};

/// VM.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Vm {
    /// Name of the VM.
    pub vm: String,
    /// Process id of the VM process, if it is known.
    pub pid: Option<u32>,
    /// State: booting, running, paused, no-space, waiting, fetching, store-away, spare or stopping.
    /// Of a VM that does not answer: starting, silent, stopped or unreachable. Of a VM that has
    /// ended: ended.
    pub state: String,
    /// Reason for the state, or a warning, if there is something to say.
    pub notice: Option<String>,
    /// Process id of the process that has the pool locked, while the VM waits for that.
    pub waits_for_pid: Option<u32>,
    /// Number of vCPUs. This and what follows is null if the VM does not answer, but for the pool.
    pub vcpu_count: Option<u8>,
    /// Size of guest RAM.
    pub memory_bytes: Option<u64>,
    /// Path of the pool.
    pub pool: Option<String>,
    /// Source of the memory of the VM.
    pub origin: Option<Origin>,
    /// Disks, in the order of the guest.
    pub disks: Option<Vec<Disk>>,
    /// Network cards, in the order of the guest.
    pub nets: Option<Vec<Net>>,
    /// Time since the VM process built the VM.
    pub uptime_us: Option<u64>,
    /// Number of reboots of the guest.
    pub reboot_count: Option<u64>,
    /// Path of the socket of the serial console.
    pub console: Option<String>,
    /// Counters of guest RAM.
    pub ram: Option<Ram>,
    /// Report of the restore, if the VM was restored.
    pub restore: Option<Restore>,
    /// Names of the snapshots taken of the VM since it started, the oldest first, without
    /// checkpoints.
    pub snapshots_taken: Option<Vec<String>>,
    /// The ring of checkpoints that was begun last.
    pub ring: Option<Ring>,
    /// Replicas in an object store, if there were any since the VM process began.
    pub replica: Option<Replica>,
    /// Memory that has not arrived from an object store; null once all has, and for other VMs.
    pub arriving: Option<Arriving>,
    /// Layers that confine the VM process.
    pub sandbox: Option<Sandbox>,
    /// End of a VM that has ended.
    pub end: Option<End>,
}

impl Vm {
    /// VM that has answered.
    pub fn of(status: &VmStatus) -> Self {
        Self {
            vm: status.name.clone(),
            pid: Some(status.pid),
            state: word(&status.state),
            notice: status.notice.clone(),
            waits_for_pid: status.waits_for_pid,
            vcpu_count: Some(status.vcpus),
            memory_bytes: Some(status.memory_bytes),
            pool: Some(path_text(&status.pool)),
            origin: Some(Origin::of(&status.origin)),
            disks: Some(status.disks.iter().map(Disk::of).collect()),
            nets: Some(status.nets.iter().map(Net::of).collect()),
            uptime_us: Some(status.uptime_ms.saturating_mul(1000)),
            reboot_count: Some(status.reboot_count),
            console: status.console.as_deref().map(path_text),
            ram: Some(Ram::of(&status.ram)),
            restore: status.restore.as_ref().map(Restore::of),
            snapshots_taken: Some(status.snapshots_taken.clone()),
            ring: { status.ring.as_ref() }.map(|ring| Ring::of(&status.name, ring)),
            replica: status.replica.as_ref().map(Replica::of),
            arriving: status.arriving.as_ref().map(Arriving::of),
            sandbox: status.sandbox.map(Sandbox::of),
            end: None,
        }
    }

    /// VM that has ended.
    pub fn ended(life: &Life) -> Self {
        let Life { start, state } = life;
        Self {
            pool: start.pool.clone(),
            origin: Some(Origin {
                kind: match start.snapshot {
                    None => "boot",
                    Some(_) => "snapshot",
                },
                kernel: None,
                snapshot: start.snapshot.clone(),
            }),
            reboot_count: Some(state.reboot_count),
            end: Some(End::of(life)),
            ..Self::silent(&start.vm, "ended")
        }
    }

    /// VM that does not answer, of which only the name and the state are known.
    pub fn silent(vm: &str, state: &str) -> Self {
        Self {
            vm: vm.to_owned(),
            pid: None,
            state: state.to_owned(),
            notice: None,
            waits_for_pid: None,
            vcpu_count: None,
            memory_bytes: None,
            pool: None,
            origin: None,
            disks: None,
            nets: None,
            uptime_us: None,
            reboot_count: None,
            console: None,
            ram: None,
            restore: None,
            snapshots_taken: None,
            ring: None,
            replica: None,
            arriving: None,
            sandbox: None,
            end: None,
        }
    }
}

/// Replicas of a VM in an object store.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Replica {
    /// URL of the store.
    pub store: String,
    /// True until 'nvvmm replicate' ends in good order. If it was killed, the lag grows.
    pub running: bool,
    /// Interval from one replica to the next.
    pub every_us: u64,
    /// Name of the newest one in the store.
    pub newest_replica: Option<String>,
    /// Time since the instant of the newest one; before there is one, since replication began.
    pub lag_us: u64,
    /// Reason why there is no newer one, if there is one.
    pub failure: Option<Failure>,
}

impl Replica {
    fn of(status: &ReplicaStatus) -> Self {
        Self {
            store: status.store.clone(),
            running: status.running,
            every_us: status.every_us,
            newest_replica: status.newest.clone(),
            lag_us: status.lag_us,
            failure: status.failure.as_ref().map(Failure::of),
        }
    }
}

/// Memory that has not arrived.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Arriving {
    /// Memory that is still to come, at most.
    pub lacking_bytes: u64,
    /// Reason why none comes for now, if there is one.
    pub away: Option<String>,
}

impl Arriving {
    fn of(status: &ArrivingStatus) -> Self {
        Self {
            lacking_bytes: status.lacking_bytes,
            away: status.away.clone(),
        }
    }
}

/// Spare VMs of a snapshot.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Spares {
    /// Name of the snapshot.
    pub snapshot: String,
    /// Path of the pool.
    pub pool: String,
    /// Number of VMs that are to stand by.
    pub wanted_count: u32,
    /// Number of VMs that stand by, or are being built.
    pub standing_by_count: u32,
}

/// End of a VM, and its beginning.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct End {
    /// Reason for the end: powered-off, rebooted, triple-fault, stopped, snapshotted, killed or
    /// failed.
    reason: String,
    /// The end in words: the error of a VM that failed, the place of a triple fault, the name of
    /// the snapshot.
    message: Option<String>,
    /// Time at which the VM process began.
    started: String,
    /// The same in nanoseconds since 1970.
    started_unix_ns: String,
    /// Time of the end, if somebody saw it.
    ended: Option<String>,
    /// The same in nanoseconds since 1970.
    ended_unix_ns: Option<String>,
    /// Arguments of the command that started the VM, if they were kept.
    arguments: Option<Vec<String>>,
    /// Working directory of that command.
    directory: Option<String>,
}

impl End {
    fn of(life: &Life) -> Self {
        let Life { start, state } = life;
        Self {
            reason: word(&life.end()),
            message: state.text.clone(),
            started: rfc3339(start.started_unix_ns),
            started_unix_ns: start.started_unix_ns.to_string(),
            ended: state.ended_unix_ns.map(rfc3339),
            ended_unix_ns: state.ended_unix_ns.map(|ns| ns.to_string()),
            arguments: start.arguments.clone(),
            directory: start.directory.clone(),
        }
    }
}

/// Source of the memory of a VM.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Origin {
    /// Kind of the source.
    #[cfg_attr(test, schemars(extend("enum" = ["boot", "snapshot"])))]
    kind: &'static str,
    /// Path of the kernel that was booted.
    kernel: Option<String>,
    /// Name of the snapshot that was restored.
    snapshot: Option<String>,
}

impl Origin {
    fn of(origin: &VmOrigin) -> Self {
        let (kind, kernel, snapshot) = match origin {
            VmOrigin::Boot { kernel } => ("boot", Some(path_text(kernel)), None),
            VmOrigin::Snapshot { name } => ("snapshot", None, Some(name.clone())),
        };
        Self {
            kind,
            kernel,
            snapshot,
        }
    }
}

/// Disk: an image file, or a disk of the pool.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Disk {
    /// Path of the image. Null for a disk of the pool.
    path: Option<String>,
    /// Name of the disk of the pool. Null for an image.
    pool_disk: Option<String>,
    /// Name of the disk of the pool in snapshots of the VM. Null for an image.
    drive: Option<String>,
    /// True for a copy that was made for the VM and stays in the pool when the VM ends.
    is_kept_copy: bool,
    /// True if the guest cannot write to it.
    read_only: bool,
    /// True if the guest finds it in memory, as persistent memory.
    dax: bool,
    /// Most bytes that the guest reads and writes per second. Null without a limit.
    rate_bytes: Option<u64>,
    /// Most requests of the guest per second. Null without a limit.
    rate_request_count: Option<u64>,
}

impl Disk {
    pub(super) fn of(status: &DiskStatus) -> Self {
        let disk = &status.disk;
        Self {
            path: disk.path().map(path_text),
            pool_disk: disk.pool_disk().map(str::to_owned),
            drive: status.drive.clone(),
            is_kept_copy: status.is_kept_copy,
            read_only: disk.read_only,
            dax: disk.dax,
            rate_bytes: disk.rate.bytes_per_s.map(NonZeroU64::get),
            rate_request_count: disk.rate.requests_per_s.map(NonZeroU64::get),
        }
    }
}

/// Network card.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Net {
    /// Place on the host: passt, tap, fd or none.
    kind: &'static str,
    /// Name of the TAP device. Null for other kinds.
    tap: Option<String>,
    /// Name of the network namespace that its place is in. Null for that of the host.
    netns: Option<String>,
    /// Address of the card.
    mac: String,
    /// Longest IP packet that was asked for. Null if it is that of the place.
    mtu_bytes: Option<u16>,
    /// Number of queue pairs.
    queue_pair_count: u8,
    /// False if its network is gone, or there is none.
    is_connected: bool,
    /// Most bytes of each direction per second. Null without a limit.
    rate_bytes: Option<u64>,
    /// Most frames of each direction per second. Null without a limit.
    rate_frame_count: Option<u64>,
    /// Networks that the guest may not send to, besides those that are always denied.
    denied: Vec<String>,
    /// Networks that the guest may send to, all the same.
    allowed: Vec<String>,
    /// Ports of the host that lead into the guest.
    ports: Vec<PortPair>,
    /// Frames that the guest has sent.
    sent_frame_count: u64,
    /// Bytes of these.
    sent_bytes: u64,
    /// Frames that the guest has received.
    received_frame_count: u64,
    /// Bytes of these.
    received_bytes: u64,
    /// Frames of the guest to networks that are denied.
    denied_frame_count: u64,
    /// Frames, either way, that could not be carried.
    dropped_frame_count: u64,
}

impl Net {
    fn of(status: &NetStatus) -> Self {
        let NetStatus { card, traffic, .. } = status;
        let (kind, tap, ports) = match &card.source {
            NetSource::Passt { published } => ("passt", None, published.as_slice()),
            NetSource::Tap { name } => ("tap", Some(name.clone()), [].as_slice()),
            NetSource::Fd { .. } => ("fd", None, [].as_slice()),
            NetSource::None => ("none", None, [].as_slice()),
        };
        Self {
            kind,
            tap,
            netns: card.netns.clone(),
            mac: card.mac.to_string(),
            mtu_bytes: Some(card.mtu).filter(|mtu| *mtu > 0),
            queue_pair_count: card.queues,
            is_connected: status.is_connected,
            rate_bytes: card.rate.bytes_per_s.map(NonZeroU64::get),
            rate_frame_count: card.rate.frames_per_s.map(NonZeroU64::get),
            denied: { card.policy.deny.iter() }
                .map(ToString::to_string)
                .collect(),
            allowed: { card.policy.allow.iter() }
                .map(ToString::to_string)
                .collect(),
            ports: ports.iter().map(PortPair::of).collect(),
            sent_frame_count: traffic.sent_frames,
            sent_bytes: traffic.sent_bytes,
            received_frame_count: traffic.received_frames,
            received_bytes: traffic.received_bytes,
            denied_frame_count: traffic.denied_frames,
            dropped_frame_count: traffic.dropped_frames,
        }
    }
}

/// Ports of the host that lead to ports of a guest.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PortPair {
    /// Protocol: tcp or udp.
    protocol: String,
    /// Address of the host. Null for all.
    address: Option<String>,
    /// First port of the host.
    host_port: u16,
    /// First port of the guest.
    guest_port: u16,
    /// Number of ports.
    port_count: u16,
}

impl PortPair {
    fn of(published: &Published) -> Self {
        Self {
            protocol: published.protocol.to_string(),
            address: published.address.map(|address| address.to_string()),
            host_port: published.host_port,
            guest_port: published.guest_port,
            port_count: published.count,
        }
    }
}

/// Published ports of a VM.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Port {
    /// Name of the VM.
    vm: String,
    /// The ports.
    #[serde(flatten)]
    ports: PortPair,
}

impl Port {
    /// Ports of the VM with this name.
    pub fn of(vm: &str, published: &Published) -> Self {
        Self {
            vm: vm.to_owned(),
            ports: PortPair::of(published),
        }
    }
}

/// Disk of which the guest was told another size.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ResizedDisk {
    /// Path of the image, or name of the disk of the pool.
    path: String,
    /// Its size.
    size_bytes: u64,
}

impl ResizedDisk {
    /// A disk as the VM process tells it.
    pub fn of(disk: &message::ResizedDisk) -> Self {
        Self {
            path: path_text(&disk.path),
            size_bytes: disk.size_bytes,
        }
    }
}

/// Counters of guest RAM.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Ram {
    /// Memory that has blocks of the pool.
    mapped_bytes: u64,
    /// Part of it that only this VM uses.
    own_bytes: u64,
    /// Part of it that belongs to a snapshot.
    shared_bytes: u64,
    /// Memory that holds nothing: the guest never used it, or gave it back.
    empty_bytes: u64,
    /// Memory in the guest's balloon, as the guest says.
    balloon_bytes: u64,
    /// Memory that the guest gave back since its last start, all together.
    released_bytes: u64,
    /// Write faults on shared memory.
    write_fault_count: u64,
    /// First touches of a chunk of 2 MiB.
    chunk_fault_count: u64,
    /// Memory that was copied. A frame counts each time that it is copied.
    copied_bytes: u64,
    /// Part of it that was copied before the guest wrote to it.
    copied_hot_bytes: u64,
    /// Chunks of 2 MiB that were copied as a whole.
    copied_chunk_count: u64,
    /// Part of these that was copied behind chunks that the guest was writing.
    copied_next_chunk_count: u64,
    /// Chunks of guest RAM that were taken as one huge page of a tmpfs.
    huge_page_count: u64,
    /// Mappings that guest RAM takes.
    mapping_count: u64,
    /// Mappings that guest RAM may take.
    mapping_limit_count: u64,
}

impl Ram {
    pub(super) fn of(ram: &RamCounters) -> Self {
        Self {
            mapped_bytes: blocks_bytes(ram.frames_mapped),
            own_bytes: blocks_bytes(ram.frames_own),
            shared_bytes: blocks_bytes(ram.frames_shared),
            empty_bytes: blocks_bytes(ram.frames_empty),
            balloon_bytes: blocks_bytes(ram.frames_ballooned),
            released_bytes: blocks_bytes(ram.frames_released),
            write_fault_count: ram.write_faults,
            chunk_fault_count: ram.chunk_faults,
            copied_bytes: blocks_bytes(ram.frames_copied),
            copied_hot_bytes: blocks_bytes(ram.frames_copied_hot),
            copied_chunk_count: ram.chunks_copied,
            copied_next_chunk_count: ram.chunks_copied_next,
            huge_page_count: ram.huge_pages,
            mapping_count: ram.mappings,
            mapping_limit_count: ram.mappings_limit,
        }
    }
}

/// Report of a restore.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Restore {
    /// Name of the VM that was started.
    vm: String,
    /// Name of the snapshot.
    snapshot: String,
    /// Phases in their order.
    phases: Vec<Phase>,
    /// Time from the start of the restore until the guest ran.
    first_instruction_us: u64,
    /// Memory of the snapshot that has blocks of the pool.
    mapped_bytes: u64,
    /// True if the snapshot was consumed (--once).
    once: bool,
    /// True if page tables were filled first (--prefault).
    prefault: bool,
    /// Time of day in the guest (--clock): kept as it was, set to the host's, expected to be set
    /// when an agent answers, or not set because no agent that was waited for has answered yet, no
    /// agent was there, or the agent failed.
    #[cfg_attr(
        test,
        schemars(extend("enum" = ["kept", "set", "expected", "not-set", "no-agent", "failed"]))
    )]
    clock: String,
    /// Connections of the guest that are to stay (--keep-connections): they stay, the guest's agent
    /// is too old for that and ends them, or it has not answered yet. Null if they are to end.
    #[cfg_attr(test, schemars(extend("enum" = ["kept", "ended", "awaited", null])))]
    connections: Option<String>,
    /// Notes, for example about disks that could not be checked.
    notes: Vec<String>,
}

impl Restore {
    fn of(report: &RestoreReport) -> Self {
        Self {
            vm: report.vm.clone(),
            snapshot: report.snapshot.clone(),
            phases: Phase::all(&report.phases),
            first_instruction_us: whole_us(report.first_instruction_us),
            mapped_bytes: blocks_bytes(report.frames_mapped),
            once: report.once,
            prefault: report.prefault,
            clock: word(&report.clock),
            connections: report.connections.as_ref().map(word),
            notes: report.notes.clone(),
        }
    }
}

/// Layers that confine a VM process.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sandbox {
    /// True if the process has no capabilities and can get no privileges.
    privileges: bool,
    /// True if the process has namespaces of its own.
    namespaces: bool,
    /// Version of the Landlock ABI in use, 0 for none.
    landlock_abi: u32,
    /// True if each thread is held to the system calls of its kind.
    seccomp: bool,
}

impl Sandbox {
    fn of(status: SandboxStatus) -> Self {
        Self {
            privileges: status.privileges,
            namespaces: status.namespaces,
            landlock_abi: status.landlock,
            seccomp: status.seccomp,
        }
    }
}
