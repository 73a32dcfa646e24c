//! Sets up what a test is about, reports that it is ready, waits, and verifies that nothing was
//! lost. It is captured and restarted while it waits. `subject SCENARIO DIRECTORY`: the directory
//! gets the files `ready`, then `passed`; the test makes `go`. More commands are in module
//! `detached`.

mod confined;
mod detached;
mod event_loops;
mod files;
mod held;
mod identity;
mod listeners;
mod memory;
#[path = "../proc_view.rs"]
mod proc_view;
mod processes;
mod refused;
mod registers;
mod settings;
mod signals;
mod sockets;
mod syscalls;
mod terminals;
mod threads;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The check of a scenario after the wait. It panics where something is wrong.
type Check = Box<dyn FnOnce()>;

/// Files of a scenario.
struct Fixture {
    directory: PathBuf,
}

impl Fixture {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Waits for `go`, in short sleeps: mostly it is frozen inside of one.
    fn wait(&self) {
        wait_for(&self.path("go"));
    }
}

/// Waits until a file is there.
fn wait_for(path: &Path) {
    while !path.exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["start", scenario, directory] => detached::start(scenario, directory.as_ref()),
        ["finish", pid, directory] => {
            detached::finish(pid.parse().expect("a number"), directory.as_ref())
        }
        [scenario, directory] => run(scenario, directory.into()),
        _ => panic!("subject SCENARIO DIRECTORY"),
    }
}

fn run(name: &str, directory: PathBuf) {
    let fixture = Fixture { directory };
    let families = [
        memory::scenario,
        threads::scenario,
        signals::scenario,
        files::scenario,
        held::scenario,
        event_loops::scenario,
        settings::scenario,
        sockets::scenario,
        confined::scenario,
        listeners::scenario,
        identity::scenario,
        registers::scenario,
        syscalls::scenario,
        processes::scenario,
        terminals::scenario,
        refused::scenario,
    ];
    let check = families
        .iter()
        .find_map(|family| family(name, &fixture))
        .expect("a known scenario");
    // Under its name when nothing of it is open any more.
    std::fs::write(fixture.path("ready.new"), "").expect("a directory to write to");
    std::fs::rename(fixture.path("ready.new"), fixture.path("ready"))
        .expect("a directory to write to");
    fixture.wait();
    check();
    std::fs::write(fixture.path("passed"), "").expect("a directory to write to");
}
