//! The saved state of a VM: decoding the blob, and restoring every device from it. Images of
//! processes, as far as the host looks into them.
//!
//! The first byte chooses the meaning of the rest (see [`run`]).

mod blob;
mod device;
mod image;

use nvvmm::arch::compat;
use nvvmm::checkpoint::blob::SavedVm;
use nvvmm::memory::GuestRam;
use nvvmm_devices::SavedDevice;

use crate::script::Script;

/// Largest memory that is reserved: the sanitizer uses most of the address space.
const MEMORY_BYTES_MAX: u64 = 1 << 40;
/// Most changes to a good machine state.
const PATCHES_MAX: usize = 32;

/// Runs one input.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    let example = blob::example();
    match script.u8() % 7 {
        0 => {
            let mut raw = script.bytes(usize::MAX).to_vec();
            blob::mend(&mut raw);
            decode(&raw);
        }
        1 => decode(&blob::assemble(script.bytes(usize::MAX), &example.machine)),
        2 => decode(&blob::assemble(&example.spec, script.bytes(usize::MAX))),
        3 => {
            let mut machine = example.machine.clone();
            for _ in 0..PATCHES_MAX {
                let at = usize::from(script.u16()) % machine.len();
                let len = usize::from(script.u8() % 9);
                let removed = usize::from(script.u8() % 9).min(machine.len() - 1 - at);
                machine.splice(at..at + removed, script.bytes(len).iter().copied());
            }
            decode(&blob::assemble(&example.spec, &machine));
        }
        4 => {
            let disks = script.bytes(usize::MAX);
            let sections = [(1, &*example.spec), (2, &*example.machine), (4, disks)];
            decode(&blob::assemble_sections(&sections));
        }
        5 => image::run(&mut script),
        6 => image::check(script.bytes(usize::MAX)),
        _ => {
            let (kind, instance) = device::KINDS[usize::from(script.u8()) % device::KINDS.len()];
            device::restore(&SavedDevice {
                kind: kind.into(),
                version: 1,
                instance: instance.into(),
                payload: script.bytes(usize::MAX).to_vec(),
            });
        }
    }
}

/// Decodes a blob. Each decoded value has one encoding only, and every part of it can be read
/// without KVM.
fn decode(blob: &[u8]) {
    let saved = match SavedVm::decode(blob) {
        Ok(saved) => saved,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let encoded = saved.encode().expect("encoding what was decoded");
    let again = SavedVm::decode(&encoded).expect("decoding what was encoded");
    assert_eq!(again.spec, saved.spec);
    assert_eq!(again.disks, saved.disks);
    assert!(
        again.encode().expect("encoding again") == encoded,
        "encoded in two ways"
    );

    if saved.spec.memory_bytes <= MEMORY_BYTES_MAX {
        let _ = GuestRam::reserve(saved.spec.memory_bytes);
    }
    let here = blob::example_cpuid();
    for vcpu in &saved.machine.kvm.vcpus {
        let _ = compat::check(&vcpu.cpuid, &here, &[]);
        compat::check(&vcpu.cpuid, &vcpu.cpuid, &vcpu.cpuid)
            .expect("a host is compatible with itself");
    }
    saved.machine.devices.iter().for_each(device::restore);
}
