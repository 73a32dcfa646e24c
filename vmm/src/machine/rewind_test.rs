//! A machine that has run goes back, with its vCPU threads and devices.

use super::*;
use crate::sys::address_range::AddressRange;

/// A machine at a moment, with its memory.
pub(super) struct Moment {
    state: MachineStateV1,
    memory: Vec<u8>,
}

impl Rig {
    /// The machine as it is now. It stands still then.
    pub(super) fn moment(&self) -> Moment {
        let state = self.save();
        let mut memory = vec![0; 2 << 20];
        let ram = self.ram.memory();
        ram.read_slice(&mut memory, GuestAddress(0)).unwrap();
        Moment { state, memory }
    }

    /// Takes the machine back. It stands still.
    pub(super) fn go_back(&self, moment: &Moment) {
        self.machine.check_rewind(&moment.state).unwrap();
        let ram = self.ram.memory();
        ram.write_slice(&moment.memory, GuestAddress(0)).unwrap();
        self.machine.rewind(&moment.state).unwrap();
    }

    pub(super) fn go_on(&self) {
        self.machine.resume_devices().unwrap();
        self.machine.resume_vcpus(Hold::Pause);
    }

    pub(super) fn stand_still(&self) {
        self.machine.pause_vcpus(Hold::Pause).unwrap();
        self.machine.quiesce_devices().unwrap();
    }
}

#[test]
fn vcpus_that_have_run_go_on_from_the_earlier_moment() {
    if kvm_is_missing() {
        return;
    }
    let rig = Bench::new(&COUNT, 2).boot();
    rig.progress(0, 1000);
    rig.progress(1, 1000);
    let then = rig.moment();
    let counted = [0, 1].map(|vcpu| rig.counter(vcpu));
    for _ in 0..20 {
        rig.go_on();
        rig.progress(0, 500);
        rig.progress(1, 500);
        rig.stand_still();
        assert_ne!([0, 1].map(|vcpu| rig.counter(vcpu)), counted);
        rig.go_back(&then);
        assert_eq!(rig.machine.first_entry(), None);
        assert_eq!([0, 1].map(|vcpu| rig.counter(vcpu)), counted);
        // The registers are those of that moment, too: the same is saved again.
        let again = rig.save().kvm;
        for (now, then) in again.vcpus.iter().zip(&then.state.kvm.vcpus) {
            assert_eq!((now.regs, now.events), (then.regs, then.events));
            assert_eq!(now.mp_state, then.mp_state);
        }
    }
    rig.go_on();
    rig.progress(0, 500);
    rig.progress(1, 500);
    assert!(rig.machine.first_entry().is_some());
}

#[test]
fn io_goes_on_where_it_was() {
    if kvm_is_missing() {
        return;
    }
    // An access that is half done when the vCPU is stopped is completed first. The guest stops at
    // the first value that it does not read back.
    let rig = Bench::new(&ECHO, 1).boot();
    rig.progress(0, 20);
    let then = rig.moment();
    for round in 0..30 {
        rig.go_on();
        rig.progress(0, 1 + round % 5);
        rig.stand_still();
        rig.go_back(&then);
    }
    rig.go_on();
    rig.progress(0, 100);
    rig.machine.interrupter().interrupt();
    assert_eq!(rig.machine.wait_event(), MachineEvent::Interrupted);
}

#[test]
fn what_the_guest_asked_for_later_is_forgotten() {
    if kvm_is_missing() {
        return;
    }
    let bench = Bench::new(&out(0x600, 0x34), 1);
    let rig = bench.build();
    rig.machine.load().unwrap();
    rig.machine.start(false).unwrap();
    let then = rig.moment();
    for _ in 0..3 {
        rig.go_on();
        let asked = || rig.machine.first_entry().is_some();
        let end = Instant::now() + Duration::from_secs(60);
        while !asked() {
            assert!(Instant::now() < end);
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(2));
        rig.stand_still();
        rig.go_back(&then);
        rig.machine.interrupter().interrupt();
        assert_eq!(rig.machine.wait_event(), MachineEvent::Interrupted);
    }
    rig.go_on();
    assert_eq!(rig.machine.wait_event(), MachineEvent::PoweredOff);
}

#[test]
fn a_machine_whose_vcpu_has_failed_does_not_go_back() {
    if kvm_is_missing() {
        return;
    }
    let bench = Bench::new(&[0x0f, 0x0b], 1);
    let rig = bench.build();
    rig.machine.load().unwrap();
    rig.machine.start(false).unwrap();
    let then = rig.moment();
    rig.go_on();
    assert!(matches!(
        rig.machine.wait_event(),
        MachineEvent::TripleFault { .. }
    ));
    rig.stand_still();
    let error = rig.machine.check_rewind(&then.state).unwrap_err();
    assert!(error.to_string().contains("has failed"), "{error}");
}

#[test]
fn windows_are_taken_away() {
    if kvm_is_missing() {
        return;
    }
    let mut bench = Bench::new(&COUNT, 1);
    let kernel = bench.spec.kernel.clone().unwrap();
    bench.spec = VmSpec::builder(kernel)
        .vcpus(1)
        .memory_bytes(2 << 20)
        .pmem(2)
        .build();
    let rig = bench.boot();
    rig.progress(0, 100);
    let then = rig.moment();
    for _ in 0..3 {
        rig.go_on();
        let content = Arc::new(AddressRange::new(2 << 20, 2 << 20).unwrap());
        let first = rig.machine.show_window(&content).unwrap();
        rig.machine.show_window(&content).unwrap();
        assert_eq!(first.index, 0);
        rig.stand_still();
        rig.machine.take_windows_away().unwrap();
        rig.go_back(&then);
        assert!(!rig.machine.shows_windows());
        // KVM does not hold the memory any more.
        assert_eq!(Arc::strong_count(&content), 1);
    }
    rig.go_on();
    rig.progress(0, 100);
}
