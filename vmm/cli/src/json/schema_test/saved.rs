//! Shape of a decoded saved state, which the library `nvvmm` makes (`inspect::decoded`).

#![allow(dead_code, reason = "only their schema is made")]

use std::collections::BTreeMap;

use schemars::JsonSchema;

/// Saved state of a snapshot.
#[derive(JsonSchema)]
pub struct State {
    /// Specification of the VM. Null for a process snapshot, as the next three.
    spec: Option<Spec>,
    /// vCPUs.
    vcpus: Option<Vec<Vcpu>>,
    /// Chips of the machine.
    platform: Option<Platform>,
    /// Devices.
    devices: Option<Vec<Device>>,
    /// Size of the image of a process snapshot. Null for a VM.
    image_bytes: Option<u64>,
}

/// Specification of a VM.
#[derive(JsonSchema)]
struct Spec {
    /// Path of the kernel.
    kernel: Option<String>,
    /// Path of the initial RAM disk.
    initramfs: Option<String>,
    /// Kernel command line.
    cmdline: String,
    /// Number of vCPUs.
    vcpu_count: u8,
    /// Size of guest RAM.
    memory_bytes: u64,
    /// Slots of the MMIO bus that are in use.
    slots: Vec<Slot>,
}

/// Slot of the MMIO bus, with its device.
#[derive(JsonSchema)]
struct Slot {
    /// Number of the slot.
    slot: u32,
    /// Kind of the device.
    kind: String,
    /// Path of a disk image.
    path: Option<String>,
    /// Name of a disk of the pool.
    pool_disk: Option<String>,
    /// True if the guest cannot write to the disk.
    read_only: Option<bool>,
    /// Most bytes per second of the disk.
    rate_bytes: Option<u64>,
    /// Most requests per second of the disk.
    rate_request_count: Option<u64>,
    /// The network card.
    net: Option<Card>,
}

/// Network card: what its guest knows of it, and what it needs of the host.
#[derive(JsonSchema)]
struct Card {
    /// Place on the host: passt, tap, fd or none.
    #[schemars(extend("enum" = ["passt", "tap", "fd", "none"]))]
    place: String,
    /// Name of the TAP device.
    tap: Option<String>,
    /// Name of the network namespace that its place is in.
    netns: Option<String>,
    /// Address of the card.
    mac: String,
    /// Longest IP packet that the guest was told of.
    mtu_bytes: Option<u16>,
    /// Number of queue pairs.
    queue_pair_count: u8,
    /// Most bytes of each direction per second.
    rate_bytes: Option<u64>,
    /// Most frames of each direction per second.
    rate_frame_count: Option<u64>,
    /// Networks that the guest may not send to, besides those that are always denied.
    denied: Vec<String>,
    /// Networks that the guest may send to, all the same.
    allowed: Vec<String>,
    /// Ports of the host that led into the guest. A restore does not publish them again.
    ports: Vec<Ports>,
}

/// Ports of the host that lead to ports of a guest.
#[derive(JsonSchema)]
struct Ports {
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

/// vCPU. Registers, addresses and bits are hexadecimal texts.
#[derive(JsonSchema)]
struct Vcpu {
    /// State of the vCPU, as KVM names it.
    mp_state: String,
    /// General and control registers.
    registers: BTreeMap<String, String>,
    /// Segment registers.
    segments: BTreeMap<String, Segment>,
    /// Global descriptor table.
    gdt: Descriptors,
    /// Interrupt descriptor table.
    idt: Descriptors,
    /// Model-specific registers, by number.
    msrs: BTreeMap<String, String>,
    /// Number of CPUID entries.
    cpuid_entry_count: u64,
    /// Size of the XSAVE area.
    xsave_bytes: u64,
}

/// Segment register.
#[derive(JsonSchema)]
struct Segment {
    /// Selector.
    selector: String,
    /// Base address.
    base: String,
    /// Limit.
    limit: String,
    /// Type of the descriptor.
    r#type: u8,
    /// Privilege level.
    dpl: u8,
    /// True if the segment is present.
    present: bool,
    /// True for 64-bit code.
    long: bool,
}

/// Descriptor table.
#[derive(JsonSchema)]
struct Descriptors {
    /// Base address.
    base: String,
    /// Limit.
    limit: String,
}

/// Chips of a machine, as texts for people.
#[derive(JsonSchema)]
struct Platform {
    /// Clock of KVM.
    clock: String,
    /// First channel of the interval timer.
    interval_timer: String,
}

/// Device.
#[derive(JsonSchema)]
struct Device {
    /// Kind of the device.
    kind: String,
    /// Name of the device in the machine.
    instance: String,
    /// Version of its saved state.
    version: u32,
    /// Size of its saved state.
    state_bytes: u64,
    /// The virtio transport, if it has one.
    virtio: Option<Virtio>,
}

/// Virtio transport of a device.
#[derive(JsonSchema)]
struct Virtio {
    /// Type of the device, by the virtio specification.
    device_type: u32,
    /// Features that the driver has accepted.
    driver_features: String,
    /// Status register.
    status: String,
    /// Queues.
    queues: Vec<Queue>,
}

/// Virtio queue.
#[derive(JsonSchema)]
struct Queue {
    /// True if the driver has set it up.
    ready: bool,
    /// Number of entries.
    entry_count: u16,
    /// Guest address of the descriptors.
    descriptors: String,
    /// Guest address of the available ring.
    available: String,
    /// Guest address of the used ring.
    used: String,
    /// Index of the next available entry.
    next_available: u16,
    /// Index of the next used entry.
    next_used: u16,
}
