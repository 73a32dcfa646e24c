use std::time::Duration;

use super::*;
use crate::irq::CountingIrq;
use crate::sys::poll_ready;

fn readable(signal: &PowerSignal) -> bool {
    poll_ready(signal.as_raw_fd(), libc::POLLIN, Duration::ZERO).unwrap()
}

fn power() -> (AcpiPower, Arc<PowerSignal>) {
    let signal = PowerSignal::new().unwrap();
    let line = Arc::new(CountingIrq::default());
    (AcpiPower::new(Arc::clone(&signal), line), signal)
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

fn with_button() -> (AcpiPower, Arc<CountingIrq>) {
    let line = Arc::new(CountingIrq::default());
    let signal = PowerSignal::new().unwrap();
    (AcpiPower::new(signal, Arc::clone(&line) as _), line)
}

fn events(power: &mut AcpiPower) -> u8 {
    let mut value = [0xaa];
    power.read(POWER_EVENTS_PORT - POWER_PORTS_BASE, &mut value);
    value[0]
}

#[test]
fn a_press_of_the_button_is_read_once() {
    let (mut power, line) = with_button();
    assert_eq!(events(&mut power), 0);
    power.press_button().unwrap();
    power.press_button().unwrap();
    assert_eq!(line.raised(), 2);
    let mut wide = [0xaa; 2];
    power.read(POWER_EVENTS_PORT - POWER_PORTS_BASE, &mut wide);
    assert_eq!(wide, [0; 2], "the register is one byte wide");
    assert!(power.is_button_unread());
    assert_eq!(events(&mut power), POWER_BUTTON_PRESSED);
    assert!(!power.is_button_unread());
    assert_eq!(events(&mut power), 0);
}

#[test]
fn a_press_that_was_not_read_survives_a_snapshot() {
    let (mut original, line) = with_button();
    original.pause().unwrap();
    let without = original.save().unwrap();
    assert_eq!((without.version, &*without.payload), (1, &[0][..]));
    original.press_button().unwrap();
    assert_eq!(line.raised(), 0, "a paused device raises no interrupt");
    let saved = original.save().unwrap();
    assert_eq!((saved.version, &*saved.payload), (2, &[0, 1][..]));
    let (mut copy, line) = with_button();
    copy.restore(&saved).unwrap();
    assert_eq!(line.raised(), 0);
    copy.resume().unwrap();
    assert_eq!(line.raised(), 1);
    assert_eq!(events(&mut copy), POWER_BUTTON_PRESSED);
    copy.pause().unwrap();
    copy.restore(&without).unwrap();
    copy.resume().unwrap();
    assert_eq!((line.raised(), events(&mut copy)), (1, 0));
}

#[test]
fn a_guest_that_was_restored_is_told_when_its_devices_go_on() {
    let (mut power, line) = with_button();
    power.press_button().unwrap();
    power.pause().unwrap();
    let saved = power.save().unwrap();
    let (mut copy, copy_line) = with_button();
    copy.restore(&saved).unwrap();
    copy.tell_restored().unwrap();
    assert_eq!(copy_line.raised(), 0);
    // A snapshot of it before it went on.
    let saved = copy.save().unwrap();
    assert_eq!((saved.version, &*saved.payload), (2, &[0, 3][..]));
    copy.resume().unwrap();
    assert_eq!(copy_line.raised(), 1);
    assert_eq!(events(&mut copy), POWER_BUTTON_PRESSED | POWER_RESTORED);
    assert!(!copy.is_button_unread());
    assert_eq!(line.raised(), 1);
    power.resume().unwrap();
    assert_eq!(events(&mut power), POWER_BUTTON_PRESSED);
}

#[test]
fn a_damaged_state_with_events_is_refused() {
    let (mut power, _) = with_button();
    let state = |version, payload: &[u8]| SavedDevice {
        kind: KIND.into(),
        version,
        instance: INSTANCE.into(),
        payload: payload.into(),
    };
    let refused = [
        (2, &[0, 4][..]),
        (2, &[3, 1]),
        (2, &[0]),
        (2, &[0, 1, 0]),
        (3, &[0, 1]),
    ];
    for (version, payload) in refused {
        assert!(power.restore(&state(version, payload)).is_err());
    }
}
