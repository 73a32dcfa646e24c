//! Blobs with right checksums and any content.

use std::sync::LazyLock;

use kvm_bindings::{kvm_cpuid_entry2, kvm_irqchip, kvm_lapic_state, kvm_pit_state2};
use nvvmm::arch::{ClockStateV1, KvmStateV1, MsrV1, TscStateV1, VcpuStateV1, VmStateV1};
use nvvmm::machine::MachineStateV1;
use nvvmm::spec::{DiskSource, DiskSpec, VmSpec};

use super::device;

/// Sizes and offsets of the format (`nvvmm::checkpoint::blob`).
const HEADER_BYTES: usize = 32;
const SECTION_BYTES: usize = 32;
const SECTIONS_AT: usize = 12;
const LENGTH_AT: usize = 16;
const CHECKSUM_AT: usize = 24;
const SECTION_OFFSET_AT: usize = 8;
const SECTION_LENGTH_AT: usize = 16;

/// Payloads of a good blob.
pub(super) struct Example {
    pub(super) spec: Vec<u8>,
    pub(super) machine: Vec<u8>,
}

/// A machine of two vCPUs with one of each kind of device. It has not run.
pub(super) fn example() -> &'static Example {
    static EXAMPLE: LazyLock<Example> = LazyLock::new(|| {
        let disk = DiskSpec {
            source: DiskSource::File("/disk".into()),
            read_only: false,
            ..DiskSpec::default()
        };
        let spec = VmSpec::builder("/boot/vmlinuz")
            .cmdline("quiet")
            .vcpus(2)
            .memory_bytes(64 << 20)
            .disks([disk])
            .vsock()
            .pmem(1)
            .build();
        let vm = VmStateV1 {
            pic_master: kvm_irqchip::default(),
            pic_slave: kvm_irqchip::default(),
            ioapic: kvm_irqchip::default(),
            pit: kvm_pit_state2::default(),
            clock: ClockStateV1 {
                clock_ns: 1,
                realtime_ns: Some(2),
                host_tsc: None,
            },
        };
        let machine = MachineStateV1 {
            kvm: KvmStateV1 {
                vm,
                vcpus: vec![vcpu(), vcpu()],
            },
            devices: device::fresh(),
        };
        Example {
            spec: serde_json::to_vec(&spec).expect("a spec"),
            machine: postcard::to_allocvec(&machine).expect("a machine"),
        }
    });
    &EXAMPLE
}

/// CPUID with the vendor only. Every host offers the rest.
pub(super) fn example_cpuid() -> Vec<kvm_cpuid_entry2> {
    let mut entries = vec![kvm_cpuid_entry2::default()];
    entries[0].ebx = u32::from_le_bytes(*b"Genu");
    entries
}

fn vcpu() -> VcpuStateV1 {
    VcpuStateV1 {
        cpuid: example_cpuid(),
        mp_state: Default::default(),
        regs: Default::default(),
        sregs: Default::default(),
        xsave: vec![0; 64],
        xcrs: Some(Default::default()),
        debug_regs: None,
        lapic: kvm_lapic_state::default(),
        msrs: vec![MsrV1 {
            index: 0xc000_0080,
            value: 0x500,
        }],
        events: Default::default(),
        tsc: TscStateV1 {
            khz: Some(2_000_000),
            value: 3,
            offset: None,
        },
    }
}

/// Makes a blob of a spec and a machine state.
pub(super) fn assemble(spec: &[u8], machine: &[u8]) -> Vec<u8> {
    assemble_sections(&[(1, spec), (2, machine)])
}

/// Makes a blob of sections, each given by its number.
pub(super) fn assemble_sections(sections: &[(u32, &[u8])]) -> Vec<u8> {
    let mut blob = b"NVVMSTAT".to_vec();
    let count = sections.len() as u32;
    blob.extend([1, count].map(u32::to_le_bytes).concat());
    blob.resize(HEADER_BYTES, 0);
    let mut offset = HEADER_BYTES + sections.len() * SECTION_BYTES;
    for &(id, payload) in sections {
        let start = blob.len();
        blob.extend([id, 1].map(u32::to_le_bytes).concat());
        blob.extend(
            [offset, payload.len()]
                .map(|word| (word as u64).to_le_bytes())
                .concat(),
        );
        blob.resize(start + SECTION_BYTES, 0);
        offset += payload.len();
    }
    { sections.iter() }.for_each(|(_, payload)| blob.extend_from_slice(payload));
    mend(&mut blob);
    blob
}

fn word<const N: usize>(blob: &[u8], at: usize) -> Option<[u8; N]> {
    blob.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Makes length and checksums right, if there are sections for them.
pub(super) fn mend(blob: &mut [u8]) {
    let Some(sections) = word(blob, SECTIONS_AT).map(u32::from_le_bytes) else {
        return;
    };
    if blob.len() < HEADER_BYTES {
        return;
    }
    let length = blob.len() as u64;
    blob[LENGTH_AT..LENGTH_AT + 8].copy_from_slice(&length.to_le_bytes());
    let table_end = (sections as usize)
        .checked_mul(SECTION_BYTES)
        .and_then(|bytes| bytes.checked_add(HEADER_BYTES))
        .filter(|end| *end <= blob.len());
    let Some(table_end) = table_end else { return };
    for section in (HEADER_BYTES..table_end).step_by(SECTION_BYTES) {
        let field = |at| word(blob, section + at).map(u64::from_le_bytes);
        let (Some(offset), Some(length)) = (field(SECTION_OFFSET_AT), field(SECTION_LENGTH_AT))
        else {
            return;
        };
        let end = offset.saturating_add(length).min(blob.len() as u64) as usize;
        let start = (offset.min(end as u64)) as usize;
        let checksum = crc32fast::hash(&blob[start..end]);
        blob[section + CHECKSUM_AT..section + CHECKSUM_AT + 4]
            .copy_from_slice(&checksum.to_le_bytes());
    }
    let checksum = crc32fast::hash(&blob[HEADER_BYTES..table_end]);
    blob[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
}
