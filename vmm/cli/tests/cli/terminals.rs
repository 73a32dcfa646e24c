//! Keys on the terminal of a console.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Child;
use std::time::Instant;

use nix::pty::openpty;

use crate::played_vm::PlayedVm;
use crate::world::{HUNG, World};

/// `nvvmm console web` on a terminal, with this process as the guest.
struct Attached {
    vm: PlayedVm,
    guest: UnixStream,
    terminal: File,
    shown: String,
    child: Child,
}

impl Attached {
    fn to(world: &World, vm: PlayedVm) -> Self {
        let listener = UnixListener::bind(world.registry().paths("web").console).unwrap();
        let pty = openpty(None, None).unwrap();
        let slave = || pty.slave.try_clone().unwrap();
        let mut command = world.command(&["attach", "web"]);
        let command = command.stdin(slave()).stdout(slave()).stderr(slave());
        let child = command.spawn().unwrap();
        let (guest, _) = listener.accept().unwrap();
        guest.set_read_timeout(Some(HUNG)).unwrap();
        let mut attached = Self {
            vm,
            guest,
            terminal: File::from(pty.master),
            shown: String::new(),
            child,
        };
        attached.sees("Ctrl-] leaves it");
        attached
    }

    /// Reads the terminal until this is on it.
    fn sees(&mut self, text: &str) {
        let begun = Instant::now();
        let mut part = [0; 1024];
        while !self.shown.contains(text) {
            assert!(begun.elapsed() < HUNG, "{}", self.shown);
            let count = self.terminal.read(&mut part).unwrap();
            self.shown
                .push_str(&String::from_utf8_lossy(&part[..count]));
        }
        self.shown.clear();
    }

    fn types(&mut self, keys: &[u8]) {
        self.terminal.write_all(keys).unwrap();
    }

    fn guest_gets(&mut self, keys: &[u8]) {
        let mut got = vec![0; keys.len()];
        self.guest.read_exact(&mut got).unwrap();
        assert_eq!(got, keys);
    }
}

#[test]
fn ctrl_bracket_leaves_a_console_and_the_vm_goes_on() {
    let world = World::new();
    let mut attached = Attached::to(&world, PlayedVm::play(&world, "web"));
    attached.guest.write_all(b"login: ").unwrap();
    attached.sees("login: ");
    attached.types(b"root\x03\r");
    attached.guest_gets(b"root\x03\r");
    attached.types(b"\x1db");
    attached.sees("back at the console of web");
    attached.types(b"x");
    attached.guest_gets(b"x");
    attached.types(b"\x1d");
    attached.sees("Enter leaves the console, q ends web, b goes back");
    attached.types(b"\r");
    attached.sees("left the console, web goes on");
    assert!(attached.child.wait().unwrap().success());
    assert_eq!(world.nvvmm(&["ps", "-q"]).done(), "web\n");
}

#[test]
fn a_vm_is_ended_from_its_console_after_a_question() {
    let world = World::new();
    let vm = PlayedVm::play(&world, "web");
    let mut attached = Attached::to(&world, vm);
    attached.types(b"\x1dq");
    attached.sees("end web? Changes since its last snapshot are lost");
    attached.types(b"n");
    attached.sees("back at the console of web");
    assert_eq!(attached.vm.asked(), [""; 0]);
    attached.types(b"\x1dqy");
    attached.sees("web is asked to end");
    let begun = Instant::now();
    while attached.vm.asked() != ["stop"] {
        assert!(begun.elapsed() < HUNG);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    // The console stays as long as the VM.
    attached.guest.write_all(b"goodbye").unwrap();
    attached.sees("goodbye");
    attached.guest.shutdown(std::net::Shutdown::Both).unwrap();
    attached.sees("web closed its console");
    assert!(attached.child.wait().unwrap().success());
}
