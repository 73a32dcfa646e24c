use kvm_bindings::kvm_cpuid_entry2;

use super::compat::check;
use super::cpuid::filtered;

/// The KVM has the TSC-deadline mode, or has not.
const DEADLINE: bool = true;
const NO_DEADLINE: bool = false;

fn leaf(function: u32, index: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 {
        function,
        index,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    }
}

/// A host with everything, of the vendor "AuthenticAMD".
fn host() -> Vec<kvm_cpuid_entry2> {
    let all = u32::MAX;
    vec![
        leaf(0, 0, [0x1f, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        leaf(1, 0, [0xa20f10, all, all, all]),
        leaf(4, 0, [1 << 5 | 1 | 0xff << 14, 0, 0, 0]),
        leaf(4, 3, [3 << 5 | 3 | 0xff << 14, 0, 0, 0]),
        leaf(5, 0, [all; 4]),
        leaf(7, 0, [1, all, all, all]),
        leaf(7, 1, [all; 4]),
        leaf(0xa, 0, [all; 4]),
        leaf(0xb, 0, [9, 9, 9, 99]),
        leaf(0xd, 0, [7, 832, 832, 0]),
        leaf(0xd, 2, [256, 576, 0, 0]),
        leaf(0x8000_0001, 0, [0, 0, all, all]),
        leaf(0x8000_0008, 0, [0x3030, 0, 0xf0ff, 0]),
        leaf(0x8000_000a, 0, [all; 4]),
        leaf(0x8000_001e, 0, [77, 77, 77, 77]),
    ]
}

fn get(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
    let found: Vec<_> = entries
        .iter()
        .filter(|e| (e.function, e.index) == (function, index))
        .collect();
    assert_eq!(found.len(), 1, "leaf {function:#x}.{index}");
    *found[0]
}

#[test]
fn what_a_snapshot_cannot_carry_is_hidden() {
    let guest = filtered(&host(), 0, 1, DEADLINE);
    let ecx = get(&guest, 1, 0).ecx;
    assert_eq!(
        ecx & (1 << 3 | 1 << 5 | 1 << 6 | 1 << 15),
        0,
        "MWAIT, VMX, SMX, PDCM"
    );
    assert_ne!(ecx & 1 << 28, 0, "AVX stays");
    assert_eq!(get(&guest, 0x8000_0001, 0).ecx & 1 << 2, 0, "SVM");
    assert_eq!(get(&guest, 7, 0).ebx & 1 << 2, 0, "SGX");
    assert_eq!(get(&guest, 7, 0).ecx & 1 << 7, 0, "shadow stacks");
    assert_eq!(get(&guest, 7, 1).eax & 1 << 17, 0, "FRED");
    for blank in [5, 0xa, 0x8000_000a] {
        let leaf = get(&guest, blank, 0);
        assert_eq!(
            (leaf.eax, leaf.ebx, leaf.ecx, leaf.edx),
            (0, 0, 0, 0),
            "leaf {blank:#x}"
        );
    }
}

#[test]
fn the_hypervisor_bit_is_set_and_the_deadline_timer_follows_the_host() {
    let mut plain = host();
    plain[1].ecx = 0;
    assert_eq!(
        get(&filtered(&plain, 0, 1, DEADLINE), 1, 0).ecx,
        1 << 31 | 1 << 24 | 1 << 21
    );
    assert_eq!(
        get(&filtered(&plain, 0, 1, NO_DEADLINE), 1, 0).ecx,
        1 << 31 | 1 << 21
    );
    assert_eq!(
        get(&filtered(&host(), 0, 1, NO_DEADLINE), 1, 0).ecx & 1 << 24,
        0,
        "also where the host lists it"
    );
}

#[test]
fn a_kvm_without_xsave_shows_no_xsave_state() {
    let mut software = host();
    software[1].ecx &= !(1 << 26);
    let guest = filtered(&software, 0, 1, DEADLINE);
    assert_eq!(get(&guest, 0xd, 2).eax, 0);
    assert_eq!(get(&guest, 1, 0).ecx & 1 << 28, 0, "no AVX");
    let extended = get(&guest, 7, 0).ebx;
    assert_eq!(
        extended & (1 << 5 | 1 << 16 | 1 << 31),
        0,
        "no AVX2, AVX-512"
    );
    assert_ne!(extended & 1 << 29, 0, "SHA needs no XSAVE");
    assert_eq!(get(&filtered(&host(), 0, 1, DEADLINE), 0xd, 2).eax, 256);
}

#[test]
fn topology_is_one_package_of_single_threaded_cores() {
    let guest = filtered(&host(), 2, 3, DEADLINE);
    let one = get(&guest, 1, 0);
    assert_eq!(
        (one.ebx >> 24, one.ebx >> 16 & 0xff, one.edx >> 28 & 1),
        (2, 3, 1)
    );
    assert_eq!(
        get(&guest, 4, 0).eax >> 14,
        2 << 12,
        "L1 of one core; three cores"
    );
    assert_eq!(get(&guest, 4, 3).eax >> 14, 2 << 12 | 2, "L3 of all three");
    let (smt, core) = (get(&guest, 0xb, 0), get(&guest, 0xb, 1));
    assert_eq!((smt.eax, smt.ebx, smt.ecx, smt.edx), (0, 1, 0x100, 2));
    assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (2, 3, 0x201, 2));
    assert_eq!(get(&guest, 0x8000_0008, 0).ecx, 2 | 2 << 12);
    let amd = get(&guest, 0x8000_001e, 0);
    assert_eq!((amd.eax, amd.ebx, amd.ecx), (2, 2, 0));
    let alone = get(&filtered(&host(), 0, 1, DEADLINE), 1, 0);
    assert_eq!((alone.ebx >> 16, alone.edx >> 28 & 1), (1, 0));
}

#[test]
fn the_same_host_takes_what_it_was_given_out() {
    for (index, count) in [(0, 1), (0, 2), (63, 64)] {
        let guest = filtered(&host(), index, count, DEADLINE);
        check(&guest, &host(), &[]).unwrap();
    }
}

#[test]
fn missing_features_are_named() {
    let guest = filtered(&host(), 0, 1, DEADLINE);
    let mut lesser = host();
    lesser[1].ecx &= !(1 << 28);
    lesser[5].ebx &= !(1 << 16 | 1 << 5);
    lesser[5].edx &= !(1 << 9);
    let text = check(&guest, &lesser, &[]).unwrap_err().to_string();
    assert!(
        text.contains("the snapshot needs avx, avx2, avx512f, srbds_ctrl, which"),
        "{text}"
    );
    check(&guest, &lesser, &host()).expect("a vCPU that is given more than KVM says has it");
    let mut unnamed = host();
    unnamed[5].edx &= !(1 << 12);
    let text = check(&guest, &unnamed, &[]).unwrap_err().to_string();
    assert!(text.contains("cpuid 0x7.0 edx bit 12"), "{text}");
}

#[test]
fn bits_that_say_nothing_about_the_host_are_not_compared() {
    let mut guest = filtered(&host(), 0, 2, DEADLINE);
    let mut lesser = host();
    lesser[1].ecx &= !(1 << 31 | 1 << 27 | 1 << 24 | 1 << 21);
    lesser[1].edx &= !(1 << 28);
    guest[1].ecx |= 1 << 27;
    check(&guest, &lesser, &[]).expect("hypervisor, osxsave, deadline timer, x2apic, ht");
}

#[test]
fn another_vendor_narrower_addresses_and_moved_state_are_refused() {
    let guest = filtered(&host(), 0, 1, DEADLINE);
    let mut intel = host();
    (intel[0].ebx, intel[0].edx, intel[0].ecx) = (0x756e_6547, 0x4965_6e69, 0x6c65_746e);
    let text = check(&guest, &intel, &[]).unwrap_err().to_string();
    assert!(
        text.contains("AuthenticAMD") && text.contains("GenuineIntel"),
        "{text}"
    );
    let mut narrow = host();
    narrow[12].eax = 0x302e;
    let text = check(&guest, &narrow, &[]).unwrap_err().to_string();
    assert!(
        text.contains("48 bits of physical addresses, this host 46"),
        "{text}"
    );
    let mut moved = host();
    moved[10].ebx = 640;
    assert!(
        check(&guest, &moved, &[])
            .unwrap_err()
            .to_string()
            .contains("component 2")
    );
}
