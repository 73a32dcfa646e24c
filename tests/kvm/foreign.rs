//! A snapshot that came from elsewhere makes the host open nothing that its sender named, until its
//! owner adopts it. Its processes do not become root.

use std::{
    fs,
    io::{ErrorKind as IoErrorKind, Read},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{sys::stat::Mode, unistd::mkfifo};
use nvvmm::{
    DiskSource, ErrorKind, Pool, Vm as LibraryVm, VmOptions, VmSpec, checkpoint::blob::SavedVm,
    control::RestartRequest, process::SavedProcess,
};
use nvvmm_process::image::{Image, Process, SignalAction, Thread};
use nvvmm_snapshot::{NewMap, NewSnapshot, SnapshotKind};
use nvvmm_tests::{Host, Vm, required};
use serde_json::Value;

/// Ports and values of the machine: serial port, its line status, reset register.
const SERIAL: u16 = 0x3f8;
const LINE_STATUS: u16 = 0x3fd;
const RESET: u16 = 0x602;
const RESET_VALUE: u8 = 1;
/// Address of the guest's code.
const CODE: u64 = 0x10_0000;

/// A flat guest that says `word` when it boots, and reboots when it is sent a line.
fn rebooting_guest(word: &str) -> Vec<u8> {
    let [port_low, port_high] = SERIAL.to_le_bytes();
    // mov dx,SERIAL; then for each character: mov al,c; out dx,al
    let mut code = vec![0x66, 0xba, port_low, port_high];
    for byte in format!("{word}\n").bytes() {
        code.extend([0xb0, byte, 0xee]);
    }
    // l: mov dx,LINE_STATUS; in al,dx; test al,1; jz l; mov dx,SERIAL; in al,dx; cmp al,'\n'; jne l
    let [low, high] = LINE_STATUS.to_le_bytes();
    code.extend([0x66, 0xba, low, high, 0xec, 0xa8, 1, 0x74, 0xf7]);
    code.extend([
        0x66, 0xba, port_low, port_high, 0xec, 0x3c, b'\n', 0x75, 0xee,
    ]);
    // mov dx,RESET; mov al,RESET_VALUE; out dx,al; jmp .
    let [low, high] = RESET.to_le_bytes();
    code.extend([0x66, 0xba, low, high, 0xb0, RESET_VALUE, 0xee, 0xeb, 0xfe]);
    flat_program(&code)
}

/// An ELF file with an nvvmm note and one segment of code.
fn flat_program(code: &[u8]) -> Vec<u8> {
    let words = |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    let mut note: Vec<u8> = [6u32, 8, 1].iter().flat_map(|w| w.to_le_bytes()).collect();
    note.extend(b"nvvmm\0\0\0\x01\0\0\0\0\0\0\0");
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
    file.extend(words(&[CODE, 64, 0]));
    file.extend([0; 4]);
    let halves = [64u16, 56, 2, 64, 0, 0];
    file.extend(halves.iter().flat_map(|half| half.to_le_bytes()));
    let content = 64 + 2 * 56;
    let segments = [
        (4u32, content, 0, note.len()),
        (1, content + note.len(), CODE, code.len()),
    ];
    for (kind, offset, address, size) in segments {
        file.extend([kind, 7].iter().flat_map(|word| word.to_le_bytes()));
        let size = size as u64;
        file.extend(words(&[offset as u64, 0, address, size, size, 1]));
    }
    file.extend(note);
    file.extend(code);
    file
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Files of a sender and of an owner.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// The sender's kernel, which says "sender".
    fn senders_kernel(&self) -> PathBuf {
        self.put("senders-kernel", &rebooting_guest("sender"))
    }

    /// The owner's kernel, which says "owner".
    fn owners_kernel(&self) -> PathBuf {
        self.put("owners-kernel", &rebooting_guest("owner"))
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.put(name, &[7; 1 << 20])
    }
}

/// A host that has received the snapshot `s`. The sender's VM was made with these options.
fn received(files: &Files, options: &[&str]) -> Host {
    let sender = Host::new(64);
    let kernel = files.senders_kernel();
    let mut boot = vec!["--kernel", text(&kernel)];
    boot.extend(options);
    let mut vm = sender.boot(&boot, 4, 1);
    vm.expect("sender");
    vm.snapshot("s");
    vm.stop();
    let stream = files.0.path().join("stream");
    sender.run(&["send", "s", "--output", text(&stream)]).ok();
    let host = Host::new(64);
    host.run(&["receive", text(&stream)]).ok();
    host
}

fn listed(host: &Host, name: &str) -> Value {
    let all = host.json(&["snapshots"]);
    let mut all = all.as_array().unwrap().iter();
    all.find(|entry| entry["snapshot"] == name).unwrap().clone()
}

/// Takes a checkpoint, and returns its name.
fn checkpoint(host: &Host, vm: &Vm<'_>) -> String {
    host.json(&["checkpoint", &vm.name, "--every", "1s", "--keep", "1"]);
    while vm.status()["ring"]["taken_count"].as_u64() == Some(0) {
        std::thread::sleep(Duration::from_millis(10));
    }
    host.json(&["checkpoint", &vm.name, "--stop"]);
    let all = host.json(&["snapshots"]);
    let mut names = all.as_array().unwrap().iter();
    let found =
        names.find_map(|entry| entry["snapshot"].as_str().filter(|name| name.contains('@')));
    found.unwrap().to_owned()
}

/// Has the guest reboot, and waits for the word of the kernel that it boots.
fn assert_reboots_with(vm: &mut Vm<'_>, word: &str) {
    vm.console().drain();
    vm.console().say("reboot");
    assert_eq!(vm.expect(""), word);
}

/// Has the guest reboot, which must end the VM.
fn assert_reboot_ends(host: &Host, mut vm: Vm<'_>) {
    vm.console().say("reboot");
    vm.wait_gone();
    let said = "the guest has rebooted, and its VM ends: the machine has no kernel to boot";
    assert!(host.is_logged(said));
}

#[test]
fn disks_of_a_foreign_snapshot_must_be_given() {
    let files = Files::new();
    let disk = files.disk("senders-disk");
    let host = received(&files, &["--disk", text(&disk)]);
    assert_eq!(listed(&host, "s")["foreign"], true);
    // Not a disk any more: whoever opens it notices.
    fs::remove_file(&disk).unwrap();
    mkfifo(&disk, Mode::S_IRWXU).unwrap();
    let refused = host.run(&["restore", "s", "--detach"]);
    let refused = refused.refused(4, "came from elsewhere");
    for part in [text(&disk), "--disk FILE", "nvvmm adopt s"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    let own = files.disk("own-disk");
    let vm = host.restore("s", &["--disk", text(&own)]);
    assert_eq!(vm.status()["disks"][0]["path"], text(&own));
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn a_guest_that_reboots_does_not_boot_files_of_the_sender() {
    let files = Files::new();
    let host = received(&files, &[]);
    // A reader of this would wait for ever.
    let kernel = files.0.path().join("senders-kernel");
    fs::remove_file(&kernel).unwrap();
    mkfifo(&kernel, Mode::S_IRWXU).unwrap();
    let vm = host.restore("s", &[]);
    let notice = vm.status()["notice"].to_string();
    assert!(notice.contains("ends when its guest reboots"), "{notice}");
    assert_reboot_ends(&host, vm);
    host.assert_pool_clean();
}

#[test]
fn a_kernel_that_is_given_is_booted_and_a_snapshot_stays_foreign() {
    let files = Files::new();
    let host = received(&files, &["--disk", text(&files.disk("senders-disk"))]);
    let (kernel, disk) = (files.owners_kernel(), files.disk("own-disk"));
    let given = ["--disk", text(&disk), "--kernel", text(&kernel)];
    let mut vm = host.restore("s", &given);
    vm.snapshot("taken");
    let checkpoint = checkpoint(&host, &vm);
    assert_reboots_with(&mut vm, "owner");
    // The owner's kernel, in memory that was empty.
    vm.snapshot("rebooted");
    assert_eq!(listed(&host, "rebooted")["foreign"], false);
    vm.stop();
    for name in ["taken", &checkpoint] {
        assert_eq!(listed(&host, name)["foreign"], true, "{name}");
        let again = host.run(&["restore", name, "--detach"]);
        // It names what its owner gave, and nothing of the sender.
        again.refused(4, text(&disk));
        let decoded = host.json(&["inspect", name]).to_string();
        assert!(!decoded.contains("senders-"), "{decoded}");
    }
    let vm = host.restore("taken", &["--disk", text(&disk)]);
    assert_reboot_ends(&host, vm);
    host.assert_pool_clean();
}

#[test]
fn a_rewind_keeps_the_files_of_the_vm() {
    let files = Files::new();
    let host = received(&files, &[]);
    let kernel = files.owners_kernel();
    let mut vm = host.boot(&["--kernel", text(&kernel)], 4, 1);
    host.run(&["rewind", &vm.name, "--to", "s"]).ok();
    assert_reboots_with(&mut vm, "owner");
    host.run(&["rewind", &vm.name, "--to", "s"]).ok();
    vm.snapshot("later");
    assert_eq!(listed(&host, "later")["foreign"], true);
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn an_adopted_snapshot_is_as_one_that_was_taken_here() {
    let files = Files::new();
    let disk = files.disk("senders-disk");
    let host = received(&files, &["--disk", text(&disk)]);
    let refused = host.run(&["adopt", "s"]);
    assert!(refused.stdout.contains(text(&disk)), "{}", refused.stdout);
    assert!(refused.stdout.contains("senders-kernel"));
    refused.refused(4, "not adopted");
    assert_eq!(listed(&host, "s")["foreign"], true);
    host.run(&["adopt", "s", "--yes"]).ok();
    assert_eq!(listed(&host, "s")["foreign"], false);
    let mut vm = host.restore("s", &[]);
    assert_reboots_with(&mut vm, "sender");
    vm.stop();
    host.run(&["adopt", "s"]).ok();
    host.assert_pool_clean();
}

#[test]
fn a_snapshot_that_was_taken_here_reboots_as_before() {
    let files = Files::new();
    let kernel = files.senders_kernel();
    let host = Host::new(64);
    let mut vm = host.boot(&["--kernel", text(&kernel)], 4, 1);
    vm.expect("sender");
    vm.snapshot("s");
    // The kernel that it was started with, whatever takes its name.
    fs::remove_file(&kernel).unwrap();
    mkfifo(&kernel, Mode::S_IRWXU).unwrap();
    assert_reboots_with(&mut vm, "sender");
    assert_reboots_with(&mut vm, "sender");
    vm.stop();
    // The name is a pipe now: the restore goes on without it, and a reboot names it.
    let mut vm = host.restore("s", &[]);
    vm.console().say("reboot");
    vm.wait_gone();
    assert!(host.is_logged("is a pipe, not a regular file"));
    fs::remove_file(&kernel).unwrap();
    files.senders_kernel();
    let mut vm = host.restore("s", &[]);
    assert_reboots_with(&mut vm, "sender");
    vm.stop();
    let own = files.owners_kernel();
    let mut vm = host.restore("s", &["--kernel", text(&own)]);
    assert_reboots_with(&mut vm, "owner");
    vm.stop();
    host.assert_pool_clean();
}

#[test]
fn a_kernel_that_is_a_pipe_or_a_device_is_refused_and_not_waited_for() {
    let files = Files::new();
    let host = Host::new(64);
    let pipe = files.0.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let empty = files.put("empty", b"");
    let kernel = files.owners_kernel();
    for (kernel, initramfs, named) in [
        (pipe.as_path(), None, "is a pipe"),
        (Path::new("/dev/zero"), None, "is a device"),
        (&kernel, Some(pipe.as_path()), "is a pipe"),
        (&kernel, Some(Path::new("/dev/zero")), "is a device"),
        (&kernel, Some(empty.as_path()), "is empty"),
    ] {
        let mut arguments = vec!["run", "--detach", "--kernel", text(kernel)];
        arguments.extend(
            initramfs
                .iter()
                .flat_map(|path| ["--initramfs", text(path)]),
        );
        host.run(&arguments).refused(2, named);
    }
    host.assert_pool_clean();
}

/// Commits a foreign snapshot with this state.
fn commit_foreign(pool: &Path, kind: SnapshotKind, name: &str, state: &[u8]) {
    let pool = Pool::open(pool).unwrap();
    let holder = pool.hold("forger").unwrap();
    holder.mark_foreign();
    let new = NewSnapshot {
        kind,
        name,
        parent: None,
        base: None,
        maps: vec![NewMap::memory(4 << 20, &[])],
        state,
        frames_new: 0,
    };
    let reservation = holder.reserve(0).unwrap();
    holder.commit_snapshot(new, reservation).unwrap();
}

#[test]
fn nothing_in_a_received_state_reaches_the_terminal_as_an_escape() {
    let files = Files::new();
    let host = received(&files, &["--disk", text(&files.disk("senders-disk"))]);
    let pool = Pool::open(host.pool()).unwrap();
    let mut saved = SavedVm::decode(&pool.read_state(pool.find("s").unwrap().id).unwrap()).unwrap();
    let evil = "/k\x1b]0;owned\x07\u{9b}2J\u{202e}\nnvvmm: all is well";
    saved.spec.kernel = Some(evil.into());
    saved.spec.cmdline = evil.to_owned();
    let mut disks: Vec<_> = saved.spec.disks().cloned().collect();
    disks[0].source = DiskSource::File(evil.into());
    assert!(saved.spec.replace_disks(&disks));
    let mut extra = saved.machine.devices[0].clone();
    extra.instance = evil.to_owned();
    saved.machine.devices.push(extra);
    let state = saved.encode().unwrap();
    drop(pool);
    commit_foreign(host.pool(), SnapshotKind::Vm, "evil", &state);
    let own = files.disk("own-disk");
    for arguments in [
        &["inspect", "evil"][..],
        &["inspect", "evil", "--json"],
        &["adopt", "evil"],
        &["restore", "evil", "--detach"],
        &["restore", "evil", "--detach", "--disk", text(&own)],
    ] {
        let outcome = host.run(arguments);
        for text in [&outcome.stdout, &outcome.stderr] {
            let obeyed = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
            assert!(!text.contains(obeyed), "{arguments:?}: {text:?}");
            let forged = text.lines().any(|line| line == "nvvmm: all is well");
            assert!(!forged, "{arguments:?}: {text}");
        }
        let told = outcome.stdout + &outcome.stderr;
        assert!(told.contains("owned"), "{arguments:?}: {told}");
    }
}

/// An image of a process with these users.
fn image(user: u32) -> Vec<u8> {
    let mut thread = Thread {
        tid: 77,
        ..Thread::default()
    };
    thread.credentials.ids.users = [user; 4];
    thread.credentials.ids.groups = [1000; 4];
    let process = Process {
        pid: 77,
        vdso: 0x7fff_0000_0000,
        actions: vec![SignalAction::default(); 64],
        threads: vec![thread],
        ..Process::default()
    };
    let mut image = Image {
        processes: vec![process],
        ..Image::default()
    };
    image.kernel.vdso_bytes = 0x2000;
    let image = image.encode().unwrap();
    SavedProcess { image }.encode()
}

#[test]
fn a_foreign_process_becomes_root_only_if_that_is_allowed() {
    let host = Host::new(64);
    commit_foreign(host.pool(), SnapshotKind::Process, "root", &image(0));
    commit_foreign(host.pool(), SnapshotKind::Process, "user", &image(1000));
    commit_foreign(host.pool(), SnapshotKind::Process, "adopted", &image(0));
    let image = b"no image".to_vec();
    let none = SavedProcess { image }.encode();
    commit_foreign(host.pool(), SnapshotKind::Process, "none", &none);
    host.run(&["adopt", "adopted", "--yes"]).ok();
    let pool = Pool::open(host.pool()).unwrap();
    let spec = VmSpec::builder(required("NVVMM_BAREMETAL_GUEST"))
        .memory_bytes(4 << 20)
        .build();
    let vm = LibraryVm::boot(&pool, spec, VmOptions::named("vm")).unwrap();
    let control = vm.control();
    // True if the agent is asked for it.
    let asks = |name: &str, allow_root: bool| {
        let (vms_end, mut agents_end) = UnixStream::pair().unwrap();
        let request = RestartRequest {
            name: name.to_owned(),
            attach: false,
            terminal: None,
            window: false,
            allow_root,
        };
        agents_end.set_nonblocking(true).unwrap();
        let asked = std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                let error = control.restart(&request, &vms_end).unwrap_err();
                vms_end.shutdown(std::net::Shutdown::Both).unwrap();
                error
            });
            let mut first = [0];
            let asked = loop {
                match agents_end.read(&mut first) {
                    Ok(count) => break count > 0,
                    Err(error) if error.kind() == IoErrorKind::WouldBlock => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Err(error) => panic!("{error}"),
                }
            };
            // No agent answers.
            agents_end.shutdown(std::net::Shutdown::Both).unwrap();
            (asked, asking.join().unwrap())
        });
        let (asked, error) = asked;
        assert_eq!(error.kind, ErrorKind::Refused, "{name}: {error}");
        (asked, error.to_string())
    };
    let (asked, why) = asks("root", false);
    assert!(
        !asked && why.contains("process 77 of it would have the user 0"),
        "{why}"
    );
    assert!(!asks("none", false).0);
    assert!(asks("root", true).0);
    assert!(asks("user", false).0);
    assert!(asks("adopted", false).0);
    vm.stop();
    drop(vm);
    host.assert_pool_clean();
}
