use std::sync::Arc;

use super::*;

#[test]
fn reboots_are_counted_and_told() {
    let told = Arc::new(Mutex::new(Vec::<u64>::new()));
    let listener = {
        let told = Arc::clone(&told);
        Arc::new(move |count: u64| told.lock().unwrap().push(count)) as RebootListener
    };
    let reboots = Reboots::of(&VmOptions {
        hear_reboot: Some(listener),
        ..VmOptions::named("web")
    });
    assert!(!reboots.end_the_vm());
    for _ in 0..3 {
        reboots.add(Instant::now());
    }
    assert_eq!(reboots.count(), 3);
    assert_eq!(*told.lock().unwrap(), [1, 2, 3]);
}

#[test]
fn a_guest_that_reboots_again_and_again_is_told_until_it_stays_up() {
    let reboots = Reboots::of(&VmOptions::named("web"));
    let begun = Instant::now();
    let at = |seconds| begun + Duration::from_secs(seconds);
    reboots.add(at(0));
    reboots.add(at(100));
    assert_eq!(reboots.notice(at(101)), None, "twice is no loop");
    reboots.add(at(200));
    let notice = reboots.notice(at(201)).unwrap();
    assert!(notice.contains("again and again: 3 times"), "{notice}");
    assert_eq!(reboots.notice(at(300)), None, "it stays up");
    reboots.add(at(350));
    assert!(reboots.notice(at(351)).is_some());
    let rare = Reboots::of(&VmOptions::named("db"));
    for hour in 0..10 {
        rare.add(at(hour * 3600));
    }
    assert_eq!(rare.notice(at(9 * 3600)), None);
    assert_eq!(rare.count(), 10);
}
