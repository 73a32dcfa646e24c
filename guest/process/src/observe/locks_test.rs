use super::{Lock, LockKind, locks};

#[test]
fn locks_are_read_with_their_ranges_and_leases_are_of_another_kind() {
    let info = "pos:\t0\nflags:\t02100001\n\
                lock:\t1: FLOCK  ADVISORY  WRITE 9549 fe:00:10011067 0 EOF\n\
                lock:\t2: POSIX  ADVISORY  READ  9549 fe:00:10011067 1 5\n\
                lock:\t3: OFDLCK ADVISORY  WRITE -1 fe:00:10011067 7 EOF\n\
                lock:\t4: LEASE  ACTIVE    READ  9549 fe:00:10011067 0 EOF\n";
    let lock = |kind, exclusive, start, len_bytes| Lock {
        kind,
        exclusive,
        start,
        len_bytes,
    };
    assert_eq!(
        locks(info),
        [
            lock(LockKind::Whole, true, 0, 0),
            lock(LockKind::OfProcess, false, 1, 5),
            lock(LockKind::OfOpenFile, true, 7, 0),
            lock(LockKind::Other, true, 0, 0),
        ]
    );
}
