//! A snapshot's saved state as JSON, for people and programs that have no VM.

use std::path::Path;

use kvm_bindings::{kvm_dtable, kvm_segment};
use nvvmm_devices::SavedDevice;
use nvvmm_devices::virtio::{NetStateV1, VirtioMmioStateV1};
use nvvmm_snapshot::SnapshotKind;
use serde_json::{Value, json};

use super::InspectError;
use crate::arch::{VcpuStateV1, VmStateV1};
use crate::checkpoint::blob::SavedVm;
use crate::process::SavedProcess;
use crate::spec::{DeviceKind, DiskSpec, NetSource, NetSpec, Published, VmSpec};

/// Decodes a state blob: spec, vCPUs and devices of a VM. To the host the state of processes is
/// as any bytes.
///
/// # Errors
/// [`InspectError::State`], [`InspectError::Json`].
pub fn state(kind: SnapshotKind, blob: &[u8]) -> Result<Value, InspectError> {
    match kind {
        // A snapshot of disks only has no state.
        SnapshotKind::Vm if blob.is_empty() => Ok(json!({
            "spec": null,
            "vcpus": null,
            "platform": null,
            "devices": null,
            "image_bytes": null,
        })),
        SnapshotKind::Vm => of_vm(&SavedVm::decode(blob)?),
        SnapshotKind::Process => Ok(json!({
            "spec": null,
            "vcpus": null,
            "platform": null,
            "devices": null,
            "image_bytes": SavedProcess::decode(blob)?.image.len(),
        })),
    }
}

fn of_vm(saved: &SavedVm) -> Result<Value, InspectError> {
    let kvm = &saved.machine.kvm;
    Ok(json!({
        "spec": of_spec(&saved.spec, &saved.machine.devices),
        "vcpus": kvm.vcpus.iter().map(of_vcpu).collect::<Vec<_>>(),
        "platform": of_chips(&kvm.vm),
        "devices": saved.machine.devices.iter().map(of_device).collect::<Vec<_>>(),
        "image_bytes": null,
    }))
}

/// The machine, with the settings of disks and cards beside their slots.
fn of_spec(spec: &VmSpec, devices: &[SavedDevice]) -> Value {
    let mut told_mtus = devices.iter().filter_map(told_mtu);
    let slots = spec.devices.iter().map(|device| {
        let (kind, disk) = match &device.kind {
            DeviceKind::Rng(_) => ("rng", None),
            DeviceKind::Disk(disk) => ("disk", Some(disk)),
            DeviceKind::Vsock(_) => ("vsock", None),
            DeviceKind::Pmem(_) => ("pmem", None),
            DeviceKind::Net(_) => ("net", None),
            DeviceKind::Balloon(_) => ("balloon", None),
        };
        json!({
            "slot": device.slot,
            "kind": kind,
            "path": disk.and_then(DiskSpec::path).map(path_text),
            "pool_disk": disk.and_then(DiskSpec::pool_disk),
            "read_only": disk.map(|disk| disk.read_only),
            "rate_bytes": disk.and_then(|disk| disk.rate.bytes_per_s),
            "rate_request_count": disk.and_then(|disk| disk.rate.requests_per_s),
            "net": match &device.kind {
                DeviceKind::Net(card) => of_card(card, told_mtus.next()),
                _ => Value::Null,
            },
        })
    });
    json!({
        "kernel": spec.kernel.as_deref().map(path_text),
        "initramfs": spec.initramfs.as_deref().map(path_text),
        "cmdline": spec.cmdline,
        "vcpu_count": spec.vcpus,
        "memory_bytes": spec.memory_bytes,
        "slots": slots.collect::<Vec<_>>(),
    })
}

/// A card: what its guest knows of it, and what it needs of the host.
fn of_card(card: &NetSpec, told_mtu: Option<u16>) -> Value {
    let (place, tap, published) = match &card.source {
        NetSource::Passt { published } => ("passt", None, published.as_slice()),
        NetSource::Tap { name } => ("tap", Some(name), [].as_slice()),
        NetSource::Fd { .. } => ("fd", None, [].as_slice()),
        NetSource::None => ("none", None, [].as_slice()),
    };
    json!({
        "place": place,
        "tap": tap,
        "netns": card.netns,
        "mac": card.mac,
        "mtu_bytes": told_mtu,
        "queue_pair_count": card.queues,
        "rate_bytes": card.rate.bytes_per_s,
        "rate_frame_count": card.rate.frames_per_s,
        "denied": texts(&card.policy.deny),
        "allowed": texts(&card.policy.allow),
        "ports": published.iter().map(of_ports).collect::<Vec<_>>(),
    })
}

fn texts(values: &[impl ToString]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn of_ports(ports: &Published) -> Value {
    json!({
        "protocol": ports.protocol,
        "address": ports.address,
        "host_port": ports.host_port,
        "guest_port": ports.guest_port,
        "port_count": ports.count,
    })
}

/// The longest IP packet that a guest was told of, if this is its card.
fn told_mtu(device: &SavedDevice) -> Option<u16> {
    let virtio = postcard::from_bytes::<VirtioMmioStateV1>(&device.payload).ok()?;
    let card = virtio.device;
    let state: NetStateV1 = card.decode("virtio-net", 1, &card.instance).ok()?;
    Some(state.mtu)
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}

fn hex(number: u64) -> String {
    format!("{number:#x}")
}

fn of_vcpu(vcpu: &VcpuStateV1) -> Value {
    let (regs, sregs) = (&vcpu.regs, &vcpu.sregs);
    let segments = [
        ("cs", &sregs.cs),
        ("ds", &sregs.ds),
        ("es", &sregs.es),
        ("fs", &sregs.fs),
        ("gs", &sregs.gs),
        ("ss", &sregs.ss),
        ("tr", &sregs.tr),
        ("ldt", &sregs.ldt),
    ];
    let table = |table: &kvm_dtable| {
        let limit = hex(u64::from(table.limit));
        json!({ "base": hex(table.base), "limit": limit })
    };
    let general = [
        ("rax", regs.rax),
        ("rbx", regs.rbx),
        ("rcx", regs.rcx),
        ("rdx", regs.rdx),
        ("rsi", regs.rsi),
        ("rdi", regs.rdi),
        ("rsp", regs.rsp),
        ("rbp", regs.rbp),
        ("r8", regs.r8),
        ("r9", regs.r9),
        ("r10", regs.r10),
        ("r11", regs.r11),
        ("r12", regs.r12),
        ("r13", regs.r13),
        ("r14", regs.r14),
        ("r15", regs.r15),
        ("rip", regs.rip),
        ("rflags", regs.rflags),
        ("cr0", sregs.cr0),
        ("cr2", sregs.cr2),
        ("cr3", sregs.cr3),
        ("cr4", sregs.cr4),
        ("cr8", sregs.cr8),
        ("efer", sregs.efer),
        ("apic_base", sregs.apic_base),
    ];
    let msrs = vcpu
        .msrs
        .iter()
        .map(|msr| (hex(u64::from(msr.index)), hex(msr.value)));
    let registers = general
        .into_iter()
        .map(|(name, number)| (name.to_owned(), hex(number)));
    let segments = segments
        .into_iter()
        .map(|(name, segment)| (name.to_owned(), of_segment(segment)));
    json!({
        "mp_state": mp_state(vcpu.mp_state.mp_state),
        "registers": object(registers),
        "segments": segments.collect::<serde_json::Map<_, _>>(),
        "gdt": table(&sregs.gdt),
        "idt": table(&sregs.idt),
        "msrs": object(msrs),
        "cpuid_entry_count": vcpu.cpuid.len(),
        "xsave_bytes": vcpu.xsave.len(),
    })
}

fn object(pairs: impl Iterator<Item = (String, String)>) -> Value {
    Value::Object(
        pairs
            .map(|(name, text)| (name, Value::String(text)))
            .collect(),
    )
}

fn of_segment(segment: &kvm_segment) -> Value {
    json!({
        "selector": hex(u64::from(segment.selector)),
        "base": hex(segment.base),
        "limit": hex(u64::from(segment.limit)),
        "type": segment.type_,
        "dpl": segment.dpl,
        "present": segment.present == 1,
        "long": segment.l == 1,
    })
}

/// The words of the KVM API (`KVM_GET_MP_STATE`).
fn mp_state(number: u32) -> String {
    let word = match number {
        kvm_bindings::KVM_MP_STATE_RUNNABLE => "runnable",
        kvm_bindings::KVM_MP_STATE_UNINITIALIZED => "uninitialized",
        kvm_bindings::KVM_MP_STATE_INIT_RECEIVED => "init received",
        kvm_bindings::KVM_MP_STATE_HALTED => "halted",
        kvm_bindings::KVM_MP_STATE_SIPI_RECEIVED => "start-up IPI received",
        other => return other.to_string(),
    };
    word.to_owned()
}

fn of_chips(vm: &VmStateV1) -> Value {
    json!({
        "clock": format!("{:?}", vm.clock),
        "interval_timer": format!("{:?}", vm.pit.channels[0]),
    })
}

/// A virtio device with its queues; of the others what and how much they saved.
fn of_device(device: &SavedDevice) -> Value {
    let virtio = postcard::from_bytes::<VirtioMmioStateV1>(&device.payload).ok();
    let virtio = virtio.filter(|virtio| virtio.device.kind.starts_with("virtio"));
    json!({
        "kind": device.kind,
        "instance": device.instance,
        "version": device.version,
        "state_bytes": device.payload.len(),
        "virtio": virtio.as_ref().map(of_virtio),
    })
}

fn of_virtio(virtio: &VirtioMmioStateV1) -> Value {
    let queues = virtio.queues.iter().map(|queue| {
        json!({
            "ready": queue.ready,
            "entry_count": queue.size,
            "descriptors": hex(queue.desc_table),
            "available": hex(queue.avail_ring),
            "used": hex(queue.used_ring),
            "next_available": queue.next_avail,
            "next_used": queue.next_used,
        })
    });
    json!({
        "device_type": virtio.device_type,
        "driver_features": hex(virtio.driver_features),
        "status": hex(u64::from(virtio.status)),
        "queues": queues.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
#[path = "decoded_test.rs"]
mod decoded_test;
