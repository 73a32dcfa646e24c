//! A file system on a disk of the pool: it goes with the VM's snapshots, copies and rewinds, and
//! survives the VM process.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use nvvmm_snapshot::Pool;
use nvvmm_tests::{
    Host, Random, Vm,
    agent::{output, sh},
    flushes, repetitions,
    witness::{ask, boot, boot_with_options, number},
};

const DISK_BYTES: u64 = 24 << 20;
/// Bytes that are copied at once.
const PIECE_BYTES: usize = 1 << 20;
/// Longest wait for a guest of an emulated host.
const PATIENCE: Duration = Duration::from_secs(200);

/// Puts an ext4 file system into a new disk of the pool.
fn make_ext4_disk(host: &Host, name: &str) {
    let image = host.runtime().join("made.img");
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(&image)
        .arg("24M")
        .output()
        .expect("mkfs.ext4 runs");
    assert!(made.status.success(), "{made:?}");
    import(host, name, &image, false);
}

/// Puts an image into a new disk of the pool, laid out for DAX or not.
fn import(host: &Host, name: &str, image: &Path, dax: bool) {
    let bytes = std::fs::read(image).unwrap();
    assert_eq!(bytes.len() as u64, DISK_BYTES);
    let holder = Pool::open(host.pool()).unwrap().hold("maker").unwrap();
    let mut import = holder.import_disk(name, DISK_BYTES, 0).unwrap();
    if dax {
        import = import.in_chunks().unwrap();
    }
    for (at, piece) in bytes.chunks(PIECE_BYTES).enumerate() {
        import.write((at * PIECE_BYTES) as u64, piece).unwrap();
    }
    import.finish().unwrap();
}

/// The content of a disk that nobody writes to, as a file.
fn content(host: &Host, name: &str) -> std::path::PathBuf {
    let holder = Pool::open(host.pool()).unwrap().hold("reader").unwrap();
    let reader = holder.attach_disk_read_only(name).unwrap();
    let mut bytes = vec![0; DISK_BYTES as usize];
    reader.read(0, &mut bytes).unwrap();
    let path = host.runtime().join(format!("{name}.img"));
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Exports a disk in both formats, and compares with the guest's own checksum of it.
fn assert_exported(host: &Host, name: &str, guests_sum: &str) {
    let path = |format: &str| host.runtime().join(format!("{name}.{format}"));
    for format in ["raw", "qcow2"] {
        let file = path(format);
        let file = file.to_str().expect("the path is text");
        host.run(&["disk", "export", name, file, "--format", format])
            .ok();
    }
    let raw = std::fs::File::open(path("raw")).unwrap();
    let summed = Command::new("md5sum").stdin(raw).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&summed.stdout), guests_sum);
    let compared = Command::new("qemu-img")
        .args(["compare", "-f", "raw", "-F", "qcow2"])
        .args([path("raw"), path("qcow2")])
        .output();
    match compared {
        Ok(compared) => assert!(compared.status.success(), "{compared:?}"),
        Err(error) => println!("SKIPPED: comparison by qemu-img: {error}"),
    }
    for format in ["raw", "qcow2"] {
        std::fs::remove_file(path(format)).unwrap();
    }
}

fn assert_file_system_clean(path: &Path) {
    let checked = Command::new("e2fsck")
        .args(["-f", "-n"])
        .arg(path)
        .output()
        .expect("e2fsck runs");
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success(), "{}: {said}", path.display());
}

/// Verifies all files that have their final names, and a few new ones. Gives their number.
fn assert_goes_on(vm: &mut Vm<'_>, seed: u64) -> u64 {
    ask(vm, "disk churn off");
    let verdict = ask(vm, "disk verify");
    ask(vm, &format!("disk write 2 64 {seed}"));
    ask(vm, "disk verify");
    ask(vm, "kernel");
    number(&verdict, "files")
}

#[test]
fn a_file_system_goes_with_snapshots_copies_and_rewinds_and_survives_the_process() {
    let host = Host::new(1024);
    make_ext4_disk(&host, "data");
    let mut vm = boot(&host, 160, 1, &["--disk", "data"]);
    let serial = sh(&host, &vm, "cat /sys/block/vda/serial").ok().stdout;
    assert_eq!(serial.trim(), "data");
    ask(&mut vm, "disk mount");
    ask(&mut vm, "disk write 4 64 3");
    ask(&mut vm, "disk churn on");
    for number in 0..4 {
        let taken = vm.snapshot(&format!("s{number}"));
        assert_eq!(
            taken["outside_disks"].as_array().unwrap().len(),
            0,
            "{taken}"
        );
    }

    // Back by memory and disk together, while files are being written.
    host.run(&["rewind", &vm.name, "--to", "s1"]).ok();
    assert!(assert_goes_on(&mut vm, 4) >= 4);

    // What a guest was told to be flushed survives the process; the journal is replayed.
    ask(&mut vm, "disk write 3 64 5");
    let files = number(&ask(&mut vm, "disk verify"), "files");
    vm.kill();

    let mut copies: Vec<_> = ["s2", "s3"]
        .map(|snapshot| host.restore(snapshot, &[]))
        .into();
    let mut sums = Vec::new();
    for (seed, copy) in (6..).zip(&mut copies) {
        assert!(assert_goes_on(copy, seed) >= 4);
        ask(copy, "disk umount");
        sums.push(output(&host, copy, "md5sum < /dev/vda"));
    }
    let names: Vec<String> = copies
        .iter()
        .map(|copy| format!("{}.data", copy.name))
        .collect();
    copies.into_iter().for_each(Vm::stop);
    for (name, sum) in names.iter().zip(&sums) {
        assert_file_system_clean(&content(&host, name));
        assert_exported(&host, name, sum);
    }

    let mut vm = boot(&host, 160, 1, &["--disk", "data"]);
    ask(&mut vm, "disk mount");
    let found = number(&ask(&mut vm, "disk verify"), "files");
    assert!(found >= files, "{found} of {files} files");

    // Space that the guest gives back is the pool's again, once the disk is given back.
    sh(
        &host,
        &vm,
        "dd if=/dev/urandom of=/mnt/large bs=64k count=160; sync",
    )
    .ok();
    sh(&host, &vm, "rm /mnt/large; sync; fstrim /mnt").ok();
    ask(&mut vm, "disk verify");
    ask(&mut vm, "disk umount");
    vm.stop();
    let disk = Pool::open(host.pool()).unwrap().disk("data").unwrap();
    assert!(disk.blocks * 4096 < 10 << 20, "{disk:?}");
    assert_file_system_clean(&content(&host, "data"));
    host.assert_pool_clean();
}

/// A disk with a file system in which there are a program and a file of `bytes`.
fn make_tools_disk(host: &Host, bytes: &[u8]) {
    let tree = host.runtime().join("tree");
    std::fs::create_dir(&tree).unwrap();
    std::fs::copy("/bin/busybox", tree.join("busybox")).unwrap();
    std::fs::write(tree.join("large"), bytes).unwrap();
    let image = host.runtime().join("tools.img");
    let made = Command::new("mke2fs")
        .args(["-q", "-t", "ext4", "-b", "4096", "-d"])
        .args([&tree, &image])
        .arg("24M")
        .output()
        .expect("mke2fs runs");
    assert!(made.status.success(), "{made:?}");
    import(host, "tools", &image, true);
}

fn own_bytes(vm: &Vm<'_>) -> u64 {
    vm.status()["ram"]["own_bytes"].as_u64().unwrap()
}

#[test]
fn a_disk_in_memory_is_shared_and_a_full_pool_holds_who_writes() {
    const LARGE_BYTES: usize = 12 << 20;
    let host = Host::new(1024);
    let large: Vec<u8> = (0..LARGE_BYTES).map(|at| (at % 251) as u8).collect();
    make_tools_disk(&host, &large);
    make_ext4_disk(&host, "data");
    let sum = "md5sum < /mnt/tools/large";
    let options = ["--disk", "data", "--disk", "tools,ro,dax"];
    let vm = boot_with_options(&host, 160, 1, &options);
    let mount = "mkdir -p /mnt/tools /mnt/data
        mount -t ext4 -o ro,dax /dev/pmem0 /mnt/tools
        mount -t ext4 /dev/vda /mnt/data
        grep /mnt/tools /proc/mounts";
    let mounted = output(&host, &vm, mount);
    assert!(mounted.contains("dax"), "{mounted}");
    let before = own_bytes(&vm);
    let said = output(
        &host,
        &vm,
        &format!("/mnt/tools/busybox echo in-place; {sum}"),
    );
    assert!(said.starts_with("in-place\n"), "{said}");
    // The file is nowhere in the guest's RAM.
    let grown = own_bytes(&vm).saturating_sub(before);
    assert!(grown < LARGE_BYTES as u64 / 2, "{grown}");

    // A copy reads the same blocks.
    vm.snapshot("s");
    let in_use = || {
        let disks = Pool::open(host.pool()).unwrap().disks().unwrap();
        let own = disks.iter().filter(|disk| disk.name.ends_with("tools"));
        own.map(|disk| disk.own_bytes).collect::<Vec<_>>()
    };
    assert_eq!(in_use().len(), 1);
    let copy = host.restore("s", &[]);
    assert_eq!(output(&host, &copy, sum), said.split_once('\n').unwrap().1);
    copy.stop();
    assert_eq!(in_use().len(), 1);

    // A write that finds no block holds the VM, and nothing is lost. The guest's memory is there
    // before, so that it is the disk that waits.
    output(
        &host,
        &vm,
        "dd if=/dev/zero of=/warm bs=64k count=256 2>&1; rm /warm",
    );
    let pool = Pool::open(host.pool()).unwrap();
    let ballast = pool.hold("ballast").unwrap();
    let take_the_rest = || {
        for count in [512, 1] {
            while ballast.take_blocks(count).is_ok() {}
        }
    };
    take_the_rest();
    let write = "dd if=/dev/urandom of=/mnt/data/new bs=64k count=240 2>&1 && sync &&
        md5sum < /mnt/data/new > /mnt/data/sum && sync";
    let writing = host
        .command(&["exec", &vm.name, "--", "sh", "-c", write])
        .spawn()
        .unwrap();
    let until = Instant::now() + PATIENCE;
    while vm.status()["state"] != "no-space" {
        assert!(Instant::now() < until, "{}", vm.status());
        std::thread::sleep(Duration::from_millis(100));
        // What the copy had is free once it is clean.
        take_the_rest();
    }
    host.run(&["snapshot", &vm.name, "none"]).refused(5, "full");
    drop(ballast);
    let written = writing.wait_with_output().unwrap();
    assert!(written.status.success(), "{written:?}");
    let check = "echo 3 > /proc/sys/vm/drop_caches
        [ \"$(md5sum < /mnt/data/new)\" = \"$(cat /mnt/data/sum)\" ] && umount /mnt/data";
    output(&host, &vm, check);
    vm.stop();
    assert_file_system_clean(&content(&host, "data"));
    host.assert_pool_clean();
}

/// Longest time until a VM process is killed.
const LONGEST_WORK_MS: u64 = 4000;

#[test]
fn what_a_guest_was_told_to_be_flushed_survives_any_kill_of_its_process() {
    let host = Host::new(1024);
    let pool = Pool::open(host.pool()).unwrap();
    pool.create_disk("data", flushes::DISK_BYTES).unwrap();
    let mut random = Random::seeded("kills");
    let mut vm = boot_with_options(&host, 160, 1, &["--disk", "data"]);
    vm.snapshot("seed");
    let (mut disk, mut first, mut reported) = ("data".to_owned(), 1, 0);
    for round in 0..repetitions(100) {
        let path = host.runtime().join(format!("flushes-{round}"));
        let log = std::fs::File::create(&path).unwrap();
        let mut writer = flushes::start(&host, &vm, first, log);
        // The process is killed while it writes, or while a snapshot is taken.
        let taken = format!("taken{round}");
        let mut taking = (random.below(2) == 0).then(|| {
            random.pause(LONGEST_WORK_MS);
            host.command(&["snapshot", &vm.name, &taken])
                .spawn()
                .unwrap()
        });
        random.pause(LONGEST_WORK_MS / if taking.is_some() { 40 } else { 1 });
        vm.kill();
        writer.wait().unwrap();
        if let Some(taking) = &mut taking {
            taking.wait().unwrap();
        }
        let last = flushes::last_reported(&std::fs::read_to_string(&path).unwrap());
        if let Some(last) = last {
            flushes::assert_there(&pool, &disk, first, last);
            (reported, first) = (reported + last + 1 - first, last + 100);
        }
        host.assert_pool_clean();
        let from = if pool.find(&taken).is_ok() {
            &taken
        } else {
            "seed"
        };
        vm = host.restore(from, &[]);
        disk = vm.status()["disks"][0]["pool_disk"]
            .as_str()
            .unwrap()
            .to_owned();
    }
    println!("{reported} flushes were reported, and none is lost");
    assert!(reported > 0);
    vm.stop();
    host.assert_pool_clean();
}
