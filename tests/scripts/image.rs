//! scripts/debian-image.sh. Its image is made and booted where that is asked for.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::{Duration, Instant},
};

use crate::place::{Place, ok, refused};

/// Several times what an emulated CPU takes for the boot.
const PATIENCE: Duration = Duration::from_secs(400);

#[test]
fn what_cannot_be_is_refused_before_anything_is_fetched() {
    let place = Place::new();
    for name in ["debian.img", "other.vmlinuz", "third.initrd"] {
        place.write(&format!("work/{name}"), "precious");
    }
    place.write("work/empty", "\n");
    for (arguments, message) in [
        (&[][..], "debian.img exists"),
        (&["--output", "other.img"], "other.vmlinuz exists"),
        (&["--output", "third.img"], "third.initrd exists"),
        (&["--output", "none/x.img"], "there is no directory none"),
        (&["--output", ".", "--force"], "is a directory"),
        (&["--size", "x"], "--size x is not a size"),
        (&["--size", "64M"], "too small"),
        (&["--release", "../trixie"], "not a release of Debian"),
        (
            &["--include", "nano,--help"],
            "'--help' is not the name of a package",
        ),
        (&["--mode", "proot"], "--mode proot"),
        (&["--agent", "none", "--force"], "there is no file none"),
        (&["--password-file", "empty", "--force"], "empty first line"),
        (
            &["--mode", "fakechroot", "--force", "--release", "potato"],
            "only the host's own release",
        ),
        (&["--wrong"], "unknown argument --wrong"),
    ] {
        let mut script = place.script("debian-image.sh");
        script.args(arguments);
        let said = refused(script);
        assert!(said.contains(message), "{arguments:?}: {said}");
        assert!(
            !said.contains("apt-get was called"),
            "{arguments:?}: {said}"
        );
    }
    let kept = fs::read_to_string(place.at("work/debian.img")).unwrap();
    assert_eq!(kept, "precious");
}

#[test]
fn scripts_for_users_say_what_they_do() {
    let place = Place::new();
    for name in [
        "debian-image.sh",
        "demo.sh",
        "guest-image.sh",
        "install.sh",
        "nested.sh",
        "netns.sh",
        "package.sh",
        "quickstart.sh",
    ] {
        let mut script = place.script(name);
        script.arg("--help");
        let help = ok(script);
        assert!(
            help.contains(&format!("\n  scripts/{name} ")),
            "{name}: {help}"
        );
        assert!(help.contains("--help"), "{name}: {help}");
        let mut script = place.script(name);
        script.arg("--no-such-option");
        assert!(refused(script).contains("--help"), "{name}");
    }
}

/// An image in a directory of its own, made by these options.
fn make(place: &Place, options: &[&str]) {
    let mut script = Command::new(crate::place::root().join("scripts/debian-image.sh"));
    script.current_dir(place.at("work")).args(options);
    let told = ok(script);
    let run = "nvvmm run --name debian --kernel debian.vmlinuz --initramfs debian.initrd";
    assert!(
        told.starts_with(run) && told.contains("--disk debian.img,ro"),
        "{told}"
    );
}

/// A machine of QEMU with a serial console, in which the image boots. It has PCI: without KVM,
/// Linux finds no timer in the microvm of QEMU.
struct Machine {
    qemu: Child,
    output: Receiver<Vec<u8>>,
    text: String,
}

impl Machine {
    fn boot(work: &Path, read_only: bool) -> Self {
        let drive = if read_only { "on" } else { "off" };
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.current_dir(work)
            .args("-M pc -accel tcg -cpu max -m 512M -nodefaults".split(' '))
            .args("-no-reboot -display none -serial stdio -kernel debian.vmlinuz".split(' '))
            .args([
                "-initrd",
                "debian.initrd",
                "-append",
                "console=ttyS0 reboot=a quiet",
            ])
            .args(["-device", "virtio-blk-pci,drive=disk", "-drive"])
            .arg(format!(
                "id=disk,file=debian.img,format=raw,if=none,readonly={drive}"
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut qemu = qemu.spawn().expect("qemu-system-x86_64 runs");
        let mut reader = qemu.stdout.take().unwrap();
        let (sender, output) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            qemu,
            output,
            text: String::new(),
        }
    }

    /// Waits for this text on the console, and forgets all up to it.
    fn expect(&mut self, text: &str) {
        let until = Instant::now() + PATIENCE;
        while !self.text.contains(text) {
            let left = until.saturating_duration_since(Instant::now());
            let chunk = { self.output.recv_timeout(left) }
                .unwrap_or_else(|_| panic!("{text:?} never came: {}", self.text));
            self.text.push_str(&String::from_utf8_lossy(&chunk));
        }
        let at = self.text.find(text).unwrap() + text.len();
        self.text.drain(..at);
    }

    fn type_in(&mut self, line: &str) {
        let keyboard = self.qemu.stdin.as_mut().unwrap();
        keyboard.write_all(format!("{line}\n").as_bytes()).unwrap();
        keyboard.flush().unwrap();
    }

    /// Runs a command at the prompt of root. Its answer must have this text.
    fn run(&mut self, command: &str, answer: &str) {
        self.type_in(command);
        self.expect("\n");
        self.expect(answer);
        self.expect("# ");
    }

    fn power_off(mut self) {
        self.type_in("poweroff");
        let _ = self.qemu.wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// The agent is at work, nothing has failed, and the root file system is as it should be.
fn is_up(machine: &mut Machine, root: &str) {
    machine.run("id -un", "root");
    machine.run("systemctl is-active nvvmm-agent", "active");
    machine.run("systemctl --failed", "0 loaded units listed");
    machine.run("findmnt -no FSTYPE /", root);
    machine.run("grep ^PRETTY /etc/os-release", "Debian");
}

#[test]
#[ignore = "fetches a Debian and boots it on an emulated CPU, in some minutes"]
fn an_image_boots_with_a_login_and_the_agent() {
    let place = Place::with_packages_of_the_host();
    make(&place, &[]);
    let work = place.at("work");
    // Changes of a disk that is read-only are in memory.
    let before = fs::metadata(work.join("debian.img"))
        .unwrap()
        .modified()
        .unwrap();
    let mut machine = Machine::boot(&work, true);
    machine.expect("root@debian:~# ");
    is_up(&mut machine, "overlay");
    machine.run("echo draft > /note; cat /note", "draft");
    machine.power_off();
    assert_eq!(
        fs::metadata(work.join("debian.img"))
            .unwrap()
            .modified()
            .unwrap(),
        before
    );

    // Changes of a disk that is not are on it.
    for command in ["echo draft > /note; cat /note", "cat /note"] {
        let mut machine = Machine::boot(&work, false);
        machine.expect("root@debian:~# ");
        is_up(&mut machine, "ext4");
        machine.run(command, "draft");
        machine.power_off();
    }
    let mut check = Command::new("e2fsck");
    check.args(["-fn", "debian.img"]).current_dir(&work);
    ok(check);
}

#[test]
#[ignore = "fetches a Debian and boots it on an emulated CPU, in some minutes"]
fn a_password_is_asked_for_and_packages_are_included() {
    let place = Place::with_packages_of_the_host();
    place.write("work/password", "a b$1'\n");
    let options = [
        "--password-file",
        "password",
        "--include",
        "tmux",
        "--release",
        "bookworm",
    ];
    make(&place, &options);
    let mut machine = Machine::boot(&place.at("work"), true);
    for (password, answer) in [("wrong", "Login incorrect"), ("a b$1'", "root@debian:~# ")] {
        machine.expect("login: ");
        machine.type_in("root");
        machine.expect("Password: ");
        machine.type_in(password);
        machine.expect(answer);
    }
    machine.run("tmux -V", "tmux 3");
    is_up(&mut machine, "overlay");
    machine.power_off();
}
