//! Linux's driver of virtio-block: its view of a disk, discards, several queues, a new size.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nvvmm_tests::agent::{output, wait_for};
use nvvmm_tests::witness::boot_with_options;
use nvvmm_tests::{Host, Vm};

const DISK_BYTES: usize = 16 << 20;

fn used_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

fn size_of(host: &Host, vm: &Vm<'_>) -> u64 {
    let sectors = output(host, vm, "cat /sys/block/vda/size");
    sectors.trim().parse::<u64>().unwrap() * 512
}

#[test]
fn linux_sees_the_disks_name_queues_and_blocks_and_follows_its_size() {
    let host = Host::new(512);
    let disk = host.runtime().join("disk.img");
    std::fs::write(&disk, vec![0x5a; DISK_BYTES]).unwrap();
    let vm = boot_with_options(
        &host,
        160,
        2,
        &["--disk", &format!("{},iops=100000", disk.to_str().unwrap())],
    );
    for (file, expected) in [
        ("serial", "disk0"),
        ("queue/logical_block_size", "512"),
        ("queue/physical_block_size", "4096"),
        ("queue/discard_granularity", "4096"),
        ("queue/discard_max_bytes", "67108864"),
        ("queue/write_zeroes_max_bytes", "67108864"),
        ("queue/write_cache", "write back"),
    ] {
        let found = output(&host, &vm, &format!("cat /sys/block/vda/{file}"));
        assert_eq!(found.trim(), expected, "{file}");
    }
    let queues = output(&host, &vm, "ls /sys/block/vda/mq | wc -l");
    assert_eq!(queues.trim(), "2");

    let before = used_bytes(&disk);
    output(&host, &vm, "blkdiscard -o 1048576 -l 8388608 /dev/vda");
    let after = used_bytes(&disk);
    assert!(before - after >= 8 << 20, "{before} {after}");
    let first = output(
        &host,
        &vm,
        "head -c 1048576 /dev/vda | tail -c 1 | od -An -tx1",
    );
    assert_eq!(first.trim(), "5a");

    let file = std::fs::File::options().write(true).open(&disk).unwrap();
    file.set_len(2 * DISK_BYTES as u64).unwrap();
    assert_eq!(size_of(&host, &vm), DISK_BYTES as u64);
    let told = host.run(&["disk", "rescan", &vm.name]).ok();
    assert!(told.stdout.contains("32.0 MiB"), "{}", told.stdout);
    let sectors = 2 * DISK_BYTES / 512;
    wait_for(
        &host,
        &vm,
        &format!("test $(cat /sys/block/vda/size) = {sectors}"),
    );
    output(
        &host,
        &vm,
        "dd if=/dev/zero of=/dev/vda bs=1M seek=31 count=1 conv=fsync",
    );

    vm.pause();
    vm.snapshot("grown");
    let copy = host.runtime().join("copy.img");
    std::fs::copy(&disk, &copy).unwrap();
    let restored = host.restore("grown", &["--disk", copy.to_str().unwrap()]);
    let serial = wait_for(&host, &restored, "cat /sys/block/vda/serial");
    assert_eq!(serial.trim(), "disk0");
    assert_eq!(size_of(&host, &restored), 2 * DISK_BYTES as u64);
    restored.stop();
    vm.stop();
}
