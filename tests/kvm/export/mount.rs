//! `nvvmm pool mount`.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Whence, lseek};
use nvvmm_bare_metal::verify;
use nvvmm_snapshot::Pool;
use nvvmm_tests::{Host, required};
use serde_json::Value;

use super::{Bytes, frames_under_test, number};

const MIB: u64 = 1 << 20;

/// A mounted pool, and the process that serves it.
struct Mounted {
    directory: tempfile::TempDir,
    process: Child,
}

/// True if this host cannot mount anything. The reason is printed.
fn cannot_mount() -> bool {
    let missing = if !Path::new("/dev/fuse").exists() {
        "there is no /dev/fuse"
    } else if !nix::unistd::geteuid().is_root() {
        "mounting needs root"
    } else {
        return false;
    };
    println!("SKIPPED: {missing}");
    true
}

impl Mounted {
    fn of(host: &Host) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = Self::serve(host, directory.path());
        Self { directory, process }
    }

    fn serve(host: &Host, directory: &Path) -> Child {
        let mut command = host.command(&["pool", "mount", directory.to_str().unwrap()]);
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert!(line.contains("is mounted on"), "{line}");
        process
    }

    fn at(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn memory(&self, snapshot: &str) -> Bytes {
        Bytes(fs::read(self.at(snapshot).join("memory")).unwrap())
    }

    fn json(&self, file: &str) -> Value {
        serde_json::from_slice(&fs::read(self.at(file)).unwrap()).unwrap()
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(directory)).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id() as i32), signal).unwrap();
    }

    /// Waits for the process to end. Returns its exit code and its messages.
    fn ended(&mut self) -> (Option<i32>, String) {
        let said = io::read_to_string(self.process.stderr.take().unwrap()).unwrap();
        (self.process.wait().unwrap().code(), said)
    }

    fn umount(&self) -> bool {
        let umount = Command::new("umount").arg(self.directory.path()).status();
        umount.unwrap().success()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A failed test leaves these. Both calls fail if the test has done the same.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = Command::new("umount")
            .arg("-l")
            .arg(self.directory.path())
            .stderr(Stdio::null())
            .status();
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap())
}

/// Bytes of a file outside of holes, found in the way that makers of sparse copies use.
fn data_bytes(path: &Path) -> u64 {
    let file = File::open(path).unwrap();
    let (mut at, mut sum) = (0, 0);
    while let Ok(start) = lseek(&file, at, Whence::SeekData) {
        at = lseek(&file, start, Whence::SeekHole).unwrap();
        sum += (at - start) as u64;
    }
    sum
}

#[test]
fn files_hold_what_the_guest_has() {
    if cannot_mount() {
        return;
    }
    let host = Host::new(512);
    let mut vm = host.boot_bare_metal(64, 2);
    let mut mounted = Mounted::of(&host);
    assert!(mounted.names("").is_empty());
    let (first, frames) = frames_under_test(&mut vm);
    vm.ask("fill 16 1");
    let told = [("digest 16", 16 * 256), ("digest all", frames)].map(|(question, count)| {
        let answer = vm.ask(question);
        let digest = answer.split(' ').nth(2).unwrap().to_owned();
        assert_eq!(number(&answer, "frames"), count, "{answer}");
        (digest, count)
    });
    let taken = vm.snapshot("still");
    vm.ask("churn on 9 rand");
    vm.snapshot("moving");
    assert_eq!(mounted.names(""), ["moving", "still"]);
    assert_eq!(
        mounted.names("still"),
        ["memory", "spec.json", "state.json"]
    );

    let memory = mounted.memory("still");
    assert_eq!(memory.0.len() as u64, 64 * MIB);
    for (digest, count) in told {
        assert_eq!(
            format!("{:016x}", verify::digest(&memory, first, count)),
            digest,
            "{count} frames"
        );
    }
    let moving = verify::instant(&mounted.memory("moving"));
    assert!(
        moving.is_ok_and(|report| report.frames == 16 * 256),
        "{moving:?}"
    );

    let mapped = taken["mapped_bytes"].as_u64().unwrap();
    let path = mounted.at("still/memory");
    assert_eq!(fs::metadata(&path).unwrap().blocks() * 512, mapped);
    assert_eq!(data_bytes(&path), mapped);
    assert_eq!(
        mounted.json("still/state.json"),
        host.json(&["inspect", "still"])["saved_state"]
    );
    assert_eq!(mounted.json("still/spec.json")["memory_bytes"], 64 * MIB);
    let write = File::create(mounted.at("still/memory")).unwrap_err();
    assert_eq!(errno(&write), Errno::EROFS);

    // A VM in the same pool works as it does without the mount.
    assert!(vm.ask("check").contains("check ok"));
    host.assert_pool_clean();
    assert!(mounted.umount());
    assert_eq!(mounted.ended(), (Some(0), String::new()));
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn a_snapshot_that_is_removed_is_gone_also_where_it_is_open() {
    if cannot_mount() {
        return;
    }
    let host = Host::new(512);
    let mut vm = host.boot_bare_metal(64, 1);
    let (first, _) = frames_under_test(&mut vm);
    vm.ask("fill 32 1");
    vm.snapshot("a");
    let mut mounted = Mounted::of(&host);
    let open = File::open(mounted.at("a/memory")).unwrap();
    let mut frame = [0; 4096];
    let behind = |frames: u64| (first + frames) * 4096;
    open.read_exact_at(&mut frame, behind(0)).unwrap();

    // The VM still uses the snapshot.
    host.run(&["rm", "a"]).ok();
    assert_eq!(
        errno(&File::open(mounted.at("a/memory")).unwrap_err()),
        Errno::ENOENT
    );
    open.read_exact_at(&mut frame, behind(24 * 256)).unwrap();
    // No VM uses the snapshot any more, and others write to its blocks.
    vm.stop();
    let mut other = host.boot_bare_metal(64, 1);
    other.ask("fill 48 2");
    other.snapshot("a");
    let gone = open
        .read_exact_at(&mut frame, behind(12 * 256))
        .unwrap_err();
    assert_eq!(errno(&gone), Errno::ESTALE);
    let digest = other.ask("digest 48");
    let shown = verify::digest(&mounted.memory("a"), first, 48 * 256);
    assert!(digest.contains(&format!("{shown:016x}")), "{digest}");

    // An open file does not keep the pool mounted.
    mounted.signal(Signal::SIGINT);
    let (code, said) = mounted.ended();
    assert!(
        code == Some(0) && said.contains("have files open"),
        "{code:?}: {said}"
    );
    assert!(mounted.names("").is_empty());
    host.assert_pool_clean();
}

#[test]
fn a_killed_mount_leaves_the_pool_in_order() {
    if cannot_mount() {
        return;
    }
    let host = Host::new(512);
    let mut vm = host.boot_bare_metal(32, 1);
    vm.ask("fill 8 1");
    vm.snapshot("a");
    let mut mounted = Mounted::of(&host);
    mounted.memory("a");
    mounted.signal(Signal::SIGKILL);
    mounted.ended();
    let dead = fs::read_dir(mounted.directory.path()).unwrap_err();
    assert_eq!(errno(&dead), Errno::ENOTCONN);
    host.assert_pool_clean();
    let directory = mounted.directory.path().to_str().unwrap().to_owned();
    host.run(&["pool", "mount", &directory])
        .refused(4, &format!("umount {directory}"));
    assert!(mounted.umount());
    mounted.process = Mounted::serve(&host, mounted.directory.path());
    assert_eq!(mounted.names(""), ["a"]);
    host.run(&["rm", "a"]).ok();
    vm.stop();
    assert!(mounted.umount());
    mounted.ended();
    host.assert_pool_clean();
}

#[test]
fn what_cannot_be_mounted_is_refused_and_what_is_damaged_cannot_be_read() {
    if cannot_mount() {
        return;
    }
    let host = Host::new(512);
    host.run(&["pool", "mount", "/none/at/all"])
        .refused(3, "mkdir");
    let file = host.runtime().join("file");
    fs::write(&file, "").unwrap();
    host.run(&["pool", "mount", file.to_str().unwrap()])
        .refused(2, "mount on");
    if !host.medium().takes_writes() {
        return;
    }
    let mut vm = host.boot_bare_metal(32, 1);
    vm.ask("fill 8 1");
    vm.snapshot("a");
    let inside = host.json(&["inspect", "a"]);
    vm.stop();
    let mounted = Mounted::of(&host);
    let pool = File::options().write(true).open(host.pool()).unwrap();
    let root = &inside["map"]["root"]["block"];
    let blocks =
        [&inside["state_block_numbers"][0], root].map(|block| block.as_u64().unwrap() * 4096);
    for (block, file) in blocks.into_iter().zip(["state.json", "memory"]) {
        pool.write_all_at(&[0x5a; 64], block + 100).unwrap();
        let error = fs::read(mounted.at("a").join(file)).unwrap_err();
        assert_eq!(errno(&error), Errno::EIO, "{file}");
    }
    assert_eq!(mounted.names(""), ["a"], "it goes on");
}

#[test]
fn disks_of_a_snapshot_are_files_as_programs_expect_them() {
    if cannot_mount() {
        return;
    }
    const DISK_BYTES: u64 = (4 << 20) + 512;
    let host = Host::new(256);
    let pool = Pool::open(host.pool()).unwrap();
    pool.create_disk("data", DISK_BYTES).unwrap();
    let content: Vec<u8> = (0..9000).map(|at: usize| (at / 3) as u8).collect();
    {
        let holder = pool.hold("maker").unwrap();
        let head = holder.attach_disk("data").unwrap();
        head.write(1 << 20, &content).unwrap();
        head.write(DISK_BYTES - 512, &[7; 512]).unwrap();
    }
    let kernel = required("NVVMM_BAREMETAL_GUEST");
    let kernel = kernel.to_str().unwrap();
    let vm = host.boot(&["--kernel", kernel, "--disk", "data"], 16, 1);
    host.run(&["snapshot", &vm.name, "s"]).ok();
    let mounted = Mounted::of(&host);
    assert_eq!(
        mounted.names("s"),
        ["data.img", "memory", "spec.json", "state.json"]
    );
    let file = File::open(mounted.at("s/data.img")).unwrap();
    let found = file.metadata().unwrap();
    assert_eq!(found.len(), DISK_BYTES);
    assert!(found.blocks() * 512 < 1 << 20, "{found:?}");
    let mut expected = vec![0; DISK_BYTES as usize];
    expected[1 << 20..][..content.len()].copy_from_slice(&content);
    expected[DISK_BYTES as usize - 512..].fill(7);
    assert!(fs::read(mounted.at("s/data.img")).unwrap() == expected);
    assert_eq!(data_bytes(&mounted.at("s/data.img")), 3 * 4096 + 512);
    let mut piece = [0; 300];
    file.read_exact_at(&mut piece, (1 << 20) + 77).unwrap();
    assert!(piece == content[77..377]);
    drop(file);
    assert!(mounted.umount());
    vm.stop();
}
