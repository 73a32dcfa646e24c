//! Disks that become images.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::sync::Arc;

use nvvmm_snapshot::{DiskHead, Holder};

use crate::disks::{DiskWorld, snapshot_with};
use crate::qcow2::noise;
use crate::world::Finished;

/// Size of the disk: its last block and its last cluster are partial.
const SIZE: usize = (9 << 20) + 512;

/// A VM that writes to the disk.
struct Writer {
    _head: Arc<DiskHead>,
    _holder: Holder,
}

/// A disk with blocks here and there, some of them zeros. Gives its content.
fn disk_with_holes(disks: &DiskWorld) -> (Writer, Vec<u8>) {
    disks.pool.create_disk("data", SIZE as u64).unwrap();
    let holder = disks.pool.hold("web").unwrap();
    let head = holder.attach_disk("data").unwrap();
    let mut content = vec![0; SIZE];
    for (at, bytes) in [
        (4096, noise(8192, 1)),
        (100_000, noise(300_000, 2)),
        (4 << 20, vec![0; 200_000]),
        ((6 << 20) - 700, noise(5000, 3)),
        (SIZE - 512, noise(512, 4)),
    ] {
        head.write(at as u64, &bytes).unwrap();
        content[at..at + bytes.len()].copy_from_slice(&bytes);
    }
    head.flush().unwrap();
    snapshot_with(&holder, "one", &[&head]);
    head.write(4096, &[9; 4096]).unwrap();
    let writer = Writer {
        _head: head,
        _holder: holder,
    };
    (writer, content)
}

#[test]
fn a_raw_image_is_the_disk_and_as_sparse() {
    let disks = DiskWorld::new();
    let (writer, then) = disk_with_holes(&disks);
    let file = disks.file("data.img");
    // Its VM may have written meanwhile.
    disks.disk(&["export", "data", &file]).refused_with_remedy(
        4,
        "disk 'data' is in use by 'web'",
        "nvvmm disk export now:data",
    );
    assert!(fs::metadata(&file).is_err());
    assert_eq!(
        disks.disk(&["export", "one:data", &file]).done(),
        format!("exported disk one:data to {file}: 9.0 MiB (9437696 bytes), raw\n")
    );
    assert!(fs::read(&file).unwrap() == then);
    let made = fs::metadata(&file).unwrap();
    assert!(made.blocks() * 512 < 1 << 20, "{} sectors", made.blocks());
    assert_eq!(made.permissions().mode() & 0o777, 0o600);
    drop(writer);
    disks
        .disk(&["export", "data", &file])
        .refused_with_remedy(4, "exists", "--force");
    assert!(fs::read(&file).unwrap() == then);
    let report = disks.disk(&["export", "data", &file, "--force", "--json"]);
    assert_eq!(report.json()["image_bytes"], SIZE);
    let mut now = then;
    now[4096..8192].fill(9);
    assert!(fs::read(&file).unwrap() == now);
    disks.disk(&["import", &file, "--name", "again"]).done();
    assert!(disks.content("again") == now);
    disks.assert_in_order();
}

#[test]
fn standard_output_gets_the_whole_disk() {
    let disks = DiskWorld::new();
    let (writer, then) = disk_with_holes(&disks);
    let pool = disks.file("a.pool");
    let export = |more: &[&str]| {
        let command = ["disk", "export", "one:data", "-", "--pool", &pool];
        let command = [&command[..], more].concat();
        disks.world.command(&command).output().unwrap()
    };
    let done = export(&[]);
    assert!(
        done.status.success() && done.stdout == then,
        "{:?}",
        done.status
    );
    Finished::from(export(&["--format", "qcow2"])).refused_with_remedy(
        2,
        "not written in order",
        "path of a file",
    );
    drop(writer);
    let mut child = disks
        .world
        .command(&["disk", "export", "data", "-", "--pool", &pool])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert!(!String::from_utf8_lossy(&ended.stderr).contains("panicked"));
}

#[test]
fn an_image_of_qcow2_is_the_disk_when_it_is_imported_again() {
    let disks = DiskWorld::new();
    let (_writer, then) = disk_with_holes(&disks);
    let file = disks.file("data.qcow2");
    disks
        .disk(&["export", "one:data", &file, "--format", "qcow2"])
        .done();
    let bytes = fs::read(&file).unwrap();
    assert!(
        bytes.starts_with(b"QFI\xfb") && bytes.len() < 2 << 20,
        "{}",
        bytes.len()
    );
    disks.disk(&["import", &file, "--name", "again"]).done();
    assert!(disks.content("again") == then);
    disks.pool.create_disk("empty", 20 << 30).unwrap();
    let empty = disks.file("empty.qcow2");
    disks
        .disk(&["export", "empty", &empty, "--format", "qcow2"])
        .done();
    let again = disks.disk(&["import", &empty, "--name", "empty-2", "--json"]);
    assert_eq!(again.json()["size_bytes"], 20u64 << 30);
}

#[test]
fn qemu_finds_both_images_to_be_the_same() {
    let disks = DiskWorld::new();
    let (_writer, _) = disk_with_holes(&disks);
    let [raw, qcow2] = ["data.img", "data.qcow2"].map(|name| disks.file(name));
    disks.disk(&["export", "one:data", &raw]).done();
    disks
        .disk(&["export", "one:data", &qcow2, "--format", "qcow2"])
        .done();
    let qemu_img = |arguments: &[&str]| Command::new("qemu-img").args(arguments).output();
    let Ok(checked) = qemu_img(&["check", "-f", "qcow2", &qcow2]) else {
        println!("SKIPPED: qemu-img is not here");
        return;
    };
    assert!(checked.status.success(), "{checked:?}");
    let same = qemu_img(&["compare", "-f", "raw", "-F", "qcow2", &raw, &qcow2]).unwrap();
    assert!(same.status.success(), "{same:?}");
}

#[test]
fn what_is_not_there_is_not_exported_and_leaves_no_file() {
    let disks = DiskWorld::new();
    let (_writer, _) = disk_with_holes(&disks);
    let file = disks.file("image");
    for (disk, why) in [
        ("other", "no disk 'other'"),
        ("one:other", "snapshot 'one' has no disk 'other'"),
        ("two:data", "no snapshot 'two'"),
    ] {
        disks.disk(&["export", disk, &file]).refused(3, why);
    }
    let directory = disks.file("run");
    disks
        .disk(&["export", "one:data", &directory])
        .refused_with_remedy(2, "not a regular file", "standard output");
    let left = || fs::read_dir(disks.file("")).unwrap().flatten();
    let is_partial = |name: &str| name.starts_with("image");
    // A helper removes the file when it sees the end of its command.
    let begun = std::time::Instant::now();
    while left().any(|entry| is_partial(&entry.file_name().to_string_lossy())) {
        assert!(begun.elapsed() < crate::world::HUNG);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
