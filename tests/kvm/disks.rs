//! Disks of a confined VM: limits, a new size, images that are no disks.

use std::fs::{self, File};
use std::path::Path;

use nvvmm_tests::{Host, Vm, required};

const DISK_BYTES: u64 = 1 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn boot<'h>(host: &'h Host, disk: &str) -> Vm<'h> {
    let kernel = required("NVVMM_BAREMETAL_GUEST");
    host.boot(&["--kernel", text(&kernel), "--disk", disk], 16, 2)
}

#[test]
fn a_disk_with_limits_is_resized_and_restored_with_them() {
    let host = Host::new(256);
    let disk = host.runtime().join("root.img");
    fs::write(&disk, vec![1; DISK_BYTES as usize]).unwrap();
    let vm = boot(&host, &format!("{},rate=1M,iops=100", text(&disk)));
    let rescan = || host.run(&["disk", "rescan", &vm.name, "--json"]);
    assert_eq!(rescan().ok().stdout.trim(), "[]");
    let file = File::options().write(true).open(&disk).unwrap();
    file.set_len(2 * DISK_BYTES).unwrap();
    let resized: serde_json::Value = serde_json::from_str(&rescan().ok().stdout).unwrap();
    assert_eq!(resized[0]["path"], text(&disk));
    assert_eq!(resized[0]["size_bytes"], 2 * DISK_BYTES);
    file.set_len(1000).unwrap();
    rescan().refused(2, "has 1000 B");
    file.set_len(2 * DISK_BYTES).unwrap();
    assert_eq!(rescan().ok().stdout.trim(), "[]");

    host.run(&["snapshot", &vm.name, "s", "--stop"]).ok();
    vm.wait_gone();
    let vm = host.restore("s", &[]);
    let listed = &vm.status()["disks"][0];
    assert_eq!(listed["rate_bytes"], 1 << 20, "{listed}");
    assert_eq!(listed["rate_request_count"], 100, "{listed}");
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn a_qcow2_image_is_no_disk_unless_the_user_says_so() {
    let host = Host::new(256);
    let disk = host.runtime().join("root.img");
    let mut bytes = vec![0; DISK_BYTES as usize];
    bytes[..4].copy_from_slice(b"QFI\xfb");
    fs::write(&disk, bytes).unwrap();
    let kernel = required("NVVMM_BAREMETAL_GUEST");
    let run = [
        "run",
        "--kernel",
        text(&kernel),
        "--detach",
        "--disk",
        text(&disk),
    ];
    host.run(&run).refused(2, "is a qcow2 image");
    let vm = boot(&host, &format!("{},raw", text(&disk)));
    vm.stop();
}
