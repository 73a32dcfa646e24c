//! Bad files are refused with a message that names the fault.

use std::{fs, os::unix::fs::FileExt};

use nvvmm_tests::{Host, Random, repetitions};

fn run_with_kernel(host: &Host, content: &[u8]) -> nvvmm_tests::Outcome {
    let kernel = host.runtime().join("kernel-image");
    fs::write(&kernel, content).unwrap();
    host.run(&[
        "run",
        "--kernel",
        kernel.to_str().unwrap(),
        "--memory",
        "64M",
        "--name",
        "k",
        "--detach",
    ])
}

#[test]
fn a_kernel_that_is_no_kernel() {
    let host = Host::new(256);
    run_with_kernel(&host, b"#!/bin/sh\necho I am a text file, not a kernel\n").refused(2, "text");
    run_with_kernel(&host, b"").refused(2, "empty");
    let mut other_machine = fs::read(nvvmm_tests::required("NVVMM_BAREMETAL_GUEST")).unwrap();
    other_machine[18] = 183;
    run_with_kernel(&host, &other_machine).refused(2, "x86");
    let good = fs::read(nvvmm_tests::required("NVVMM_BAREMETAL_GUEST")).unwrap();
    let cut = run_with_kernel(&host, &good[..good.len() / 3]);
    assert_ne!(cut.code, 0, "a truncated kernel is refused");
    assert!(!cut.stderr.contains("panicked"), "{}", cut.stderr);
    host.run(&["run", "--kernel", "/nonexistent", "--detach"])
        .refused(3, "/nonexistent");
    // A file of the wrong kind, and an option that the guest does not take, are wrong usage alike.
    host.run(&["run", "--kernel", "/", "--detach"])
        .refused(2, "directory");
    let guest = nvvmm_tests::required("NVVMM_BAREMETAL_GUEST");
    let guest = guest.to_str().unwrap();
    host.run(&["run", "--kernel", guest, "--initramfs", guest, "--detach"])
        .refused(2, "flat guest");
    host.assert_pool_clean();
}

/// True if write(2) can damage the pool. The result of damage does not depend on the medium.
fn takes_damage(host: &Host) -> bool {
    let takes = host.medium().takes_writes();
    if !takes {
        println!("SKIPPED: {} takes no write(2)", host.medium().name());
    }
    takes
}

#[test]
fn a_pool_that_is_none() {
    let host = Host::without_pool();
    if !takes_damage(&host) {
        return;
    }
    host.run(&["pool", "status"]).refused(3, host.pool_str());
    fs::write(host.pool(), vec![b'x'; 8 << 20]).unwrap();
    host.run(&["snapshots"]).refused(6, "pool");
    fs::write(host.pool(), b"short").unwrap();
    host.run(&["pool", "check"]).refused(6, "pool");
}

#[test]
fn a_pool_of_the_future() {
    let host = Host::new(16);
    if !takes_damage(&host) {
        return;
    }
    // Magic, version and checksum stay in these places in every format version
    // (docs/formats/pool.md). The checksum covers the slot's block, with itself taken as 0.
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(host.pool())
        .unwrap();
    for slot in 0..2u64 {
        let mut block = [0; 4096];
        file.read_exact_at(&mut block, slot * 4096).unwrap();
        block[8..12].copy_from_slice(&99u32.to_le_bytes());
        block[12..16].fill(0);
        let checksum = crc32fast::hash(&block);
        block[12..16].copy_from_slice(&checksum.to_le_bytes());
        file.write_all_at(&block, slot * 4096).unwrap();
    }
    let outcome = host.run(&["pool", "status"]).refused(6, "99");
    assert!(
        outcome.stderr.contains("this program knows version"),
        "both versions are named: {}",
        outcome.stderr
    );
}

#[test]
fn a_truncated_pool() {
    let host = Host::new(64);
    if !takes_damage(&host) {
        return;
    }
    let mut vm = host.boot_bare_metal(32, 1);
    vm.ask("fill 8 1");
    vm.snapshot("s");
    vm.stop();
    fs::File::options()
        .write(true)
        .open(host.pool())
        .unwrap()
        .set_len(5 << 20)
        .unwrap();
    host.run(&["restore", "s", "--detach"]).refused(6, "pool");
}

#[test]
fn a_pool_with_flipped_bits_never_panics_and_never_restores_wrong_memory() {
    let mut random = Random::seeded("flipped bits");
    let host = Host::new(64);
    if !takes_damage(&host) {
        return;
    }
    let mut vm = host.boot_bare_metal(32, 1);
    vm.ask("fill 8 1");
    let digest = vm.ask("digest all");
    vm.snapshot("s");
    vm.stop();
    let good = fs::read(host.pool()).unwrap();
    // Only metadata is damaged, and not the snapshot's own frames. Metadata is in blocks that begin
    // with a known magic.
    let metadata: Vec<usize> = (0..good.len() / 4096)
        .filter(|block| is_metadata(&good, *block))
        .collect();
    assert!(
        metadata.len() >= 4,
        "superblocks, catalog, map and inode: {metadata:?}"
    );
    let mut refused = 0;
    // Some flips change nothing, such as one in the older superblock or in unused bytes.
    for _ in 0..repetitions(60).max(12) {
        let block = metadata[random.below(metadata.len() as u64) as usize];
        let at = block * 4096 + random.below(4096) as usize;
        let mut bad = good.clone();
        bad[at] ^= 1 << random.below(8);
        fs::write(host.pool(), &bad).unwrap();
        println!(
            "flips a bit of byte {at}, in block {block}: {:?}",
            &good[block * 4096..][..8]
        );
        let outcome = host.run(&["restore", "s", "--name", "bad", "--detach"]);
        assert!(
            !outcome.stderr.contains("panicked"),
            "block {block}, byte {at}: {}",
            outcome.stderr
        );
        if outcome.code == 0 {
            let mut vm = nvvmm_tests::Vm::attach(&host, "bad".into());
            assert_eq!(vm.ask("digest all"), digest, "block {block}, byte {at}");
            vm.stop();
        } else {
            assert!(!outcome.stderr.is_empty());
            refused += 1;
        }
    }
    assert!(refused > 0, "no flipped bit was noticed");
}

/// True if a block is a superblock, a map node, an inode or saved state. Its magic number tells
/// (docs/formats/pool.md).
fn is_metadata(pool: &[u8], block: usize) -> bool {
    let magics: [&[u8]; 4] = [b"NVVMPOOL", b"NVND", b"NVIN", b"NVVMSTAT"];
    magics
        .iter()
        .any(|magic| pool[block * 4096..].starts_with(magic))
}
