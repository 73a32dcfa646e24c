//! The nested harness, with a stand-in for QEMU that never ends.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::place::{Place, ok, refused, root};

const QEMU: &str = r#"
[[ $1 != --version ]] || { echo "QEMU emulator version 10.0.0"; exit; }
printf '%s\n' "$@" >"$HOME/qemu.new"
mv "$HOME/qemu.new" "$HOME/qemu"
exec sleep 1000
"#;

/// A place with a kernel that is ready to be booted, and that QEMU.
fn place() -> Place {
    let place = Place::new();
    place.stand_in("qemu-system-x86_64", QEMU);
    place.write("cache/nested/full/version", "1.2.3\n");
    place.write("cache/nested/full/boot/vmlinuz-1.2.3", "");
    place.write("cache/nested/full/initramfs.cpio", "");
    let mut stamp = Command::new("bash");
    stamp.current_dir(root().join("scripts")).args([
        "-c",
        "cat nested.sh lib/kernel.sh lib/nested-init.sh | cksum",
    ]);
    place.write("cache/nested/full/initramfs.stamp", &ok(stamp));
    place
}

/// A nested.sh in the background. Dropping it ends it and its QEMU.
struct Running(Child);

impl Running {
    fn start(place: &Place, results: &str) -> Self {
        let mut script = place.script("nested.sh");
        script
            .args(["--results", results, "--memory", "1G", "/bin/true"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let running = Self(script.spawn().unwrap());
        let until = Instant::now() + Duration::from_secs(30);
        while !place.at("home/qemu").exists() {
            assert!(Instant::now() < until, "it never started QEMU");
            std::thread::sleep(Duration::from_millis(20));
        }
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // timeout(1) passes it on.
        let pid = Pid::from_raw(self.0.id().cast_signed());
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

#[test]
fn a_second_host_with_the_same_results_is_refused_at_once() {
    let place = place();
    let results = place.at("results");
    let first = Running::start(&place, results.to_str().unwrap());
    fs::remove_file(place.at("home/qemu")).unwrap();
    // A symbolic link is the same directory.
    std::os::unix::fs::symlink(&results, place.at("again")).unwrap();
    for name in ["results", "again"] {
        let mut second = place.script("nested.sh");
        second.arg("--results").arg(place.at(name)).arg("/bin/true");
        let message = refused(second);
        assert!(message.contains("another nested.sh"), "{message}");
        assert!(message.contains("results"), "{message}");
    }
    assert!(!place.at("home/qemu").exists(), "a second QEMU was started");
    assert!(
        results.join(".nested/command").exists(),
        "the first lost its command"
    );

    // Another directory, or the same one later, is fine.
    let other = Running::start(&place, place.at("other").to_str().unwrap());
    drop((first, other));
    fs::remove_file(place.at("home/qemu")).unwrap();
    drop(Running::start(&place, results.to_str().unwrap()));
}

#[test]
fn a_shell_needs_a_terminal_and_no_script() {
    let place = place();
    let mut without = place.script("nested.sh");
    without.arg("--shell").stdin(Stdio::null());
    assert!(refused(without).contains("needs a terminal"));
    let mut both = place.script("nested.sh");
    both.args(["--shell", "/bin/true"]);
    assert!(refused(both).contains("takes no script"));
    let message = refused(place.script("nested.sh"));
    assert!(message.contains("give one, or --shell"), "{message}");
    assert!(!place.at("home/qemu").exists());
}

#[test]
fn a_shell_has_the_terminal_as_a_console_of_the_host() {
    let place = place();
    place.stand_in(
        "qemu-system-x86_64",
        &QEMU.replace("sleep 1000", "test -t 0"),
    );
    let mut shell = place.command("script");
    let nested = root().join("scripts/nested.sh");
    shell.args([
        "-qec",
        &format!("{} --memory 1G --shell", nested.display()),
        "/dev/null",
    ]);
    let _ = shell.output().unwrap();
    let arguments = fs::read_to_string(place.at("home/qemu")).unwrap();
    assert!(
        arguments.contains("stdio,id=terminal,signal=off\n"),
        "{arguments}"
    );
    assert!(
        arguments.contains("virtconsole,chardev=terminal\n"),
        "{arguments}"
    );
    assert!(arguments.contains("nested.shell=1"), "{arguments}");
}
