use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;

use super::{Entry, EventCounter, Special, SpecialKind, entries, event_counter};
use crate::sys;

fn counter(count: u64, semaphore: bool) -> std::os::fd::OwnedFd {
    let state = Special::EventCounter(EventCounter { count, semaphore });
    state.make().expect("a counter")
}

/// As on a kernel that does not tell: the value is afterwards what it was.
#[test]
fn a_semaphore_is_found_out_and_keeps_its_value() {
    for count in [0, 1, 2, 7, u64::MAX - 1] {
        for semaphore in [false, true] {
            let made = counter(count, semaphore);
            let found = event_counter::probe(made.as_fd(), count).expect("a counter");
            assert_eq!(found, semaphore, "{count}");
            let kept = Special::read(SpecialKind::EventCounter, made.as_fd()).expect("a counter");
            let expected = EventCounter { count, semaphore };
            assert_eq!(kept, Some(Special::EventCounter(expected)));
        }
    }
}

#[test]
fn a_timer_that_expired_often_counts_on() {
    let made = sys::timer(libc::CLOCK_MONOTONIC).expect("a timer");
    let interval = (0, 1_000_000);
    sys::arm_timer(made.as_fd(), 0, interval, interval).expect("a timer");
    std::thread::sleep(std::time::Duration::from_millis(5));
    let read = Special::read(SpecialKind::Timer, made.as_fd()).expect("a timer");
    let Some(Special::Timer(mut timer)) = read else {
        panic!("{read:?}")
    };
    assert!(timer.ticks >= 4 && timer.interval == interval, "{timer:?}");
    assert!(timer.left <= interval, "{timer:?}");
    timer.ticks = 1000;
    let state = Special::Timer(timer);
    let again = state.make().expect("a timer");
    assert!(sys::is_ready(again.as_fd(), libc::POLLIN).expect("a file"));
    state.start(&again).expect("a timer");
    let mut ticks = [0; 8];
    File::from(again).read_exact(&mut ticks).expect("ticks");
    assert!((1000..1_000_000).contains(&u64::from_ne_bytes(ticks)));
}

/// A timer with an interval and no time left is due; one with neither is not armed.
#[test]
fn a_timer_that_was_due_goes_on() {
    for interval in [(0, 1_000_000), (0, 0)] {
        let state = Special::Timer(super::Timer {
            clock: libc::CLOCK_MONOTONIC,
            flags: 0,
            ticks: 0,
            interval,
            left: (0, 0),
            now: (0, 0),
        });
        let made = state.make().expect("a timer");
        state.start(&made).expect("a timer");
        std::thread::sleep(std::time::Duration::from_millis(5));
        let is_ready = sys::is_ready(made.as_fd(), libc::POLLIN).expect("a file");
        assert_eq!(is_ready, interval != (0, 0), "{interval:?}");
    }
}

/// A time of day stays what it is; on other clocks the time left does.
#[test]
fn a_timer_at_a_time_keeps_it_if_it_is_a_time_of_day() {
    for (clock, late) in [(libc::CLOCK_REALTIME, true), (libc::CLOCK_MONOTONIC, false)] {
        let made = sys::timer(clock).expect("a timer");
        let (seconds, _) = sys::clock(clock).expect("a clock");
        let at = (seconds + 100, 0);
        sys::arm_timer(made.as_fd(), libc::TFD_TIMER_ABSTIME, (0, 0), at).expect("a timer");
        let read = Special::read(SpecialKind::Timer, made.as_fd()).expect("a timer");
        let Some(Special::Timer(mut timer)) = read else {
            panic!("{read:?}")
        };
        assert_eq!(timer.flags, libc::TFD_TIMER_ABSTIME);
        assert!((98..=100).contains(&timer.left.0), "{timer:?}");
        // As if it were captured long ago.
        timer.now.0 -= 1000;
        let state = Special::Timer(timer);
        let again = state.make().expect("a timer");
        state.start(&again).expect("a timer");
        let is_ready = sys::is_ready(again.as_fd(), libc::POLLIN).expect("a file");
        assert_eq!(is_ready, late, "clock {clock}");
    }
}

#[test]
fn a_file_of_signals_has_its_mask() {
    let state = Special::Signals(super::Signals {
        mask: 1 << 9 | 1 << 63,
    });
    let made = state.make().expect("a file");
    let read = Special::read(SpecialKind::Signals, made.as_fd()).expect("a file");
    assert_eq!(read, Some(state));
}

#[test]
fn entries_are_read_with_their_flags_and_places() {
    let info = "pos:\t0\nflags:\t02\nmnt_id:\t17\nino:\t1038\n\
                tfd:       17 events: 80000019 data:     7f9200000004  pos:0 ino:40e sdev:10\n\
                tfd:       17 events: 40000000 data:                f  pos:0 ino:91d5 sdev:f\n";
    let entry = |events, data, place| Entry {
        fd: 17,
        events,
        data,
        place,
    };
    let expected = [
        entry(0x8000_0019, 0x7f92_0000_0004, 0),
        entry(0x4000_0000, 15, 1),
    ];
    assert_eq!(entries(info).expect("entries"), expected);
    assert!(entries("tfd: 1 events: x data: 1").is_err());
}

#[test]
fn a_counter_is_made_with_its_value() {
    let mut made = File::from(counter(5, false));
    made.write_all(&2u64.to_ne_bytes()).expect("a counter");
    let mut count = [0; 8];
    made.read_exact(&mut count).expect("a counter");
    assert_eq!(u64::from_ne_bytes(count), 7);
}
