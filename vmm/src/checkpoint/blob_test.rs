use proptest::prelude::*;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};

use super::{
    BlobError, FORMAT_VERSION, MACHINE, SPEC, SavedVm, VCPU_BYTES_MAX, assemble, sections,
};
use crate::arch::{MsrV1, TscStateV1, VcpuStateV1};

fn payloads(blob: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, BlobError> {
    Ok(sections(blob)?
        .into_iter()
        .map(|(section, payload)| (section.id.get(), payload.to_vec()))
        .collect())
}

fn example() -> Vec<u8> {
    assemble(&[(SPEC, b"a spec"), (MACHINE, &[7; 3000])])
}

#[test]
fn what_was_put_in_comes_out() {
    assert_eq!(
        payloads(&example()).unwrap(),
        [(SPEC, b"a spec".to_vec()), (MACHINE, vec![7; 3000])]
    );
    assert_eq!(payloads(&assemble(&[])).unwrap(), []);
}

#[test]
fn a_blob_cut_anywhere_is_refused() {
    let blob = example();
    for length in 0..blob.len() {
        assert!(
            sections(&blob[..length]).is_err(),
            "{length} of {} bytes",
            blob.len()
        );
    }
    let mut longer = blob.clone();
    longer.push(0);
    assert!(sections(&longer).is_err());
}

#[test]
fn every_flipped_bit_is_noticed_but_in_reserved_fields() {
    let blob = example();
    let reserved = 28..32;
    for byte in (0..blob.len()).filter(|byte| !reserved.contains(byte)) {
        for bit in 0..8 {
            let mut bad = blob.clone();
            bad[byte] ^= 1 << bit;
            assert!(sections(&bad).is_err(), "byte {byte}, bit {bit}");
        }
    }
}

#[test]
fn another_version_is_named_with_ours() {
    let mut blob = example();
    blob[8..12].copy_from_slice(&77u32.to_le_bytes());
    assert_eq!(
        sections(&blob).unwrap_err(),
        BlobError::Version {
            found: 77,
            expected: FORMAT_VERSION
        }
    );
    let text = BlobError::Version {
        found: 77,
        expected: FORMAT_VERSION,
    }
    .to_string();
    assert!(
        text.contains("77") && text.contains(&FORMAT_VERSION.to_string()),
        "{text}"
    );
}

#[test]
fn what_is_not_state_is_told_apart_from_damage() {
    assert_eq!(sections(&[0; 4096]).unwrap_err(), BlobError::NotState);
    assert_eq!(sections(b"short").unwrap_err(), BlobError::NotState);
}

#[test]
fn unknown_and_missing_sections_are_errors() {
    let unknown = assemble(&[(99, b"from the future")]);
    assert_eq!(
        SavedVm::decode(&unknown).unwrap_err(),
        BlobError::UnknownSection { id: 99, version: 1 }
    );
    assert!(matches!(
        SavedVm::decode(&assemble(&[])).unwrap_err(),
        BlobError::Damaged(_)
    ));
    assert!(
        matches!(
            SavedVm::decode(&example()).unwrap_err(),
            BlobError::Damaged(_)
        ),
        "no spec at all"
    );
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..400),
        at in 0usize..300,
    ) {
        let _ = SavedVm::decode(&bytes);
        let mut blob = example();
        let end = (at + bytes.len()).min(blob.len());
        blob[at..end].copy_from_slice(&bytes[..end - at]);
        let _ = SavedVm::decode(&blob);
    }

    /// A machine section that is well-formed but not a machine: sizes in it must not be believed.
    #[test]
    fn a_wrong_machine_with_right_checksums_is_refused(
        bytes in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let spec = concat!(
            r#"{"kernel":"k","initramfs":null,"cmdline":"","vcpus":1,"#,
            r#""memory_bytes":2097152,"disks":[]}"#
        );
        let blob = assemble(&[(SPEC, spec.as_bytes()), (MACHINE, &bytes)]);
        prop_assert!(matches!(SavedVm::decode(&blob), Err(BlobError::Damaged(_))));
    }
}

/// A vCPU with all that KVM can tell of one, and no number of it short.
fn largest_vcpu() -> VcpuStateV1 {
    let mut entry = kvm_cpuid_entry2::default();
    for field in [&mut entry.function, &mut entry.index, &mut entry.flags] {
        *field = u32::MAX;
    }
    for register in [
        &mut entry.eax,
        &mut entry.ebx,
        &mut entry.ecx,
        &mut entry.edx,
    ] {
        *register = u32::MAX;
    }
    let msr = MsrV1 {
        index: u32::MAX,
        value: u64::MAX,
    };
    VcpuStateV1 {
        cpuid: vec![entry; KVM_MAX_CPUID_ENTRIES],
        mp_state: all_ones(),
        regs: all_ones(),
        sregs: all_ones(),
        // With AMX; no processor has more.
        xsave: vec![u8::MAX; 11_008],
        xcrs: Some(all_ones()),
        debug_regs: Some(all_ones()),
        lapic: all_ones(),
        // KVM lists some 150.
        msrs: vec![msr; 256],
        events: all_ones(),
        tsc: TscStateV1 {
            khz: Some(u32::MAX),
            value: u64::MAX,
            offset: Some(u64::MAX),
        },
    }
}

fn all_ones<T: zerocopy::FromBytes>() -> T {
    T::read_from_bytes(&vec![0xff; size_of::<T>()]).unwrap()
}

#[test]
fn no_vcpu_takes_more_than_is_reserved_for_it() {
    let bytes = postcard::to_allocvec(&largest_vcpu()).unwrap().len();
    assert!(bytes <= VCPU_BYTES_MAX, "{bytes}");
}
