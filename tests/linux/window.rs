//! Processes of Linux guests that are restarted with `--window`. Their memory is a window: the
//! guest sees the image's blocks as a file system.

use nvvmm_tests::agent::{output, sh, wait_for};
use nvvmm_tests::{Host, Vm, witness::boot_without_witness};

use crate::secret::{assert_whole, install, start};

/// Restarts an image in a window. The guest sees a file system of the image's blocks, without a
/// page cache.
fn restart_in_window(host: &Host, vm: &Vm<'_>, image: &str, pid: &str) {
    let report = host.json(&["restore", image, "--into", &vm.name, "--window"]);
    assert_eq!(report["adopted_bytes"], 0, "{report}");
    let (shown, copied) = (&report["shown_bytes"], &report["copied_bytes"]);
    assert!(shown.as_u64() > copied.as_u64(), "{report}");
    output(
        host,
        vm,
        &format!("grep -q /run/nvvmm/windows/ /proc/{pid}/maps"),
    );
    output(
        host,
        vm,
        "grep /run/nvvmm/windows/ /proc/mounts | grep -w dax=always",
    );
}

/// Waits until the window is released, which happens after the process is gone. The VM can be
/// snapshotted then.
fn snapshot_when_let_go(host: &Host, vm: &Vm<'_>, name: &str) {
    wait_for(host, vm, "[ -z \"$(ls /run/nvvmm/windows)\" ]");
    host.run(&["snapshot", &vm.name, name]).ok();
}

#[test]
fn a_process_goes_on_with_memory_that_is_shown_in_a_window() {
    let host = Host::new(1024);
    let vm = boot_without_witness(&host, 160);
    install(&host, &vm);
    let pid = start(&host, &vm);
    host.run(&["snapshot", &vm.name, "job", "--process", &pid, "--kill"])
        .ok();
    for driver in ["erofs", "virtio_pmem"] {
        output(&host, &vm, &format!("rmmod {driver}"));
        host.run(&["restore", "job", "--into", &vm.name, "--window"])
            .refused(4, driver);
        output(
            &host,
            &vm,
            &format!("insmod $(find /modules -name {driver}.ko)"),
        );
    }
    for (image, next) in [("job", "second"), ("second", "third")] {
        restart_in_window(&host, &vm, image, &pid);
        host.run(&["restore", image, "--into", &vm.name, "--window"])
            .refused(4, &pid);
        assert_eq!(output(&host, &vm, "ls /run/nvvmm/windows | wc -l"), "1\n");
        host.run(&["snapshot", &vm.name, "whole"])
            .refused(4, "--window");
        // A second capture shares the unwritten memory with the image before.
        let report = host.json(&["snapshot", &vm.name, next, "--process", &pid]);
        let number = |what: &str| report[what].as_u64().unwrap();
        assert_eq!(number("copied_bytes"), 0, "{report}");
        assert!(
            number("given_bytes") < number("mapped_bytes") / 2,
            "{report}"
        );
        assert_whole(&host, &vm);
        snapshot_when_let_go(&host, &vm, &format!("after-{image}"));
    }
    for image in ["second", "third"] {
        host.run(&["restore", image, "--into", &vm.name]).ok();
        assert_whole(&host, &vm);
    }

    // Restarts in another VM, after the VM that captured the image is gone. A write of the guest's
    // root to a window harms that guest only.
    let other = host.restore("after-second", &[]);
    restart_in_window(&host, &other, "third", &pid);
    vm.stop();
    output(
        &host,
        &other,
        &format!("dd if=/dev/zero of=$(ls /dev/pmem*) bs=4096 count=64 conv=fsync; kill -9 {pid}"),
    );
    snapshot_when_let_go(&host, &other, "after-kill");
    restart_in_window(&host, &other, "third", &pid);
    assert_whole(&host, &other);
    snapshot_when_let_go(&host, &other, "after-third");

    // The image stays in the pool as long as a window uses it.
    restart_in_window(&host, &other, "third", &pid);
    let snapshots = host.json(&["snapshots"]);
    let names = snapshots
        .as_array()
        .unwrap()
        .iter()
        .map(|snapshot| snapshot["snapshot"].as_str().unwrap());
    host.run(&["rm"].into_iter().chain(names).collect::<Vec<_>>())
        .ok();
    assert_whole(&host, &other);
    assert_eq!(sh(&host, &other, &format!("test -e /proc/{pid}")).code, 1);
    other.stop();
    host.assert_pool_clean();
}

/// A process whose pages are all copied, as it has small runs of them only, needs no window.
#[test]
fn a_window_that_shows_nothing_does_not_stay() {
    let host = Host::new(768);
    let vm = boot_without_witness(&host, 160);
    let started = output(
        &host,
        &vm,
        "sleep 100000 </dev/null >/dev/null 2>&1 & echo $!",
    );
    let pid = started.trim();
    host.run(&["snapshot", &vm.name, "small", "--process", pid, "--kill"])
        .ok();
    let report = host.json(&["restore", "small", "--into", &vm.name, "--window"]);
    assert_eq!(report["shown_bytes"], 0, "{report}");
    assert_eq!(output(&host, &vm, "ls /run/nvvmm/windows | wc -l"), "0\n");
    host.run(&["snapshot", &vm.name, "whole"]).ok();
    vm.stop();
    host.assert_pool_clean();
}
