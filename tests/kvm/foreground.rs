//! A VM in the foreground of a terminal: its console there, and the ways to leave it.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nvvmm_tests::{Host, Vm, required, wait_gone};

/// Longest wait for a text: at least ten times what the slowest one takes with an emulated CPU.
const PATIENCE: Duration = Duration::from_secs(300);

/// A command on a terminal.
struct Terminal {
    screen: File,
    shown: String,
    command: Child,
}

impl Terminal {
    /// Boots the bare-metal guest in the foreground, and waits for its console.
    fn run(host: &Host, name: &str) -> Self {
        let kernel = required("NVVMM_BAREMETAL_GUEST");
        let kernel = kernel.to_str().unwrap();
        let arguments = ["run", "-it", "-n", name, "-m", "32M", "--kernel", kernel];
        let pty = openpty(None, None).unwrap();
        let slave = || pty.slave.try_clone().unwrap();
        let mut command = host.command(&arguments);
        let command = command.stdin(slave()).stdout(slave()).stderr(slave());
        let command = command.spawn().unwrap();
        let screen = File::from(pty.master);
        let shown = String::new();
        let mut terminal = Self {
            screen,
            shown,
            command,
        };
        terminal.sees("Ctrl-] leaves its console");
        terminal.types("stat\n");
        terminal.sees("@ stat");
        terminal
    }

    fn sees(&mut self, text: &str) {
        let begun = Instant::now();
        let mut part = [0; 1024];
        while !self.shown.contains(text) {
            assert!(begun.elapsed() < PATIENCE, "no {text}: {}", self.shown);
            let count = self.screen.read(&mut part).unwrap_or(0);
            assert!(count > 0, "no {text}: {}", self.shown);
            self.shown
                .push_str(&String::from_utf8_lossy(&part[..count]));
        }
        self.shown.clear();
    }

    fn types(&mut self, keys: &str) {
        self.screen.write_all(keys.as_bytes()).unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.command.id() as i32), signal).unwrap();
    }

    fn code(mut self) -> Option<i32> {
        // The command does not wait for one who reads slowly.
        let mut rest = Vec::new();
        let _ = self.screen.read_to_end(&mut rest);
        self.command.wait().unwrap().code()
    }
}

#[test]
fn ctrl_bracket_and_a_closed_terminal_leave_a_vm_in_the_background() {
    let host = Host::new(256);
    let mut terminal = Terminal::run(&host, "left");
    terminal.types("fill 8 1\n");
    terminal.sees("@ fill");
    terminal.types("\x1d\r");
    terminal.sees("left the console, left goes on");
    assert_eq!(terminal.code(), Some(0));
    let mut left = Vm::attach(&host, "left".into());
    assert_ne!(left.status()["state"], "stopped");
    assert!(
        left.ask("check").contains("check ok frames=2048"),
        "it is the same guest"
    );
    host.run(&["kill", "left"]).ok();
    wait_gone(left.pid);

    let terminal = Terminal::run(&host, "hung");
    terminal.signal(Signal::SIGHUP);
    assert_eq!(terminal.code(), Some(0));
    Vm::attach(&host, "hung".into()).stop();
    host.assert_pool_clean();
}

#[test]
fn a_vm_in_the_foreground_ends_by_question_by_signal_and_by_itself() {
    let host = Host::new(256);
    let mut terminal = Terminal::run(&host, "asked");
    terminal.types("\x1dqn");
    terminal.sees("back at the console of asked");
    terminal.types("\x1dqy");
    terminal.sees("nvvmm: asked was stopped");
    assert_eq!(terminal.code(), Some(0));
    assert_eq!(host.run(&["ps", "-q"]).ok().stdout, "");

    let mut terminal = Terminal::run(&host, "signalled");
    terminal.signal(Signal::SIGTERM);
    terminal.sees("nvvmm: signalled was stopped");
    assert_eq!(terminal.code(), Some(0));

    let mut terminal = Terminal::run(&host, "off");
    terminal.types("bye\n");
    terminal.sees("nvvmm: off switched itself off");
    assert_eq!(terminal.code(), Some(0));

    let mut terminal = Terminal::run(&host, "killed");
    host.run(&["kill", "killed"]).ok();
    terminal.sees("the VM process was killed by signal 9");
    assert_eq!(terminal.code(), Some(1));
    host.assert_pool_clean();
}
