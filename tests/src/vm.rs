//! A VM of a test.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{Console, Host};

/// Longest wait for a VM: at least ten times what a step takes under emulation.
const PATIENCE: Duration = Duration::from_secs(300);

/// A VM that runs in the background.
#[derive(Debug)]
pub struct Vm<'h> {
    host: &'h Host,
    /// Name of the VM.
    pub name: String,
    /// Process ID of the VM process.
    pub pid: i32,
    console: Option<Console>,
}

impl<'h> Vm<'h> {
    /// The running VM with this name.
    pub fn attach(host: &'h Host, name: String) -> Self {
        let mut vm = Self {
            host,
            name,
            pid: 0,
            console: None,
        };
        vm.pid = vm.status()["pid"].as_i64().expect("a pid") as i32;
        vm
    }

    /// The VM's entry in the output of `nvvmm ps`.
    pub fn status(&self) -> Value {
        let all = self.host.json(&["ps"]);
        let found = all
            .as_array()
            .and_then(|vms| vms.iter().find(|vm| vm["vm"] == *self.name));
        found
            .unwrap_or_else(|| panic!("{} is not among {all}", self.name))
            .clone()
    }

    /// The VM's counters.
    pub fn stats(&self) -> Value {
        self.host.json(&["stats", &self.name])
    }

    /// The VM's console. The first use connects to it.
    pub fn console(&mut self) -> &mut Console {
        let path: PathBuf = self.host.runtime().join(format!("{}.console", self.name));
        self.console.get_or_insert_with(|| Console::connect(&path))
    }

    /// Types a command and waits for the answer `@ <word of the command> ...`.
    pub fn ask(&mut self, command: &str) -> String {
        let word = command
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned();
        self.console().say(command);
        self.console().expect(&format!("@ {word}"), PATIENCE)
    }

    /// Waits for a line of the guest that contains `what`.
    pub fn expect(&mut self, what: &str) -> String {
        self.console().expect(what, PATIENCE)
    }

    /// Takes a snapshot and returns its report.
    pub fn snapshot(&self, name: &str) -> Value {
        self.host.json(&["snapshot", &self.name, name])
    }

    /// Pauses the VM.
    pub fn pause(&self) {
        self.host.run(&["pause", &self.name]).ok();
    }

    /// Resumes the VM.
    pub fn resume(&self) {
        self.host.run(&["resume", &self.name]).ok();
    }

    /// Stops the VM and waits until its process is gone.
    pub fn stop(self) {
        self.host.run(&["stop", &self.name]).ok();
        self.wait_gone();
    }

    /// Kills the VM process, as a crash would.
    pub fn kill(self) {
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.pid),
            nix::sys::signal::Signal::SIGKILL,
        )
        .expect("the VM process is there to be killed");
        self.wait_gone();
    }

    /// Waits until the VM process has ended by itself.
    pub fn wait_gone(&self) {
        wait_gone(self.pid);
    }
}

/// Waits until a process is gone, with its files and locks.
pub fn wait_gone(pid: i32) {
    let until = Instant::now() + PATIENCE;
    while !is_gone(pid) {
        assert!(Instant::now() < until, "process {pid} does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// True if a process has ended. Until its parent waits for it, its first thread stays as a zombie.
/// The first thread may be a zombie while other threads still hold the process's files and locks.
fn is_gone(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    stat.map_or(true, |stat| {
        let state = stat.rsplit(')').next().unwrap_or_default();
        state.trim_start().starts_with('Z') && threads <= 1
    })
}
