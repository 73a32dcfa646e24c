use super::*;

#[test]
fn steps_back_are_counted_per_clock() {
    let mut sightings = Sightings::default();
    sightings.note([100, 10, 10]);
    sightings.note([40, 11, 10]);
    sightings.note([41, 5, 30]);
    assert_eq!(sightings.backwards, [1, 1, 0]);
    assert_eq!(sightings.back_ns_max, 60);
    assert_eq!(sightings.forward_ns_max, [1, 1, 20]);
    assert_eq!(sightings.last_ns, [41, 5, 30]);
}

#[test]
fn this_machines_clocks_go_forward() {
    let watch = ClockWatch::start().unwrap();
    let first = watch.look();
    while watch.look().readings < first.readings + 50 {}
    let later = watch.look();
    assert_eq!(later.backwards[1], 0);
    assert!(later.last_ns[1] > first.last_ns[1]);
}
