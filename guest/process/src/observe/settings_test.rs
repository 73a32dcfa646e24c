use super::{NamedTimer, parse_timers};

#[test]
fn timers_are_read_with_whom_they_tell() {
    let text = "ID: 0\nsignal: 14/00007ffd3c1d1c08\nnotify: signal/pid.2634\nClockID: 0\n\
                ID: 3\nsignal: 34/0000000000000003\nnotify: signal/tid.301\nClockID: -14\n\
                ID: 4\nsignal: 0/0000000000000000\nnotify: none/pid.2634\nClockID: 1\n";
    let timer = |id, clock, notify, signal, value, thread| NamedTimer {
        id,
        clock,
        notify,
        signal,
        value,
        thread,
    };
    assert_eq!(
        parse_timers(text).expect("timers"),
        [
            timer(0, 0, libc::SIGEV_SIGNAL, 14, 0x7ffd_3c1d_1c08, 0),
            timer(3, -14, libc::SIGEV_THREAD_ID, 34, 3, 301),
            timer(4, 1, libc::SIGEV_NONE, 0, 0, 0),
        ]
    );
    assert!(parse_timers("").expect("none").is_empty());
    assert!(parse_timers("ID: 0\nsignal: 14\n").is_none());
}
