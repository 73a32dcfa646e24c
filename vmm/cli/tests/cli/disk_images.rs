//! Images that become disks.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::disks::DiskWorld;
use crate::qcow2::{Image, noise};
use crate::world::{Finished, HUNG};

/// A raw image with holes and zeros, whose last block is partial. Gives its content.
fn raw_with_holes(path: &str) -> Vec<u8> {
    let size = (6 << 20) + 512;
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for (at, len) in [(4096, 8192), ((3 << 20) + 512, 3000), (size - 512, 512)] {
        file.write_all_at(&noise(len, at as u8), at).unwrap();
    }
    file.write_all_at(&[0; 100_000], 5 << 20).unwrap();
    fs::read(path).unwrap()
}

#[test]
fn a_raw_image_becomes_a_disk_with_holes() {
    let disks = DiskWorld::new();
    let file = disks.file("raw.img");
    // The blocks of the pool were in use before.
    fs::write(&file, noise(20 << 20, 9)).unwrap();
    disks.disk(&["import", &file, "--name", "old"]).done();
    disks.disk(&["rm", "old"]).done();
    let content = raw_with_holes(&file);
    assert_eq!(
        disks.disk(&["import", &file, "--name", "base"]).done(),
        "imported disk base: 6.0 MiB (6291968 bytes), 16.0 KiB of it in use\n"
    );
    assert!(disks.content("base") == content);
    // Nothing of what the pool had before is behind the end.
    disks.disk(&["resize", "base", "8M"]).done();
    let larger = disks.content("base");
    assert!(larger[..content.len()] == content);
    assert!(larger[content.len()..].iter().all(|byte| *byte == 0));
    let again = disks.disk(&["import", &file, "--name", "base"]);
    again.refused_with_remedy(4, "'base'", "nvvmm disk rm base");
    let report = disks.disk(&["import", &file, "--name", "two", "--json"]);
    assert_eq!(report.json()["used_bytes"], 16 << 10);
    disks.assert_in_order();
}

#[test]
fn an_image_is_laid_out_in_pieces_that_can_be_shown_as_memory() {
    let disks = DiskWorld::new();
    let file = disks.file("raw.img");
    let content = raw_with_holes(&file);
    let import = ["import", &file, "--name", "base", "--dax"];
    assert_eq!(
        disks.disk(&import).done(),
        "imported disk base: 8.0 MiB, 6.0 MiB of it in use\n"
    );
    let found = disks.content("base");
    assert!(found[..content.len()] == content);
    assert!(found[content.len()..].iter().all(|byte| *byte == 0));
    // Each piece takes all of its space: one that cannot fit is refused before.
    File::create(&file).unwrap().set_len(4 << 30).unwrap();
    let sparse = File::options().write(true).open(&file).unwrap();
    for at in 0..2000 {
        sparse.write_all_at(&[1], at << 21).unwrap();
    }
    let refused = disks.disk(&["import", &file, "--name", "large", "--dax"]);
    refused.refused(5, "3.9 GiB");
    disks.assert_in_order();
}

#[test]
fn standard_input_becomes_a_disk() {
    let disks = DiskWorld::new();
    let file = disks.file("raw.img");
    let content = raw_with_holes(&file);
    let from = |name: &str, bytes: &[u8], more: &[&str]| {
        let mut child = begin_import(&disks, name, more);
        // A command that has refused it does not read the rest.
        let _ = child.stdin.take().unwrap().write_all(bytes);
        Finished::from(child.wait_with_output().unwrap())
    };
    let done = from("base", &content, &[]);
    assert!(
        done.done().starts_with("imported disk base: 6.0 MiB"),
        "{}",
        done.stdout
    );
    assert!(disks.content("base") == content);
    from("b", &content[..1000], &[]).refused(2, "1000 bytes, is no multiple of 512");
    from("b", b"", &[]).refused_with_remedy(2, "standard input cannot be a disk: it is empty", "");
    let image = Image::new(1 << 20).make().bytes;
    from("b", &image, &[]).refused_with_remedy(2, "standard input", "write it to a file");
    from("b", &image, &["--format", "qcow2"]).refused(2, "standard input");
    let told = from("b", &image, &["--format", "raw"]);
    assert_eq!(told.code, 0);
    assert!(
        told.stderr.contains("begins like a qcow2 image"),
        "{}",
        told.stderr
    );
    assert!(disks.content("b") == image);
    from("base", &content, &[]).refused(4, "'base'");
    disks.assert_in_order();
}

fn begin_import(disks: &DiskWorld, name: &str, more: &[&str]) -> Child {
    let pool = disks.file("a.pool");
    let command = ["disk", "import", "-", "--name", name, "--pool", &pool];
    let mut command = disks.world.command(&[&command[..], more].concat());
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn a_qcow2_image_becomes_a_disk_also_with_compressed_clusters() {
    let disks = DiskWorld::new();
    for (name, version, cluster_bits) in [("a", 3, 16), ("b", 2, 16), ("c", 3, 9), ("d", 3, 12)] {
        let mut image = Image::new(if cluster_bits == 9 {
            1 << 20
        } else {
            (3 << 20) + 512
        });
        (image.version, image.cluster_bits) = (version, cluster_bits);
        let mut image = image
            .data(0, 1)
            .compressed(3, 2)
            .compressed(4, 3)
            .data(5, 4);
        if version == 3 {
            image = image.zero(7);
        }
        let last = (image.size - 1) >> cluster_bits;
        let image = image.data(last, 5);
        let file = disks.file(name);
        fs::write(&file, image.make().bytes).unwrap();
        let done = disks.disk(&["import", &file, "--name", name]);
        assert!(done.done().starts_with("imported disk"), "{}", done.stdout);
        assert!(disks.content(name) == image.content(), "{name}");
    }
    let used = disks.disk(&["info", "a", "--json"]).json();
    assert_eq!(used["used_bytes"], 4 * (64 << 10) + 4096);
    disks.assert_in_order();
}

/// A header field, and its value, big-endian.
type Patch<'a> = (usize, &'a [u8]);

#[test]
fn images_that_are_not_complete_or_are_damaged_are_refused_by_name() {
    let disks = DiskWorld::new();
    let made = Image::new(1 << 20)
        .data(0, 1)
        .compressed(2, 2)
        .data(15, 3)
        .make();
    let behind = |flags: u64| (flags | 1 << 40).to_be_bytes();
    let (lost, packed_lost) = (behind(1 << 63), behind(1 << 62));
    let odd = (1u64 << 63 | 0x1_2200).to_be_bytes();
    let l2 = made.first_l2;
    let patches: [(&[Patch<'_>], i32, &str, &str); 20] = [
        (&[(4, &[0, 0, 0, 1])], 4, "version 1", "qemu-img convert"),
        (&[(4, &[0, 0, 0, 4])], 4, "version 4", "qemu-img convert"),
        (
            &[
                (8, &200u64.to_be_bytes()),
                (16, &[0, 0, 0, 8]),
                (200, b"base.img"),
            ],
            4,
            "its backing file 'base.img'",
            "qemu-img convert",
        ),
        (&[(32, &[0, 0, 0, 1])], 4, "encrypted", "qemu-img convert"),
        (&[(32, &[0, 0, 0, 2])], 4, "encrypted", "qemu-img convert"),
        (
            &[(79, &[1])],
            4,
            "not closed in good order",
            "qemu-img check",
        ),
        (&[(79, &[2])], 4, "marked as damaged", "qemu-img check"),
        (&[(79, &[4])], 4, "data is in another file", "complete"),
        (&[(79, &[8])], 4, "another method than zlib", "simpler"),
        (&[(79, &[16])], 4, "subclusters", "simpler"),
        (&[(72, &[1])], 4, "does not know", "simpler"),
        (
            &[(20, &[0, 0, 0, 40])],
            4,
            "clusters have 2^40 bytes",
            "whole",
        ),
        (
            &[(24, &1000u64.to_be_bytes())],
            2,
            "no multiple of 512",
            "resize",
        ),
        (&[(24, &0u64.to_be_bytes())], 2, "empty", "resize"),
        (&[(24, &(64u64 << 40).to_be_bytes())], 4, "32 TiB", "shrink"),
        (&[(36, &[0, 0, 0, 0])], 4, "L1 table has 0 entries", "whole"),
        (&[(40, &lost)], 4, "L1 table is not in the file", "whole"),
        (&[(made.l1, &lost)], 4, "is not in the file", "whole"),
        (&[(l2, &odd)], 4, "the cluster for byte 0 is not", "whole"),
        (
            &[(l2 + 16, &packed_lost)],
            4,
            "the cluster for byte 131072 is",
            "whole",
        ),
    ];
    let file = disks.file("bad.qcow2");
    let import = || disks.disk(&["import", &file, "--name", "bad"]);
    for (patches, code, why, remedy) in patches {
        let mut bytes = made.bytes.clone();
        for (at, value) in patches {
            bytes[*at..*at + value.len()].copy_from_slice(value);
        }
        fs::write(&file, bytes).unwrap();
        import().refused_with_remedy(code, why, remedy);
    }
    assert!(disks.pool.disks().unwrap().is_empty());
    disks.assert_in_order();
}

#[test]
fn images_that_are_cut_off_or_cannot_be_unpacked_are_refused() {
    let disks = DiskWorld::new();
    let made = Image::new(1 << 20)
        .data(0, 1)
        .compressed(2, 2)
        .data(15, 3)
        .make();
    let l2 = made.first_l2;
    let file = disks.file("bad.qcow2");
    let import = || disks.disk(&["import", &file, "--name", "bad"]);
    // Cut off at each of its clusters, and in the middle of the last one.
    let ends = (0..made.bytes.len()).step_by(64 << 10);
    for end in ends.skip(1).chain([60, made.bytes.len() - 1024]) {
        fs::write(&file, &made.bytes[..end]).unwrap();
        import().refused_with_remedy(4, "damaged", "copied whole");
    }
    // What cannot be unpacked is found when it is read.
    let mut bytes = made.bytes.clone();
    let packed = u64::from_be_bytes(bytes[l2 + 16..l2 + 24].try_into().unwrap());
    let packed = (packed & 0xffff_ffff) as usize;
    bytes[packed..packed + 2000].fill(0xff);
    fs::write(&file, bytes).unwrap();
    import().refused_with_remedy(4, "damaged", "copied whole");
    assert!(disks.pool.disks().unwrap().is_empty());
    disks.assert_in_order();
}

#[test]
fn the_user_is_told_of_snapshots_inside_and_of_another_format() {
    let disks = DiskWorld::new();
    let file = disks.file("image");
    let image = Image::new(1 << 20).data(0, 1);
    let mut bytes = image.make().bytes;
    bytes[63] = 2;
    fs::write(&file, &bytes).unwrap();
    let told = disks.disk(&["import", &file, "--name", "a"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert!(
        told.stderr.contains("2 snapshots inside"),
        "{}",
        told.stderr
    );
    assert!(disks.content("a") == image.content());
    let told = disks.disk(&["import", &file, "--name", "b", "--format", "raw"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert!(
        told.stderr.contains("begins like a qcow2 image"),
        "{}",
        told.stderr
    );
    assert!(disks.content("b") == bytes);
    fs::write(&file, [1; 512]).unwrap();
    disks
        .disk(&["import", &file, "--name", "c", "--format", "qcow2"])
        .refused_with_remedy(2, "no qcow2 image", "leave out");
    fs::write(&file, b"KDMV and so on").unwrap();
    disks
        .disk(&["import", &file, "--name", "c"])
        .refused_with_remedy(2, "a VMDK image", "qemu-img convert");
    fs::write(&file, [1; 1000]).unwrap();
    disks
        .disk(&["import", &file, "--name", "c"])
        .refused_with_remedy(2, "1000 bytes, is no multiple of 512", "truncate -s %512");
    disks
        .disk(&["import", "/dev/null", "--name", "c"])
        .refused_with_remedy(2, "no regular file", "path of an image");
    disks
        .disk(&["import", "/nonexistent", "--name", "c"])
        .refused(3, "/nonexistent");
}

#[test]
fn what_cannot_fit_is_refused_before_it_starts_and_zeros_do_not_count() {
    let disks = DiskWorld::new();
    let file = disks.file("raw.img");
    // 40 MiB of data, of which 1 MiB is not zeros.
    let mut bytes = vec![0; 40 << 20];
    bytes[20 << 20..21 << 20].copy_from_slice(&noise(1 << 20, 1));
    fs::write(&file, &bytes).unwrap();
    disks.disk(&["import", &file, "--name", "sparse"]).done();
    assert!(disks.content("sparse") == bytes);
    fs::write(&file, vec![1; 40 << 20]).unwrap();
    disks
        .disk(&["import", &file, "--name", "large"])
        .refused_with_remedy(
            5,
            "the image has 40.0 MiB that are not zeros",
            "nvvmm pool grow",
        );
    // The size of a stream is known at its end only.
    let mut child = begin_import(&disks, "large", &[]);
    let _ = child.stdin.take().unwrap().write_all(&vec![1; 40 << 20]);
    let refused = Finished::from(child.wait_with_output().unwrap());
    refused.refused(5, "full");
    assert_eq!(disks.pool.disks().unwrap().len(), 1);
    disks.assert_in_order();
}

#[test]
fn an_import_that_ends_early_leaves_nothing() {
    let disks = DiskWorld::new();
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let mut child = begin_import(&disks, "data", &[]);
        let mut input = child.stdin.take().unwrap();
        input.write_all(&noise(4 << 20, 1)).unwrap();
        let begun = Instant::now();
        while disks.pool.status().unwrap().leased_blocks == 0 {
            assert!(begun.elapsed() < HUNG);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.signal(), Some(signal as i32), "{ended:?}");
        drop(input);
        if signal == Signal::SIGINT {
            let stderr = String::from_utf8_lossy(&ended.stderr);
            assert!(
                stderr.contains("interrupted: there is no disk 'data'"),
                "{stderr}"
            );
        }
        assert!(disks.pool.disks().unwrap().is_empty());
        disks.assert_in_order();
    }
}
