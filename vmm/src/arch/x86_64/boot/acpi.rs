//! ACPI tables of the machine (ACPI 6.5), hardware-reduced: no PM timer, no SCI, no legacy
//! controllers. RSDP, XSDT, FADT, MADT, DSDT. The power button is a control method one, whose
//! presses a generic event device reports (ACPI 6.5, section 5.6.9). That device also tells of
//! another generation: its identifier (VMGenID) and the VMClock page are devices in memory.
//!
//! There is no MCFG and no PCI root in the DSDT: a guest finds neither PCI bus nor slots to scan.
//! virtio-mmio devices are `LNRO0005`, which stock Linux kernels know.

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use nvvmm_devices::CLOCK_PAGE_BYTES;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::error::at;
use super::layout::{
    ACPI, ACPI_END, IDENTITY, IOAPIC, LOCAL_APIC, VIRTIO_MMIO_SIZE_BYTES, virtio_gsi,
    virtio_mmio_gpa,
};
use super::{BootError, Result};

const OEM_ID: [u8; 6] = *b"NVVMM ";
const OEM_TABLE_ID: [u8; 8] = *b"NVVMMTBL";
const OEM_REVISION: u32 = 1;

/// IA-PC boot architecture flags (ACPI 6.5, table 5.10): no VGA, no MSI (there is no PCI), no CMOS
/// clock. Neither a keyboard controller nor legacy devices are claimed.
const BOOT_ARCH_NO_VGA_MSI_RTC: u16 = 1 << 2 | 1 << 3 | 1 << 5;

/// An interrupting device at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcpiDevice {
    /// First port or guest physical address.
    pub base: u32,
    /// Global system interrupt, edge-triggered, active high.
    pub gsi: u32,
}

/// Registers by which the guest powers off and resets, and reads of the power button. All are in
/// port space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerRegisters {
    /// Sleep control register.
    pub sleep_control_port: u16,
    /// Sleep status register.
    pub sleep_status_port: u16,
    /// Sleep type that means S5, off.
    pub s5_type: u8,
    /// Reset register.
    pub reset_port: u16,
    /// Value to write there.
    pub reset_value: u8,
    /// Event register, which a read empties.
    pub events_port: u16,
    /// Bit of it: the power button was pressed.
    pub button_pressed: u8,
    /// Bit of it: the guest was restored or rewound.
    pub restored: u8,
    /// Global system interrupt of events.
    pub gsi: u32,
}

/// Parts of the machine, besides its vCPUs, that the tables name.
#[derive(Clone, Copy, Debug)]
pub struct AcpiParts<'a> {
    /// 16550 at a port.
    pub serial: AcpiDevice,
    /// Slots with a virtio-mmio device, of those that [`super::layout`] has.
    pub virtio: &'a [u8],
    /// Power-off and reset.
    pub power: PowerRegisters,
}

/// Writes the tables, the RSDP at [`ACPI`].
///
/// # Errors
/// [`BootError::DoesNotFit`] or [`BootError::Memory`].
pub fn write<M: GuestMemoryBackend>(memory: &M, vcpus: u8, parts: &AcpiParts) -> Result<()> {
    let bytes = tables(vcpus, parts);
    if bytes.len() as u64 > ACPI_END - ACPI {
        return Err(BootError::DoesNotFit {
            what: "the ACPI tables".into(),
            size_bytes: bytes.len() as u64,
            why: "there is room for 56 KiB".into(),
        });
    }
    memory
        .write_slice(&bytes, GuestAddress(ACPI))
        .map_err(at("the ACPI tables", ACPI))
}

/// All tables as they lie from [`ACPI`] on.
pub(super) fn tables(vcpus: u8, parts: &AcpiParts) -> Vec<u8> {
    let mut bytes = vec![0; Rsdp::len()];
    let mut place = |table: &dyn Aml| {
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        let gpa = ACPI + bytes.len() as u64;
        table.to_aml_bytes(&mut bytes);
        gpa
    };
    let dsdt = place(&dsdt(parts));
    let fadt = place(&fadt(dsdt, &parts.power).finalize());
    let madt = place(&madt(vcpus));
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = place(&xsdt);
    let mut rsdp = Vec::new();
    Rsdp::new(OEM_ID, xsdt).to_aml_bytes(&mut rsdp);
    bytes[..rsdp.len()].copy_from_slice(&rsdp);
    bytes
}

fn port_register(port: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        u64::from(port),
    )
}

fn fadt(dsdt: u64, power: &PowerRegisters) -> FADTBuilder {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless);
    fadt.iapc_boot_arch = BOOT_ARCH_NO_VGA_MSI_RTC.into();
    fadt.sleep_control_reg = port_register(power.sleep_control_port);
    fadt.sleep_status_reg = port_register(power.sleep_status_port);
    fadt.reset_reg = port_register(power.reset_port);
    fadt.reset_value = power.reset_value;
    fadt
}

fn madt(vcpus: u8) -> MADT {
    let mut madt = MADT::new(
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
        LocalInterruptController::Address(LOCAL_APIC),
    );
    for index in 0..vcpus {
        madt.add_structure(ProcessorLocalApic::new(
            index,
            index,
            EnabledStatus::Enabled,
        ));
    }
    madt.add_structure(IoApic::new(0, IOAPIC, 0));
    madt
}

fn dsdt(parts: &AcpiParts) -> Sdt {
    let mut aml_bytes = Vec::new();
    let s5 = [parts.power.s5_type, 0, 0, 0];
    let s5: Vec<&dyn Aml> = s5.iter().map(|byte| byte as &dyn Aml).collect();
    aml::Name::new("_S5_".into(), &aml::Package::new(s5)).to_aml_bytes(&mut aml_bytes);
    append_identity(&mut aml_bytes);
    append_events(&mut aml_bytes, &parts.power);
    let serial = parts.serial;
    let io = aml::IO::new(serial.base as u16, serial.base as u16, 1, 8);
    append_device(
        &mut aml_bytes,
        "COM1",
        &aml::EISAName::new("PNP0501"),
        0,
        &io,
        serial.gsi,
    );
    for &slot in parts.virtio {
        // The registers lie below 4 GiB.
        let base = virtio_mmio_gpa(slot) as u32;
        let registers = aml::Memory32Fixed::new(true, base, VIRTIO_MMIO_SIZE_BYTES as u32);
        append_device(
            &mut aml_bytes,
            &format!("VR{slot:02X}"),
            &"LNRO0005",
            slot,
            &registers,
            virtio_gsi(slot),
        );
    }
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&aml_bytes);
    dsdt
}

/// Appends the devices by which a guest tells its copies apart (Microsoft, "Virtual Machine
/// Generation ID"; UAPI.13 VMClock). Linux knows the first by `VMGENCTR` and by the compatible id,
/// the second by `AMZNC10C`, later by both.
fn append_identity(aml_bytes: &mut Vec<u8>) {
    let named = |name: &str, text: &'static str| aml::Name::new(name.into(), &text);
    let status = aml::Name::new("_STA".into(), &0x0fu8);

    let (id, compatible) = (named("_HID", "VMGENCTR"), named("_CID", "VM_Gen_Counter"));
    let described = named("_DDN", "VM_Gen_Counter");
    // The halves of the address.
    let (low, high) = (IDENTITY.generation_id as u32, aml::ZERO);
    let address = aml::Name::new("ADDR".into(), &aml::Package::new(vec![&low, &high]));
    let parts: Vec<&dyn Aml> = vec![&id, &compatible, &described, &status, &address];
    let generation_id = aml::Device::new("VGEN".into(), parts);

    let (id, compatible) = (named("_HID", "AMZNC10C"), named("_CID", "VMCLOCK"));
    let described = named("_DDN", "VMCLOCK");
    let page_bytes = CLOCK_PAGE_BYTES as u32;
    let page = aml::Memory32Fixed::new(false, IDENTITY.clock_page as u32, page_bytes);
    let resources = aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&page]));
    let parts: Vec<&dyn Aml> = vec![&id, &compatible, &described, &status, &resources];
    let clock = aml::Device::new("VCLK".into(), parts);
    aml::Scope::new("_SB_".into(), vec![&generation_id, &clock]).to_aml_bytes(aml_bytes);
}

/// Appends the power button, and the event device that reads the event register and tells of it,
/// and of another generation.
fn append_events(aml_bytes: &mut Vec<u8>, power: &PowerRegisters) {
    let port = power.events_port;
    let space = aml::OpRegionSpace::SystemIO;
    let region = aml::OpRegion::new("PWRR".into(), space, &port, &1u8);
    let register = aml::Field::new(
        "PWRR".into(),
        aml::FieldAccessType::Byte,
        aml::FieldLockRule::NoLock,
        aml::FieldUpdateRule::WriteAsZeroes,
        vec![aml::FieldEntry::Named(*b"PWRE", 8)],
    );
    let hid = aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0C0C"));
    let uid = aml::Name::new("_UID".into(), &aml::ZERO);
    let button = aml::Device::new("PWRB".into(), vec![&hid, &uid]);

    // One read: it empties the register.
    let (events, read_register) = (aml::Local(0), aml::Path::new("PWRE"));
    let read = aml::Store::new(&events, &read_register);
    let is_pressed = aml::And::new(&aml::Local(1), &events, &power.button_pressed);
    let (object, changed) = (aml::Path::new("PWRB"), 0x80u8);
    let notify = aml::Notify::new(&object, &changed);
    let tell = aml::If::new(&is_pressed, vec![&notify]);
    let is_restored = aml::And::new(&aml::Local(1), &events, &power.restored);
    let (generation_id, clock) = (aml::Path::new("VGEN"), aml::Path::new("VCLK"));
    let notify_generation = aml::Notify::new(&generation_id, &changed);
    let notify_clock = aml::Notify::new(&clock, &changed);
    let renew = aml::If::new(&is_restored, vec![&notify_generation, &notify_clock]);
    let handle = aml::Method::new("_EVT".into(), 1, true, vec![&read, &tell, &renew]);
    let hid = aml::Name::new("_HID".into(), &"ACPI0013");
    let interrupt = aml::Interrupt::new(true, true, false, false, power.gsi);
    let resources = aml::ResourceTemplate::new(vec![&interrupt]);
    let resources = aml::Name::new("_CRS".into(), &resources);
    let events = aml::Device::new("GED0".into(), vec![&hid, &uid, &resources, &handle]);
    let parts: Vec<&dyn Aml> = vec![&region, &register, &button, &events];
    aml::Scope::new("_SB_".into(), parts).to_aml_bytes(aml_bytes);
}

/// Appends a device with one address range and one edge-triggered interrupt.
fn append_device(
    aml_bytes: &mut Vec<u8>,
    name: &str,
    hid: &dyn Aml,
    uid: u8,
    range: &dyn Aml,
    gsi: u32,
) {
    let interrupt = aml::Interrupt::new(true, true, false, false, gsi);
    let (hid, uid) = (
        aml::Name::new("_HID".into(), hid),
        aml::Name::new("_UID".into(), &uid),
    );
    let crs = aml::Name::new(
        "_CRS".into(),
        &aml::ResourceTemplate::new(vec![range, &interrupt]),
    );
    let device = aml::Device::new(name.into(), vec![&hid, &uid, &crs]);
    aml::Scope::new("_SB_".into(), vec![&device]).to_aml_bytes(aml_bytes);
}
