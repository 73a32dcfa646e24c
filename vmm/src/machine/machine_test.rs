//! Whole machines on the host's KVM, with guests of a few instructions. Skipped with a notice where
//! there is no KVM.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nvvmm_devices::{ConsoleStreams, HostSocket};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::arch::boot::layout::{PD, PML4};
use crate::arch::state_test::kvm_is_missing;
use crate::checkpoint::blob::SavedVm;
use crate::disk::DiskUser;
use crate::memory::{GuestRam, WriteLog};
use crate::spec::{
    DeclaredDevice, DeviceKind, DiskSource, DiskSpec, VmSpec, files::OpenedFiles, saved_test,
};

/// Addresses of a guest's code and of its counters.
const CODE: u64 = 0x10_0000;
const COUNTERS: u64 = 0x18_0000;

/// Each vCPU counts in a cache line of its own: mov rax,rdi; shl rax,6; add rax,COUNTERS; l: inc
/// qword [rax]; jmp l
const COUNT: [u8; 18] = [
    0x48, 0x89, 0xf8, 0x48, 0xc1, 0xe0, 6, 0x48, 0x05, 0, 0, 0x18, 0, 0x48, 0xff, 0, 0xeb, 0xfb,
];
/// Sends 0, 1, ... 255, 0, ... to the serial port: mov dx,0x3f8; xor eax,eax; l: out dx,al; inc al;
/// jmp l
const SEND: [u8; 11] = [
    0x66, 0xba, 0xf8, 3, 0x31, 0xc0, 0xee, 0xfe, 0xc0, 0xeb, 0xfb,
];
/// Writes the serial port's scratch register, reads it back, counts; an exception when it reads
/// another value: mov dx,0x3ff; l: inc ebx; mov al,bl; out dx,al; xor al,al; in al,dx; cmp al,bl;
/// jne e; inc qword [COUNTERS]; jmp l; e: ud2
const ECHO: [u8; 28] = [
    0x66, 0xba, 0xff, 3, 0xff, 0xc3, 0x88, 0xd8, 0xee, 0x30, 0xc0, 0xec, 0x38, 0xd8, 0x75, 10,
    0x48, 0xff, 4, 0x25, 0, 0, 0x18, 0, 0xeb, 0xea, 0x0f, 0x0b,
];
/// Writes `value` to `port`, then loops: mov dx,port; mov al,value; out dx,al; jmp .
fn out(port: u16, value: u8) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    vec![0x66, 0xba, low, high, 0xb0, value, 0xee, 0xeb, 0xfe]
}

/// A flat guest of `code`, with the flags of its note.
fn program(code: &[u8], flags: u8) -> Vec<u8> {
    let mut note = Vec::new();
    [6u32, 8, 1]
        .iter()
        .for_each(|word| note.extend(word.to_le_bytes()));
    note.extend(b"nvvmm\0\0\0\x01\0\0\0");
    note.extend([flags, 0, 0, 0]);
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    [CODE, 64, 0]
        .iter()
        .for_each(|word| file.extend(word.to_le_bytes()));
    file.extend([0; 4]);
    [64u16, 56, 2, 64, 0, 0]
        .iter()
        .for_each(|half| file.extend(half.to_le_bytes()));
    let offset = 64 + 2 * 56;
    for (kind, offset, paddr, bytes) in [
        (4u32, offset, 0, &note[..]),
        (1, offset + note.len(), CODE, code),
    ] {
        let size = bytes.len() as u64;
        [kind, 7]
            .iter()
            .for_each(|word| file.extend(word.to_le_bytes()));
        [offset as u64, 0, paddr, size, size, 1]
            .iter()
            .for_each(|word| file.extend(word.to_le_bytes()));
    }
    file.extend(note);
    file.extend(code);
    file
}

struct Bench {
    dir: tempfile::TempDir,
    spec: VmSpec,
}

/// Adds disks in the slots behind the last one.
fn add_disks(spec: &mut VmSpec, disks: &[DiskSpec]) {
    for disk in disks {
        let slot = spec.devices.len() as u32;
        let kind = DeviceKind::Disk(disk.clone());
        spec.devices.push(DeclaredDevice { slot, kind });
    }
}

struct Rig {
    machine: Machine,
    ram: GuestRam,
}

impl Bench {
    fn new(code: &[u8], vcpus: u8) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("guest");
        fs::write(&kernel, program(code, 0)).unwrap();
        let spec = VmSpec::builder(kernel)
            .vcpus(vcpus)
            .memory_bytes(2 << 20)
            .build();
        Bench { dir, spec }
    }

    fn console(&self) -> PathBuf {
        self.dir.path().join("console")
    }

    fn build(&self) -> Rig {
        let ram = GuestRam::reserve(self.spec.memory_bytes).unwrap();
        let output = File::options()
            .create(true)
            .append(true)
            .open(self.console())
            .unwrap();
        let mut console = ConsoleStreams::default();
        console.output = Some(output);
        let parts = MachineParts {
            spec: &self.spec,
            files: &OpenedFiles::open(&self.spec, &DiskUser::OF_FILES).unwrap(),
            memory: Arc::clone(ram.memory()),
            slots: ram.slots(),
            console,
            vsock: None,
            free_pages: None,
            dirty_log: true,
        };
        Rig {
            machine: Machine::create(parts).unwrap(),
            ram,
        }
    }

    fn boot(&self) -> Rig {
        let rig = self.build();
        rig.machine.load().unwrap();
        rig.machine.start(true).unwrap();
        rig
    }

    /// Saves a machine, ends it, and goes on with its state and memory in a new one.
    fn carry_over(&self, old: Rig) -> Rig {
        let state = old.save();
        old.machine.stop();
        let new = self.build();
        let mut memory = vec![0; self.spec.memory_bytes as usize];
        old.ram
            .memory()
            .read_slice(&mut memory, GuestAddress(0))
            .unwrap();
        new.ram
            .memory()
            .write_slice(&memory, GuestAddress(0))
            .unwrap();
        new.machine.restore(&state).unwrap();
        new.machine.start(true).unwrap();
        new
    }
}

impl Rig {
    fn counter(&self, vcpu: u64) -> u64 {
        self.ram
            .memory()
            .read_obj(GuestAddress(COUNTERS + vcpu * 64))
            .unwrap()
    }

    /// Waits until the counter of `vcpu` has moved on by `steps`.
    fn progress(&self, vcpu: u64, steps: u64) {
        let (from, end) = (self.counter(vcpu), Instant::now() + Duration::from_secs(60));
        while self.counter(vcpu) < from + steps {
            assert!(
                Instant::now() < end,
                "vCPU {vcpu} stands still at {}",
                self.counter(vcpu)
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn save(&self) -> MachineStateV1 {
        self.machine.pause_vcpus(Hold::Pause).unwrap();
        self.machine.quiesce_devices().unwrap();
        MachineStateV1 {
            devices: self.machine.save_devices().unwrap(),
            kvm: self.machine.save_kvm().unwrap(),
        }
    }
}

#[test]
fn the_guest_powers_off_resets_and_fails_in_words() {
    if kvm_is_missing() {
        return;
    }
    let cases = [
        (out(0x600, 0x34), MachineEvent::PoweredOff),
        (out(0x602, 1), MachineEvent::Reset),
        (out(0x64, 0xfe), MachineEvent::Reset),
    ];
    for (code, expected) in cases {
        assert_eq!(Bench::new(&code, 1).boot().machine.wait_event(), expected);
    }
    let event = Bench::new(&[0x0f, 0x0b], 2).boot().machine.wait_event();
    let MachineEvent::TripleFault { what, resets, .. } = event else {
        panic!("{event:?}")
    };
    assert!(what.contains("triple fault") && !resets, "{what}");
}

#[test]
fn a_string_instruction_reaches_the_port_item_by_item() {
    if kvm_is_missing() {
        return;
    }
    // mov esi,text; mov ecx,10; mov dx,0x3f8; rep outsb; then power off; text
    let mut code = vec![
        0xbe, 0x19, 0, 0x10, 0, 0xb9, 10, 0, 0, 0, 0x66, 0xba, 0xf8, 3, 0xf3, 0x6e,
    ];
    code.extend(out(0x600, 0x34));
    code.extend(b"0123456789");
    let bench = Bench::new(&code, 1);
    let rig = bench.boot();
    assert_eq!(rig.machine.wait_event(), MachineEvent::PoweredOff);
    rig.machine.stop();
    assert_eq!(fs::read(bench.console()).unwrap(), b"0123456789");
}

#[test]
fn paused_vcpus_stand_still_and_resumed_ones_go_on() {
    if kvm_is_missing() {
        return;
    }
    let rig = Bench::new(&COUNT, 2).boot();
    for _ in 0..50 {
        rig.progress(0, 100);
        rig.progress(1, 100);
        rig.machine.pause_vcpus(Hold::Pause).unwrap();
        let held = (rig.counter(0), rig.counter(1));
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!((rig.counter(0), rig.counter(1)), held);
        rig.machine.resume_vcpus(Hold::Pause);
    }
}

#[test]
fn a_machine_started_paused_has_not_run() {
    if kvm_is_missing() {
        return;
    }
    let bench = Bench::new(&COUNT, 1);
    let rig = bench.build();
    rig.machine.load().unwrap();
    rig.machine.start(false).unwrap();
    rig.machine.pause_vcpus(Hold::Pause).unwrap();
    assert_eq!((rig.counter(0), rig.machine.first_entry()), (0, None));
    rig.machine.resume_vcpus(Hold::Pause);
    rig.progress(0, 1);
    assert!(rig.machine.first_entry().is_some());
}

#[test]
fn a_saved_machine_goes_on_in_another_one() {
    if kvm_is_missing() {
        return;
    }
    let bench = Bench::new(&COUNT, 2);
    let mut rig = bench.boot();
    for _ in 0..5 {
        rig.progress(0, 1000);
        rig.progress(1, 1000);
        rig.machine.pause_vcpus(Hold::Pause).unwrap();
        let held = (rig.counter(0), rig.counter(1));
        rig = bench.carry_over(rig);
        assert!(rig.counter(0) >= held.0 && rig.counter(1) >= held.1);
    }
    rig.progress(0, 1000);
    rig.progress(1, 1000);
}

#[test]
fn no_output_is_lost_or_sent_twice_across_pauses_and_machines() {
    if kvm_is_missing() {
        return;
    }
    let bench = Bench::new(&SEND, 1);
    let mut rig = bench.boot();
    for round in 0..40 {
        std::thread::sleep(Duration::from_millis(5));
        rig.machine.pause_vcpus(Hold::Pause).unwrap();
        if round % 4 == 3 {
            rig = bench.carry_over(rig);
        } else {
            rig.machine.resume_vcpus(Hold::Pause);
        }
    }
    rig.machine.stop();
    let sent = fs::read(bench.console()).unwrap();
    assert!(sent.len() > 40, "{} bytes", sent.len());
    let wrong = sent
        .iter()
        .enumerate()
        .find(|(at, byte)| **byte != *at as u8);
    assert_eq!(wrong, None, "of {} bytes", sent.len());
}

#[test]
fn no_input_is_lost_across_pauses_and_machines() {
    if kvm_is_missing() {
        return;
    }
    let bench = Bench::new(&ECHO, 1);
    let mut rig = bench.boot();
    for round in 0..40 {
        rig.progress(0, 3);
        rig.machine.pause_vcpus(Hold::Pause).unwrap();
        if round % 4 == 3 {
            rig = bench.carry_over(rig);
        } else {
            rig.machine.resume_vcpus(Hold::Pause);
        }
    }
    rig.progress(0, 100);
    let interrupter = rig.machine.interrupter();
    interrupter.interrupt();
    assert_eq!(
        rig.machine.wait_event(),
        MachineEvent::Interrupted,
        "else the guest has read a wrong value"
    );
}

#[test]
fn a_failed_vcpu_keeps_nobody_from_pausing_saving_and_going_on() {
    if kvm_is_missing() {
        return;
    }
    // test rdi,rdi; jz count; ud2
    let code = [&[0x48, 0x85, 0xff, 0x74, 2, 0x0f, 0x0b][..], &COUNT].concat();
    let rig = Bench::new(&code, 2).boot();
    assert!(matches!(
        rig.machine.wait_event(),
        MachineEvent::TripleFault {
            vcpu: 1,
            resets: false,
            ..
        }
    ));
    rig.progress(0, 10);
    let state = rig.save();
    assert_eq!(state.kvm.vcpus.len(), 2);
    rig.machine.resume_devices().unwrap();
    rig.machine.resume_vcpus(Hold::Pause);
    rig.progress(0, 10);
}

#[test]
fn the_dirty_log_shows_what_the_guest_writes() {
    if kvm_is_missing() {
        return;
    }
    let rig = Bench::new(&COUNT, 1).boot();
    rig.progress(0, 1);
    rig.machine.pause_vcpus(Hold::Pause).unwrap();
    rig.machine.take_slot(0).unwrap();
    rig.machine.resume_vcpus(Hold::Pause);
    rig.progress(0, 1000);
    rig.machine.pause_vcpus(Hold::Pause).unwrap();
    let log = rig.machine.take_slot(0).unwrap();
    let dirty = |frame: u64| log[frame as usize / 64] >> (frame % 64) & 1 == 1;
    assert!(dirty(COUNTERS / 4096));
    // With nested paging the walk through the guest's page tables counts as writing them.
    let tables = PML4 / 4096..=PD / 4096;
    let others: Vec<u64> = (0..512)
        .filter(|f| dirty(*f) && *f != COUNTERS / 4096 && !tables.contains(f))
        .collect();
    assert_eq!(others, [0u64; 0]);
    assert!(rig.machine.take_slot(1).is_err(), "there is one slot");
}

#[test]
fn saving_a_running_machine_and_starting_twice_are_refused() {
    if kvm_is_missing() {
        return;
    }
    let bench = Bench::new(&COUNT, 1);
    let rig = bench.boot();
    assert!(matches!(
        rig.machine.save_kvm(),
        Err(MachineError::State(_))
    ));
    assert!(rig.machine.save_devices().is_err());
    let idle = bench.build();
    assert!(
        matches!(
            idle.machine.pause_vcpus(Hold::Pause),
            Err(MachineError::State(_))
        ),
        "not started"
    );
    idle.machine.load().unwrap();
    idle.machine.start(false).unwrap();
    assert!(matches!(
        idle.machine.start(true),
        Err(MachineError::State(_))
    ));
}

#[test]
fn devices_may_be_in_any_slots() {
    if kvm_is_missing() {
        return;
    }
    let mut bench = Bench::new(&COUNT, 1);
    let image = bench.dir.path().join("disk");
    fs::write(&image, vec![0; 1 << 20]).unwrap();
    let disk = DeviceKind::Disk(DiskSpec {
        source: DiskSource::File(image),
        // The new machine opens it while the old one has it open.
        read_only: true,
        ..DiskSpec::default()
    });
    bench.spec.devices[0].slot = 18;
    bench.spec.devices.push(DeclaredDevice {
        slot: 3,
        kind: disk,
    });
    let mut rig = bench.boot();
    rig.progress(0, 10);
    rig.machine.pause_vcpus(Hold::Pause).unwrap();
    rig = bench.carry_over(rig);
    rig.progress(0, 10);
}

#[test]
fn devices_of_an_old_snapshot_are_restored() {
    if kvm_is_missing() {
        return;
    }
    let old = SavedVm::decode(saved_test::BLOB).unwrap();
    let bench = Bench::new(&COUNT, 1);
    let image = |name, size| {
        let path = bench.dir.path().join(name);
        fs::write(&path, vec![0; size]).unwrap();
        let read_only = name == "b";
        DiskSpec {
            source: DiskSource::File(path),
            read_only,
            ..DiskSpec::default()
        }
    };
    let mut spec = old.spec;
    assert!(spec.replace_disks(&[image("a", 1 << 20), image("b", 4096)]));
    let ram = GuestRam::reserve(spec.memory_bytes).unwrap();
    let socket = HostSocket::bind(&bench.dir.path().join("vsock")).unwrap();
    let machine = Machine::create(MachineParts {
        spec: &spec,
        files: &OpenedFiles::open_restored(&spec, &DiskUser::OF_FILES).unwrap(),
        memory: Arc::clone(ram.memory()),
        slots: ram.slots(),
        console: ConsoleStreams::default(),
        vsock: Some(Arc::new(socket)),
        free_pages: None,
        dirty_log: false,
    })
    .unwrap();
    // This host's vCPUs, with the devices of the old machine.
    let state = MachineStateV1 {
        kvm: bench.boot().save().kvm,
        devices: old.machine.devices,
    };
    machine.restore(&state).unwrap();
    assert_eq!(machine.save_devices().unwrap(), state.devices);
}

#[test]
fn a_state_with_other_devices_is_refused() {
    if kvm_is_missing() {
        return;
    }
    let bench = Bench::new(&COUNT, 1);
    let rig = bench.boot();
    let state = rig.save();
    let refused = |state: &MachineStateV1, spec: &VmSpec| {
        let other = Bench {
            dir: tempfile::tempdir().unwrap(),
            spec: spec.clone(),
        };
        other
            .build()
            .machine
            .restore(state)
            .unwrap_err()
            .to_string()
    };
    let mut with_disk = bench.spec.clone();
    let image = bench.dir.path().join("disk");
    fs::write(&image, vec![0; 1 << 20]).unwrap();
    let disk = DiskSpec {
        source: DiskSource::File(image),
        read_only: false,
        ..DiskSpec::default()
    };
    add_disks(&mut with_disk, &[disk]);
    let text = refused(&state, &with_disk);
    assert!(text.contains("it has no virtio-mmio \"disk0\""), "{text}");

    let mut extra = state.clone();
    extra.devices.push(extra.devices[0].clone());
    let text = refused(&extra, &bench.spec);
    assert!(text.contains("that this machine does not have"), "{text}");
}

#[test]
fn machines_that_cannot_be_are_refused() {
    if kvm_is_missing() {
        return;
    }
    let bench = Bench::new(&COUNT, 1);
    let ram = GuestRam::reserve(2 << 20).unwrap();
    let refused = |change: &dyn Fn(&mut VmSpec)| {
        let mut spec = bench.spec.clone();
        change(&mut spec);
        let opened =
            check_devices(&spec).and_then(|()| Ok(OpenedFiles::open(&spec, &DiskUser::OF_FILES)?));
        let files = match opened {
            Ok(files) => files,
            Err(error) => return error.to_string(),
        };
        let parts = MachineParts {
            spec: &spec,
            files: &files,
            memory: Arc::clone(ram.memory()),
            slots: ram.slots(),
            console: ConsoleStreams::default(),
            vsock: None,
            free_pages: None,
            dirty_log: false,
        };
        let Err(error) = Machine::create(parts) else {
            panic!("made")
        };
        error.to_string()
    };
    assert!(refused(&|spec| spec.vcpus = 0).contains("1 to"));
    assert!(refused(&|spec| spec.vcpus = 255).contains("not 255"));
    let missing = DiskSpec {
        source: DiskSource::File("/nonexistent/disk".into()),
        read_only: true,
        ..DiskSpec::default()
    };
    let text = refused(&|spec| add_disks(spec, std::slice::from_ref(&missing)));
    assert!(text.contains("/nonexistent/disk"), "{text}");
    assert!(
        refused(&|spec| add_disks(spec, &vec![missing.clone(); 40]))
            .contains("at most 18 disks, not 40")
    );
    let in_slot = |slot| {
        refused(&|spec| {
            let mut rng = spec.devices[0].clone();
            rng.slot = slot;
            spec.devices.push(rng);
        })
    };
    let text = in_slot(0);
    assert!(text.contains("rng0 and rng1 are both in slot 0"), "{text}");
    let text = in_slot(19);
    assert!(text.contains("rng1 is in slot 19"), "{text}");
    assert!(in_slot(u32::MAX).contains("slots 0 to 18"));
    assert!(
        refused(&|spec| spec.devices = vec![spec.devices[0].clone(); 20])
            .contains("at most 19 devices, not 20")
    );
    for windows in [18, 19, u8::MAX] {
        let pmem = VmSpec::builder("/k").vsock().pmem(windows.into()).build();
        let text = refused(&|spec| spec.devices.clone_from(&pmem.devices));
        let devices = usize::from(windows) + 2;
        assert!(text.contains(&format!("not {devices}")), "{text}");
    }
}

#[path = "identity_test.rs"]
mod identity_test;
#[path = "rewind_test.rs"]
mod rewind_test;
