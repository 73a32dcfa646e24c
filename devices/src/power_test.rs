use std::time::Duration;

use super::*;
use crate::sys::poll_ready;

fn readable(signal: &PowerSignal) -> bool {
    poll_ready(signal.as_raw_fd(), libc::POLLIN, Duration::ZERO).unwrap()
}

fn power() -> (AcpiPower, Arc<PowerSignal>) {
    let signal = PowerSignal::new().unwrap();
    (AcpiPower::new(Arc::clone(&signal)), signal)
}

fn write(power: &mut AcpiPower, port: u64, value: u8) {
    power.write(port - POWER_PORTS_BASE, &[value]);
}

/// Value that Linux writes for sleep type `kind` (acpi_hw_extended_sleep).
fn sleep(kind: u8) -> u8 {
    kind << 2 | 1 << 5
}

#[test]
fn the_off_state_is_off_and_other_sleep_states_are_nothing() {
    let (mut power, signal) = power();
    write(&mut power, SLEEP_STATUS_PORT, 0x80);
    write(&mut power, SLEEP_CONTROL_PORT, sleep(1));
    write(&mut power, SLEEP_CONTROL_PORT, SLEEP_TYPE_S5 << 2);
    write(&mut power, RESET_PORT, RESET_VALUE + 1);
    assert_eq!(signal.requested(), None);
    assert!(!readable(&signal));
    write(&mut power, SLEEP_CONTROL_PORT, sleep(SLEEP_TYPE_S5));
    assert_eq!(signal.requested(), Some(PowerEvent::Off));
    assert!(readable(&signal));
}

#[test]
fn reset_comes_through_acpi_and_through_the_keyboard_controller() {
    let (mut power, signal) = power();
    write(&mut power, RESET_PORT, RESET_VALUE);
    assert_eq!(signal.requested(), Some(PowerEvent::Reset));
    signal.clear();
    assert_eq!(signal.requested(), None);
    assert!(!readable(&signal));
    let mut controller = I8042::new(Arc::clone(&signal));
    let mut status = [0xaa];
    controller.read(0, &mut status);
    assert_eq!(status, [0], "its input buffer is empty");
    controller.write(0, &[0xd1]);
    assert_eq!(signal.requested(), None);
    controller.write(0, &[0xfe]);
    assert_eq!(signal.requested(), Some(PowerEvent::Reset));
}

#[test]
fn the_first_request_stands() {
    let (mut power, signal) = power();
    write(&mut power, SLEEP_CONTROL_PORT, sleep(SLEEP_TYPE_S5));
    signal.drain();
    write(&mut power, RESET_PORT, RESET_VALUE);
    assert_eq!(signal.requested(), Some(PowerEvent::Off));
    assert!(!readable(&signal));
}

#[test]
fn a_request_that_was_not_carried_out_survives_a_snapshot() {
    let (mut original, _) = power();
    write(&mut original, SLEEP_CONTROL_PORT, sleep(SLEEP_TYPE_S5));
    assert!(matches!(
        original.save(),
        Err(LifecycleError::NotPaused { .. })
    ));
    original.pause().unwrap();
    let saved = original.save().unwrap();
    assert_eq!(saved.payload, [1]);
    let (mut copy, signal) = power();
    copy.restore(&saved).unwrap();
    assert!(!readable(&signal));
    copy.resume().unwrap();
    assert!(readable(&signal));
    assert_eq!(signal.requested(), Some(PowerEvent::Off));
    let damaged = SavedDevice {
        payload: vec![3],
        ..saved
    };
    assert!(matches!(
        copy.restore(&damaged),
        Err(LifecycleError::Rejected { .. })
    ));
}
