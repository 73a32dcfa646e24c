//! Operations are counted, and no more are done than necessary. These numbers do not depend on the
//! speed of the host.

use std::time::{Duration, Instant};

use nvvmm_tests::{Engine, Host, Vm};
use serde_json::Value;

const BLOCK: u64 = 4096;
/// Memory of the guests.
const MEMORY_MIB: u64 = 64;
/// Part of the memory that the guest fills.
const FILLED_MIB: u64 = 40;
/// Distance in frames between two written frames: two chunks, so that no two writes are neighbours.
const STRIDE: u64 = 1024;
/// Sparse writes of a test.
const WRITES: u64 = 8;

/// Longest wait for a thread to come from one statement to the next.
const PATIENCE: Duration = Duration::from_secs(60);

struct Counted(Value);

impl Counted {
    /// Reads the counters. A woken vCPU may run before the fault thread has counted how long the
    /// fault took, so this waits until the thread has.
    fn of(vm: &Vm<'_>) -> Self {
        let until = Instant::now() + PATIENCE;
        loop {
            let counted = Self(vm.stats());
            if counted.times("/fault_times") == counted.number("/kernel_calls/wake_count") {
                return counted;
            }
            assert!(
                Instant::now() < until,
                "not every held access was woken and timed once: {}",
                counted.0
            );
        }
    }

    fn number(&self, path: &str) -> u64 {
        let value = self.0.pointer(path).and_then(Value::as_u64);
        value.unwrap_or_else(|| panic!("no {path} in {}", self.0))
    }

    /// Increase of `path` since `before`.
    fn grown(&self, before: &Self, path: &str) -> u64 {
        self.number(path) - before.number(path)
    }

    /// Number of entries in a histogram.
    fn times(&self, path: &str) -> u64 {
        let times = self.0.pointer(path);
        let times = times.unwrap_or_else(|| panic!("no {path} in {}", self.0));
        let buckets = times["buckets"].as_array().expect("buckets");
        let count = buckets.iter().map(|bucket| number(bucket, "count")).sum();
        assert_eq!(count, number(times, "count"), "{times}");
        count
    }
}

/// Frames that one write fault copies.
fn cluster_frames(host: &Host) -> u64 {
    if host.medium().maps_whole_chunks() {
        512
    } else {
        16
    }
}

fn number(report: &Value, key: &str) -> u64 {
    report[key]
        .as_u64()
        .unwrap_or_else(|| panic!("no {key} in {report}"))
}

/// A guest with filled memory and a snapshot of it. The guest has written since, so that its own
/// program's frames are copied.
fn snapshotted(host: &Host) -> Vm<'_> {
    let mut vm = host.boot_bare_metal(MEMORY_MIB, 1);
    vm.ask(&format!("fill {FILLED_MIB} 1"));
    vm.snapshot("s");
    vm.ask("write 0 1");
    vm
}

#[test]
fn sparse_writes_fault_once_for_each_cluster_and_copy_no_more_than_it() {
    let host = Host::new(512);
    let mut vm = snapshotted(&host);
    let before = Counted::of(&vm);
    vm.ask(&format!("write {STRIDE} {WRITES} {STRIDE}"));
    let after = Counted::of(&vm);
    let grown = |path| after.grown(&before, path);
    if host.engine() == Engine::Private {
        // The host's kernel copies.
        assert_eq!(grown("/ram/write_fault_count"), 0);
        assert_eq!(grown("/ram/copied_bytes"), 0);
        assert_eq!(grown("/kernel_calls/mmap_count"), 0);
        return;
    }
    assert_eq!(grown("/ram/write_fault_count"), WRITES, "{}", after.0);
    assert_eq!(
        grown("/ram/copied_bytes"),
        WRITES * cluster_frames(&host) * 4096
    );
    // Each cluster is one piece in the pool: one mapping, registered for arming.
    assert_eq!(grown("/kernel_calls/mmap_count"), WRITES);
    assert_eq!(grown("/kernel_calls/register_count"), WRITES);
    // Each one splits the mapping that was there into three at most.
    assert!(grown("/ram/mapping_count") <= 2 * WRITES, "{}", after.0);
    assert!(after.number("/ram/mapping_count") < after.number("/ram/mapping_limit_count"));
    // An access may be reported more than once, but never less.
    let answered = after.times("/fault_times") - before.times("/fault_times");
    assert!(answered >= WRITES, "{}", after.0);

    // Frames that the VM owns are written without further faults.
    let before = after;
    vm.ask(&format!("write {STRIDE} {WRITES} {STRIDE}"));
    let after = Counted::of(&vm);
    for path in [
        "/ram/write_fault_count",
        "/ram/copied_bytes",
        "/kernel_calls/mmap_count",
        "/kernel_calls/protect_count",
    ] {
        assert_eq!(after.grown(&before, path), 0, "{path} in {}", after.0);
    }
}

#[test]
fn a_frame_that_is_written_alone_again_is_copied_alone() {
    let host = Host::new(512);
    let mut vm = snapshotted(&host);
    if host.engine() == Engine::Private {
        return;
    }
    let without =
        std::env::var("NVVMM_TEST_WITHOUT").is_ok_and(|names| names.contains("lone-frames"));
    let again = if without || host.medium().maps_whole_chunks() {
        cluster_frames(&host)
    } else {
        1
    };
    // The first epoch after the fill. Frames that are written in this epoch and in the next are
    // hot.
    for (snapshot, copied) in [("first", cluster_frames(&host)), ("again", again)] {
        vm.snapshot(snapshot);
        vm.ask("write 0 1");
        let before = Counted::of(&vm);
        vm.ask(&format!("write {STRIDE} 1"));
        let after = Counted::of(&vm);
        assert_eq!(
            after.grown(&before, "/ram/write_fault_count"),
            1,
            "{}",
            after.0
        );
        assert_eq!(
            after.grown(&before, "/ram/copied_bytes"),
            copied * 4096,
            "{}",
            after.0
        );
    }
    // The frame's neighbour is not in the copy.
    let before = Counted::of(&vm);
    vm.ask(&format!("write {} 1", STRIDE + 1));
    assert_eq!(
        Counted::of(&vm).grown(&before, "/ram/write_fault_count"),
        u64::from(again == 1)
    );
    assert!(vm.ask("check").contains("check ok"));
}

#[test]
fn a_snapshot_arms_what_was_written_and_a_second_one_nothing() {
    let host = Host::new(512);
    let mut vm = snapshotted(&host);
    vm.ask(&format!("write {STRIDE} {WRITES} {STRIDE}"));
    vm.pause();
    let before = Counted::of(&vm);
    let first = vm.snapshot("first");
    let between = Counted::of(&vm);
    let second = vm.snapshot("second");
    let after = Counted::of(&vm);

    let (ioctls, new) = (
        number(&first, "ioctl_paused_count"),
        number(&first, "new_bytes") / 4096,
    );
    if host.engine() == Engine::Redirect {
        // One call for each cluster, and one for each cluster of the guest's own program and of its
        // first write.
        let own = own_clusters(&mut vm, &host) + 1;
        assert!((WRITES..=WRITES + own).contains(&ioctls), "{first}");
        assert!(new <= (WRITES + own) * cluster_frames(&host), "{first}");
        assert_eq!(
            between.grown(&before, "/kernel_calls/protect_count"),
            ioctls
        );
        assert_eq!(
            between.grown(&before, "/snapshot_totals/ioctl_paused_count"),
            ioctls
        );
    } else {
        assert_eq!(
            (ioctls, number(&first, "mmap_paused_count")),
            (0, 0),
            "{first}"
        );
    }
    assert!(new > WRITES, "{first}");
    for key in [
        "ioctl_paused_count",
        "mmap_paused_count",
        "new_bytes",
        "copied_bytes",
    ] {
        assert_eq!(number(&second, key), 0, "{key} in {second}");
    }
    for path in [
        "/kernel_calls/protect_count",
        "/kernel_calls/register_count",
        "/kernel_calls/mmap_count",
        "/kernel_calls/fill_count",
    ] {
        assert_eq!(after.grown(&between, path), 0, "{path} in {}", after.0);
    }
    assert_eq!(after.grown(&before, "/snapshot_totals/taken_count"), 2);
    assert_eq!(after.number("/snapshot_totals/failed_count"), 0);
    // The first of the three snapshots paused the guest. The other two found it paused.
    assert_eq!(after.times("/snapshot_totals/pause_times"), 1);

    host.run(&["snapshot", &vm.name, "first"])
        .refused(4, "first");
    let refused = Counted::of(&vm);
    assert_eq!(refused.grown(&after, "/snapshot_totals/failed_count"), 1);
    assert_eq!(refused.grown(&after, "/snapshot_totals/taken_count"), 0);
}

#[test]
fn neighbours_are_armed_in_one_call() {
    let host = Host::new(512);
    let mut vm = host.boot_bare_metal(MEMORY_MIB, 1);
    // The guest's writes after this snapshot are not armed before the next one, as the guest stands
    // still.
    vm.snapshot("base");
    vm.ask(&format!("fill {FILLED_MIB} 1"));
    vm.pause();
    let report = vm.snapshot("filled");
    let (ioctls, new) = (
        number(&report, "ioctl_paused_count"),
        number(&report, "new_bytes") / 4096,
    );
    assert!(new >= FILLED_MIB * 256, "{report}");
    if host.engine() == Engine::Redirect {
        // The guest's own program and its memory are two ranges. Where calls cannot cross mappings,
        // huge pages take one call each, and failing calls find that out.
        let chunks = MEMORY_MIB / 2;
        let most = if calls_cross_mappings() {
            4
        } else {
            2 * chunks
        };
        assert!(ioctls <= most, "{report}");
    }
}

/// True if UFFDIO_WRITEPROTECT crosses mappings: since Linux 6.3.
fn calls_cross_mappings() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|number| number.parse::<u32>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (6, 3),
        _ => false,
    }
}

/// Clusters of the guest's own program. It begins at 1 MiB and ends where the memory under test
/// begins.
fn own_clusters(vm: &mut Vm<'_>, host: &Host) -> u64 {
    vm.resume();
    let stat = vm.ask("stat");
    vm.pause();
    let first = stat
        .split("first=")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let first: u64 = first
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("{stat}"));
    let cluster = cluster_frames(host);
    first.div_ceil(cluster) - 256 / cluster
}

#[test]
fn a_commit_writes_its_state_and_the_way_to_what_changed() {
    let host = Host::new(512);
    let mut vm = snapshotted(&host);
    vm.ask(&format!("write {STRIDE} {WRITES} {STRIDE}"));
    vm.pause();
    let before = Counted::of(&vm);
    let changed = vm.snapshot("changed");
    let between = Counted::of(&vm);
    let same = vm.snapshot("same");
    let after = Counted::of(&vm);

    // The inode, a leaf of the catalog, its root, and a superblock.
    let always = 4 * BLOCK;
    let state = number(&same, "state_bytes");
    assert_eq!(
        after.grown(&between, "/pool_commits/metadata_bytes"),
        always + state,
        "{same}"
    );
    assert_eq!(after.grown(&between, "/pool_commits/commit_count"), 1);
    // A leaf for each chunk that was written in part. One inner node is above all of this memory.
    // The guest's program and its first write are in two chunks at most.
    let metadata = between.grown(&before, "/pool_commits/metadata_bytes");
    let written = metadata - always - number(&changed, "state_bytes");
    let at_most = (WRITES + 2 + 1) * BLOCK;
    assert!(
        written.is_multiple_of(BLOCK) && written <= at_most,
        "{written} bytes, {changed}"
    );
    let least = if host.medium().maps_whole_chunks() {
        1
    } else {
        WRITES + 1
    };
    assert!(written >= least * BLOCK, "{written} bytes, {changed}");
    assert_eq!(between.grown(&before, "/pool_commits/commit_count"), 1);

    host.run(&["rm", "same"]).ok();
    assert_eq!(
        Counted::of(&vm).grown(&after, "/pool_commits/commit_count"),
        0,
        "another process's commits"
    );
}

#[test]
fn a_restored_guest_faults_at_most_once_for_each_chunk_that_it_touches() {
    let host = Host::new(512);
    snapshotted(&host).stop();
    let chunks = MEMORY_MIB / 2;
    let mut copy = host.restore("s", &[]);
    copy.ask(&format!("touch {FILLED_MIB} read"));
    let read = Counted::of(&copy);
    if host.medium().maps_whole_chunks() {
        // All of it was mapped before the guest ran.
        assert_eq!(read.number("/ram/chunk_fault_count"), 0, "{}", read.0);
    } else {
        // Some chunks are mapped together with the one before them.
        let touched = read.number("/ram/chunk_fault_count");
        assert!((1..=chunks).contains(&touched), "{}", read.0);
    }
    copy.ask(&format!("touch {FILLED_MIB} read"));
    let again = Counted::of(&copy);
    for path in [
        "/ram/chunk_fault_count",
        "/kernel_calls/mmap_count",
        "/kernel_calls/register_count",
        "/kernel_calls/protect_count",
    ] {
        assert_eq!(again.grown(&read, path), 0, "{path} in {}", again.0);
    }
    assert_eq!(again.number("/snapshot_totals/taken_count"), 0);
    assert_eq!(again.times("/snapshot_totals/pause_times"), 0);
}

#[test]
fn mappings_stay_within_what_is_counted_and_what_is_allowed() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: only root can read the mappings of a confined process");
        return;
    }
    let host = Host::new(512);
    let mut vm = snapshotted(&host);
    for epoch in 0..6 {
        // Each epoch writes other frames, so that chunks are copied to again and again.
        vm.ask(&format!("write {} {} 411", epoch * 37, FILLED_MIB / 2));
        vm.snapshot(&format!("e{epoch}"));
        let counted = Counted::of(&vm);
        let (counted, limit) = (
            counted.number("/ram/mapping_count"),
            counted.number("/ram/mapping_limit_count"),
        );
        assert!(
            counted <= limit,
            "{counted} mappings in epoch {epoch}, {limit} allowed"
        );
        let real = mappings_of_pool(&host, &vm);
        assert!(
            real <= counted,
            "{real} mappings in epoch {epoch}, {counted} counted"
        );
    }
}

/// Mappings of the pool's blocks in the VM process, without the one through which the pool is read.
/// That one is the only mapping that begins at the pool's first byte: guests never map the
/// superblocks.
fn mappings_of_pool(host: &Host, vm: &Vm<'_>) -> u64 {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", vm.pid)).unwrap();
    let of_pool = maps.lines().filter(|line| line.ends_with(host.pool_str()));
    let of_guest = of_pool.filter(|line| line.split_ascii_whitespace().nth(2) != Some("00000000"));
    of_guest.count() as u64
}
