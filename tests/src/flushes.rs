//! A guest that writes to a disk, flushes, and reports each number that it was told to be flushed.

use std::fs::File;
use std::process::{Child, Stdio};

use nvvmm_snapshot::Pool;

use crate::{Host, Vm};

/// Size of the disk.
pub const DISK_BYTES: u64 = PLACES * PLACE_BYTES;

/// Places of the disk that are written in turn.
const PLACES: u64 = 64;
const PLACE_BYTES: u64 = 4096;
/// Digits of a number on the disk.
const DIGITS: usize = 16;

/// Starts writing numbers from `first` on to the guest's first disk. Each goes to its place, is
/// flushed, and then becomes a line of `log`.
pub fn start(host: &Host, vm: &Vm<'_>, first: u64, log: File) -> Child {
    let script = format!(
        "n={first}
        while :; do
            printf %0{DIGITS}d $n |
                dd of=/dev/vda bs={DIGITS} seek=$((n % {PLACES} * {PLACE_BYTES} / {DIGITS})) \
                    conv=notrunc,fsync 2>/dev/null || exit 1
            echo $n
            n=$((n + 1))
        done"
    );
    host.command(&["exec", &vm.name, "--", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .spawn()
        .expect("nvvmm starts")
}

/// The last number that a log has as a whole line.
pub fn last_reported(log: &str) -> Option<u64> {
    let whole = log.rsplit_once('\n')?.0;
    whole.lines().last()?.parse().ok()
}

/// Checks that all numbers from `first` to `last` are on the disk, or later ones in their places.
///
/// # Panics
/// One of them is lost.
pub fn assert_there(pool: &Pool, disk: &str, first: u64, last: u64) {
    let copy = format!("{disk}.checked");
    pool.copy_disk(disk, &copy).expect("nobody writes to it");
    for number in first.max((last + 1).saturating_sub(PLACES))..=last {
        let found = number_at(&open(pool, &copy), number % PLACES);
        assert!(
            found >= number && found % PLACES == number % PLACES,
            "{disk}: {last} was told to be flushed; in the place of {number} there is {found}"
        );
    }
    pool.remove_disk(&copy).expect("it is there");
}

/// All bytes of a disk.
fn open(pool: &Pool, disk: &str) -> Vec<u8> {
    let pool = Pool::open(pool.path()).expect("the pool opens");
    let holder = pool.hold("reader").expect("a holder");
    let reader = holder.attach_disk_read_only(disk).expect("it is there");
    let mut bytes = vec![0; reader.size_bytes() as usize];
    reader.read(0, &mut bytes).expect("it can be read");
    bytes
}

fn number_at(bytes: &[u8], place: u64) -> u64 {
    let at = (place * PLACE_BYTES) as usize;
    let text = String::from_utf8_lossy(&bytes[at..at + DIGITS]);
    text.parse().unwrap_or(0)
}
