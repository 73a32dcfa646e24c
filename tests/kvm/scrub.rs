//! Snapshots have digests of their memory. Damage is reported by name, and writes of running VMs
//! are not taken for damage.

use std::fs;
use std::time::{Duration, Instant};

use nvvmm_snapshot::{BlockNo, CHUNK_SIZE_BYTES, Pool};
use nvvmm_tests::{Host, Random};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

/// Some frames of a snapshot with their blocks.
fn frames_of(host: &Host, snapshot: &str) -> Vec<(u64, BlockNo)> {
    let pool = Pool::open(host.pool()).unwrap();
    let reader = pool.hold("reader").unwrap();
    let (_, map) = reader.pin(snapshot).unwrap();
    let mut frames = Vec::new();
    for chunk in map.iter_present() {
        let (index, chunk) = chunk.unwrap();
        frames.extend(
            chunk
                .iter_present()
                .map(|(frame, block)| (index.frame_number(frame), block)),
        );
    }
    frames
}

/// A chunk of the pool, mapped. Some media do not support read(2) and write(2).
fn chunk_of_pool(host: &Host, chunk: u64) -> MmapRegion {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(host.pool())
        .unwrap();
    let start = FileOffset::new(file, chunk * CHUNK_SIZE_BYTES);
    MmapRegion::from_file(start, CHUNK_SIZE_BYTES as usize).unwrap()
}

fn flip(host: &Host, block: BlockNo) {
    let chunk = chunk_of_pool(host, block.byte_offset() / CHUNK_SIZE_BYTES);
    let place = (block.byte_offset() % CHUNK_SIZE_BYTES) as usize + 1234;
    let bytes = chunk.as_volatile_slice();
    let byte: u8 = bytes.read_obj(place).unwrap();
    bytes.write_obj(byte ^ 0x20, place).unwrap();
}

#[test]
fn a_flipped_bit_is_named_by_snapshot_and_gfn() {
    let mut random = Random::seeded("scrub");
    let host = Host::new(128);
    let mut vm = host.boot_bare_metal(32, 1);
    vm.ask("fill 16 1");
    let report = host.json(&["snapshot", &vm.name, "first", "--verify"]);
    assert_eq!(
        report["digested_bytes"], report["mapped_bytes"],
        "each has a block of its own: {report}"
    );
    vm.ask("write 0 500 2");
    let report = host.json(&["snapshot", &vm.name, "second", "--verify"]);
    assert_eq!(report["digested_bytes"], report["new_bytes"], "{report}");
    vm.stop();
    let clean = host.json(&["pool", "scrub"]);
    assert_eq!(clean["digested_bytes"], 0, "all have one: {clean}");

    let frames = frames_of(&host, "first");
    let (gfn, block) = frames[random.below(frames.len() as u64) as usize];
    flip(&host, block);
    let scrub = host.run(&["pool", "scrub"]);
    assert_eq!(scrub.code, 6, "{scrub:?}");
    let line = format!("snapshot 'first': frame {gfn:#x} (GFN), in {block}");
    assert!(
        scrub.stdout.contains(&line),
        "{line} is not in {}",
        scrub.stdout
    );
    let in_second = frames_of(&host, "second").contains(&(gfn, block));
    assert_eq!(
        scrub.stdout.contains("'second'"),
        in_second,
        "{}",
        scrub.stdout
    );
    flip(&host, block);
    host.run(&["pool", "scrub"]).ok();
}

#[test]
fn digests_are_made_in_the_background() {
    let host = Host::new(128);
    let mut vm = host.boot_bare_metal(32, 1);
    vm.ask("fill 16 1");
    let frames = vm.snapshot("s")["mapped_bytes"].as_u64().unwrap() / 4096;
    let until = Instant::now() + Duration::from_secs(120);
    while digests(&host) < frames {
        assert!(
            Instant::now() < until,
            "{} of {frames} digests are there",
            digests(&host)
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    let scrub = host.json(&["pool", "scrub"]);
    assert_eq!(
        (scrub["verified_bytes"].as_u64(), &scrub["digested_bytes"]),
        (Some(frames * 4096), &0.into()),
        "{scrub}"
    );
}

/// Number of digests in the pool's first segment (docs/formats/pool.md). In a small pool, all of
/// them are in its first chunk.
fn digests(host: &Host) -> u64 {
    let first = chunk_of_pool(host, 0);
    let bytes = first.as_volatile_slice();
    let word = |at: usize| u32::from_le(bytes.read_obj(at).unwrap());
    let (chunks, table) = (word(104 + 4) as usize, word(104 + 12) as usize * 4096);
    let words =
        (0..chunks).flat_map(|chunk| (0..512).map(move |at| table + chunk * 4096 + 2048 + at * 4));
    words.filter(|at| word(*at) != 0).count() as u64
}

#[test]
fn a_scrub_finds_nothing_wrong_while_vms_churn_and_snapshots_come_and_go() {
    let mut random = Random::seeded("scrub under churn");
    let host = Host::new(512);
    let mut vm = host.boot_bare_metal(48, 2);
    vm.ask("fill 24 5");
    vm.ask(&format!("churn on {} rand check", random.below(1 << 30)));
    vm.snapshot("s0");
    std::thread::scope(|scope| {
        let scrubs = scope.spawn(|| {
            let mut read = 0;
            for _ in 0..12 {
                let scrub = host.json(&["pool", "scrub"]);
                assert_eq!(
                    (&scrub["damaged_bytes"], &scrub["interrupted"]),
                    (&0.into(), &false.into()),
                    "{scrub}"
                );
                read += scrub["verified_bytes"].as_u64().unwrap()
                    + scrub["digested_bytes"].as_u64().unwrap();
            }
            read
        });
        for number in 1..10 {
            vm.snapshot(&format!("s{number}"));
            random.pause(20);
            host.run(&["rm", &format!("s{}", number - 1)]).ok();
        }
        assert!(scrubs.join().unwrap() > 0);
    });
    assert!(vm.ask("check").contains("@ check ok"));
    vm.stop();
    host.run(&["pool", "scrub"]).ok();
    host.assert_pool_clean();
}
