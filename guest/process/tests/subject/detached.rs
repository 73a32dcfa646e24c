//! Subjects for tests that cannot be their parents, as those in guests: `subject start SCENARIO
//! DIRECTORY` sets one up, leaves it running and prints its number; `subject finish PID DIRECTORY`
//! compares what /proc says of it with what it said then, tells it to go on, and succeeds if it
//! passed.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::proc_view::{ProcView, assert_same, proc_view};

/// Only a test that hangs comes near it, on an emulated processor too.
const PATIENCE: Duration = Duration::from_secs(200);

/// Starts a scenario in a directory that it may make.
pub fn start(scenario: &str, directory: &Path) {
    fs::create_dir_all(directory).expect("a directory");
    let log = File::create(directory.join("log")).expect("a log");
    let mut command = Command::new(std::env::current_exe().expect("a program"));
    command.arg(scenario).arg(directory).current_dir(directory);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log);
    let mut child = command.spawn().expect("a subject starts");
    wait("it is ready", directory, || {
        let ended = child.try_wait().expect("a child");
        let log = || log_of(directory);
        assert!(ended.is_none(), "it has ended ({ended:?}): {}", log());
        directory.join("ready").exists()
    });
    let pid = child.id() as i32;
    let proc_view = postcard::to_stdvec(&proc_view(pid)).expect("room");
    fs::write(directory.join("proc_view"), proc_view).expect("a file");
    eprint!("{}", log_of(directory));
    println!("{pid}");
}

/// Lets it verify itself.
pub fn finish(pid: i32, directory: &Path) {
    let before = fs::read(directory.join("proc_view")).expect("a proc_view");
    let before: ProcView = postcard::from_bytes(&before).expect("a proc_view");
    assert_same(&before, pid);
    fs::write(directory.join("go"), "").expect("a file");
    wait("it ends", directory, || {
        !Path::new(&format!("/proc/{pid}")).exists()
    });
    for name in ["passed", "go"] {
        let removed = fs::remove_file(directory.join(name));
        assert!(removed.is_ok(), "it did not pass: {}", log_of(directory));
    }
}

fn wait(what: &str, directory: &Path, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(
            began.elapsed() < PATIENCE,
            "waited in vain until {what}: {}",
            log_of(directory)
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn log_of(directory: &Path) -> String {
    fs::read_to_string(directory.join("log")).unwrap_or_default()
}
