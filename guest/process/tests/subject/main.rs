//! Sets up what a test is about, says that it is ready, waits, and verifies that nothing of it was
//! lost: it is captured and restarted while it waits. `subject SCENARIO DIRECTORY`; the directory
//! gets `ready`, then `passed`, and is told `go`. What else it can be asked: see stage.

mod files;
mod identity;
mod memory;
#[path = "../portrait.rs"]
mod portrait;
mod processes;
mod refused;
mod registers;
mod signals;
mod stage;
mod syscalls;
mod threads;

use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a scenario does after the wait. It panics where something is wrong.
type Check = Box<dyn FnOnce()>;

/// What a scenario has to work with.
struct Scene {
    directory: PathBuf,
}

impl Scene {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Waits until it is told to go on. Short sleeps: it is frozen inside of one, mostly.
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
        ["start", scenario, directory] => stage::start(scenario, directory.as_ref()),
        ["finish", pid, directory] => {
            stage::finish(pid.parse().expect("a number"), directory.as_ref())
        }
        [scenario, directory] => play(scenario, directory.into()),
        _ => panic!("subject SCENARIO DIRECTORY"),
    }
}

fn play(name: &str, directory: PathBuf) {
    let scene = Scene { directory };
    let families = [
        memory::scenario,
        threads::scenario,
        signals::scenario,
        files::scenario,
        identity::scenario,
        registers::scenario,
        syscalls::scenario,
        processes::scenario,
        refused::scenario,
    ];
    let check = families
        .iter()
        .find_map(|family| family(name, &scene))
        .expect("a known scenario");
    // Under its name when nothing of it is open any more.
    std::fs::write(scene.path("ready.new"), "").expect("a directory to write to");
    std::fs::rename(scene.path("ready.new"), scene.path("ready")).expect("a directory to write to");
    scene.wait();
    check();
    std::fs::write(scene.path("passed"), "").expect("a directory to write to");
}
