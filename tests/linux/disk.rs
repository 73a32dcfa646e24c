//! A file system on virtio-block, with snapshots together with a copy of its disk.

use std::{path::Path, process::Command};

use nvvmm_tests::{
    Host,
    witness::{ask, boot, number},
};

fn make_ext4(path: &Path) {
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(path)
        .arg("24M")
        .output()
        .expect("mkfs.ext4 runs");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
}

fn assert_file_system_clean(path: &Path) {
    let checked = Command::new("e2fsck")
        .args(["-f", "-n"])
        .arg(path)
        .output()
        .expect("e2fsck runs");
    assert!(
        checked.status.success(),
        "{}",
        String::from_utf8_lossy(&checked.stdout)
    );
}

#[test]
fn a_disk_copied_at_the_snapshots_instant_is_clean_after_restore() {
    let host = Host::new(768);
    let disk = host.runtime().join("disk.img");
    let copy = host.runtime().join("copy.img");
    make_ext4(&disk);
    let mut original = boot(&host, 192, 1, &["--disk", disk.to_str().unwrap()]);
    ask(&mut original, "disk mount");
    ask(&mut original, "disk write 6 64 3");
    ask(&mut original, "disk churn on");
    // While the VM is paused, no request is in flight: memory and disk are of one instant.
    original.pause();
    original.snapshot("with-disk");
    std::fs::copy(&disk, &copy).unwrap();
    let fresh = host.runtime().join("fresh.img");
    std::fs::copy(&disk, &fresh).unwrap();

    let mut restored = host.restore("with-disk", &["--disk", copy.to_str().unwrap()]);
    for (vm, path) in [(&mut restored, &copy), (&mut original, &disk)] {
        // The VMs run one at a time, as they may share an emulated CPU.
        if path == &disk {
            vm.resume();
        }
        ask(vm, "disk churn off");
        let verdict = ask(vm, "disk verify");
        assert!(number(&verdict, "files") >= 6, "{verdict}");
        ask(vm, "disk write 3 64 4");
        ask(vm, "disk verify");
        ask(vm, "kernel");
        ask(vm, "disk umount");
        assert_file_system_clean(path);
        vm.pause();
    }
    restored.stop();
    original.stop();

    // It was written after the snapshot: its memory fits no more. The copy was, too, but the file
    // system may keep no mark of that (tmpfs before Linux 6.6). `kvm::stale_disks` has copies.
    for options in [&[][..], &["--disk", disk.to_str().unwrap()]] {
        let restore = ["restore", "with-disk", "--detach"];
        host.run(&[&restore[..], options].concat())
            .refused(4, "was written after the snapshot");
    }
    // A copy that is made anew over the one that was used is a copy of its time again.
    std::fs::copy(&fresh, &copy).unwrap();
    let again = host.restore("with-disk", &["--disk", copy.to_str().unwrap()]);
    again.stop();

    // A restore is refused if the disk has another size.
    let small = host.runtime().join("small.img");
    std::fs::write(&small, vec![0; 1 << 20]).unwrap();
    let refused = host.run(&[
        "restore",
        "with-disk",
        "--disk",
        small.to_str().unwrap(),
        "--detach",
    ]);
    assert_ne!(refused.code, 0, "a disk of another size");
    assert!(refused.stderr.contains("disk"), "{}", refused.stderr);
    host.assert_pool_clean();
}

#[test]
fn a_read_only_disk_stays_as_it_was() {
    let host = Host::new(512);
    let disk = host.runtime().join("disk.img");
    make_ext4(&disk);
    let before = std::fs::read(&disk).unwrap();
    let option = format!("{},ro", disk.to_str().unwrap());
    let mut vm = boot(&host, 160, 1, &["--disk", &option]);
    ask(&mut vm, "disk mount /dev/vda ro");
    ask(&mut vm, "rng 64");
    ask(&mut vm, "disk umount");
    ask(&mut vm, "kernel");
    vm.stop();
    assert!(
        std::fs::read(&disk).unwrap() == before,
        "a read-only disk was written"
    );
}
