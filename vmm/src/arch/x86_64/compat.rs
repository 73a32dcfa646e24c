//! Check that this host's KVM can go on with the CPUID of a snapshot.

use kvm_bindings::kvm_cpuid_entry2;

use super::cpuid::Reg;
use crate::kvm::{KvmError, Result};

/// One word of feature bits: where it is, the bits that say nothing about the host (set by nvvmm
/// itself or by the guest's own CR4), and the names of the bits, lowest first ("" = not named).
struct FeatureWord {
    leaf: u32,
    sub_leaf: u32,
    reg: Reg,
    ignored: u32,
    names: &'static str,
}

const fn word(
    leaf: u32,
    sub_leaf: u32,
    reg: Reg,
    ignored: u32,
    names: &'static str,
) -> FeatureWord {
    FeatureWord {
        leaf,
        sub_leaf,
        reg,
        ignored,
        names,
    }
}

/// Names as in Linux's /proc/cpuinfo, "-" where there is none.
const WORDS: [FeatureWord; 17] = [
    // x2apic and tsc_deadline are emulated by every KVM with an in-kernel APIC; older ones do not
    // list them.
    word(
        1,
        0,
        Reg::Ecx,
        1 << 31 | 1 << 27 | 1 << 24 | 1 << 21,
        "sse3 pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm \
         - pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline aes xsave osxsave avx f16c \
         rdrand hypervisor",
    ),
    word(
        1,
        0,
        Reg::Edx,
        1 << 28 | 1 << 9,
        "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - \
         dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe",
    ),
    word(
        7,
        0,
        Reg::Ebx,
        0,
        "fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm cqm \
         zero_fcs_fds mpx rdt_a avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt \
         clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl",
    ),
    word(
        7,
        0,
        Reg::Ecx,
        1 << 4,
        "prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq \
         avx512_vnni avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - rdpid - bus_lock_detect \
         cldemote - movdiri movdir64b enqcmd sgx_lc pks",
    ),
    word(
        7,
        0,
        Reg::Edx,
        0,
        "- - avx512_4vnniw avx512_4fmaps fsrm uintr - - avx512_vp2intersect srbds_ctrl md_clear \
         rtm_always_abort - - serialize hybrid_cpu tsxldtrk - pconfig arch_lbr ibt - amx_bf16 \
         avx512_fp16 amx_tile amx_int8 ibrs stibp flush_l1d arch_capabilities core_capabilities \
         ssbd",
    ),
    word(
        7,
        1,
        Reg::Eax,
        0,
        "sha512 sm3 sm4 rao_int avx_vnni avx512_bf16 lass cmpccxadd - - fzrm fsrs fsrc - - - - \
         fred lkgs wrmsrns nmi_src amx_fp16 hreset avx_ifma - - lam",
    ),
    word(
        7,
        1,
        Reg::Edx,
        0,
        "- - - - avx_vnni_int8 avx_ne_convert - - amx_complex - avx_vnni_int16 - - - prefetchi",
    ),
    word(
        7,
        2,
        Reg::Edx,
        0,
        "intel_psfd ipred_ctrl rrsba_ctrl ddpd_u bhi_ctrl mcdt_no",
    ),
    word(
        0xd,
        0,
        Reg::Eax,
        0,
        "x87-state sse-state avx-state bndregs-state bndcsr-state avx512-opmask-state \
         avx512-zmm-hi256-state avx512-hi16-zmm-state - pkru-state",
    ),
    word(0xd, 0, Reg::Edx, 0, ""),
    word(0xd, 1, Reg::Eax, 0, "xsaveopt xsavec xgetbv1 xsaves xfd"),
    word(
        0x8000_0001,
        0,
        Reg::Ecx,
        1 << 1,
        "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs \
         xop skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - \
         bpext ptsc perfctr_llc mwaitx",
    ),
    word(
        0x8000_0001,
        0,
        Reg::Edx,
        1 << 9,
        "fpu vme de pse tsc msr pae mce cx8 apic - syscall mtrr pge mca cmov pat pse36 - mp nx - \
         mmxext mmx fxsr fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
    ),
    word(0x8000_0007, 0, Reg::Edx, 0, "- - - - - - - - nonstop_tsc"),
    word(
        0x8000_0008,
        0,
        Reg::Ebx,
        0,
        "clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - amd_ibpb - amd_ibrs amd_stibp - \
         stibp_always_on - ibrs_same_mode - - - amd_ppin amd_ssbd virt_ssbd amd_ssb_no cppc \
         amd_psfd btc_no ibpb_ret",
    ),
    word(
        0x8000_0021,
        0,
        Reg::Eax,
        0,
        "no_nested_data_bp - lfence_rdtsc - - - null_sel_clr_base autoibrs no_smm_ctl_msr",
    ),
    word(
        0x4000_0001,
        0,
        Reg::Eax,
        0,
        "kvm_clocksource kvm_nop_io_delay kvm_mmu_op kvm_clocksource2 kvm_async_pf \
         kvm_steal_time kvm_pv_eoi kvm_pv_unhalt - kvm_pv_tlb_flush kvm_async_pf_vmexit \
         kvm_pv_send_ipi kvm_poll_control kvm_pv_sched_yield kvm_async_pf_int \
         kvm_msi_ext_dest_id kvm_hc_map_gpa_range kvm_migration_control - - - - - - \
         kvm_clocksource_stable",
    ),
];

fn find(entries: &[kvm_cpuid_entry2], leaf: u32, sub_leaf: u32) -> kvm_cpuid_entry2 {
    entries
        .iter()
        .copied()
        .find(|e| (e.function, e.index) == (leaf, sub_leaf))
        .unwrap_or_default()
}

/// Refuses a snapshot whose guest was told of CPU features that this host's KVM does not support.
///
/// `supported` is what KVM says it can give (`KVM_GET_SUPPORTED_CPUID`), `given` what a vCPU here
/// has been given (`KVM_GET_CPUID2`). A feature in either is there: a software KVM (PVM) runs
/// user-mode code natively, and so gives more than it says.
///
/// # Errors
/// [`KvmError::Incompatible`] naming all of the missing features.
pub fn check(
    saved: &[kvm_cpuid_entry2],
    supported: &[kvm_cpuid_entry2],
    given: &[kvm_cpuid_entry2],
) -> Result<()> {
    let (was, is) = (vendor(saved), vendor(supported));
    if was != is {
        return Err(KvmError::Incompatible(format!(
            "the snapshot is of a guest on an {was} CPU, this host has {is}"
        )));
    }
    let missing = missing_features(saved, supported, given);
    if !missing.is_empty() {
        return Err(KvmError::Incompatible(format!(
            "the snapshot needs {}, which this host's KVM lacks",
            missing.join(", ")
        )));
    }
    let bits = |entries: &[kvm_cpuid_entry2]| find(entries, 0x8000_0008, 0).eax & 0xff;
    if bits(saved) > bits(supported).max(bits(given)) {
        return Err(KvmError::Incompatible(format!(
            "the snapshot's guest has {} bits of physical addresses, this host {}",
            bits(saved),
            bits(supported)
        )));
    }
    check_xsave_layout(saved, supported, given)
}

fn vendor(entries: &[kvm_cpuid_entry2]) -> String {
    let leaf = find(entries, 0, 0);
    let bytes: Vec<u8> = [leaf.ebx, leaf.edx, leaf.ecx]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn missing_features(
    saved: &[kvm_cpuid_entry2],
    supported: &[kvm_cpuid_entry2],
    given: &[kvm_cpuid_entry2],
) -> Vec<String> {
    let mut missing = Vec::new();
    for FeatureWord {
        leaf,
        sub_leaf,
        reg,
        ignored,
        names,
    } in &WORDS
    {
        let needed = reg.of(&find(saved, *leaf, *sub_leaf)) & !ignored;
        let here = [supported, given].map(|entries| reg.of(&find(entries, *leaf, *sub_leaf)));
        let lacking = needed & !(here[0] | here[1]);
        for bit in (0..32).filter(|bit| lacking & 1 << bit != 0) {
            let name = match names.split(' ').nth(bit) {
                Some(name) if !name.is_empty() && name != "-" => name.to_string(),
                _ => format!("CPUID {leaf:#x}.{sub_leaf} {reg:?} bit {bit}").to_lowercase(),
            };
            if !missing.contains(&name) {
                missing.push(name);
            }
        }
    }
    missing
}

/// XSAVE's standard form puts each component where the CPU says; another place would misplace
/// registers.
fn check_xsave_layout(
    saved: &[kvm_cpuid_entry2],
    supported: &[kvm_cpuid_entry2],
    given: &[kvm_cpuid_entry2],
) -> Result<()> {
    let place = |entry: &kvm_cpuid_entry2| (entry.eax, entry.ebx);
    for was in saved
        .iter()
        .filter(|e| e.function == 0xd && e.index >= 2 && e.eax != 0)
    {
        if ![supported, given]
            .iter()
            .any(|entries| place(&find(entries, 0xd, was.index)) == place(was))
        {
            return Err(KvmError::Incompatible(format!(
                "extended CPU state component {} lies elsewhere on this host's CPU than on the \
                 snapshot's",
                was.index
            )));
        }
    }
    Ok(())
}
