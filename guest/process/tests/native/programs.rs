//! Programs that know nothing of this are captured in the middle of their work and restarted: what
//! they put out is the same as of a run that nobody interrupted.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use nvvmm_process::{
    CaptureOptions, CopiedPages, FreezeEnd, Frozen, Image, RestartOptions, check, restart,
};
use tempfile::TempDir;

use crate::harness::{can_run, one_at_a_time, output_of, spawn_alone};
use crate::workloads;

/// Time that it has computed when it is captured.
const WORKED: Duration = Duration::from_millis(100);
const CAPTURES: usize = 3;

fn command(directory: &Path, program: &[&str]) -> Command {
    let open = |name: &str| File::open(directory.join(name)).expect("an input");
    let create = |name: &str| File::create(directory.join(name)).expect("an output");
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).current_dir(directory);
    command
        .stdin(open("input"))
        .stdout(create("output"))
        .stderr(create("errors"));
    command
}

/// The time that a process has computed.
fn worked(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let behind_name = stat.rsplit(')').next().expect("a name");
    let words: Vec<&str> = behind_name.split_ascii_whitespace().collect();
    let ticks: u64 =
        words[11].parse::<u64>().expect("a number") + words[12].parse::<u64>().expect("a number");
    Duration::from_millis(ticks * 10)
}

/// True if it has ended; it waits to be reaped.
fn is_over(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    status.contains("State:\tZ")
}

fn outcome(directory: &Path) -> (Vec<u8>, String) {
    let read = |name: &str| std::fs::read(directory.join(name)).expect("an output");
    (
        read("output"),
        String::from_utf8_lossy(&read("errors")).into_owned(),
    )
}

/// Runs a program to its end, once as usual and once through captures and restarts.
pub fn goes_on(program: &[&str], input: &[u8]) {
    if !can_run() {
        return;
    }
    if output_of(Command::new(program[0]).arg("--version")).is_err() {
        eprintln!("SKIPPED: {} is not here", program[0]);
        return;
    }
    let directory = TempDir::new().expect("a directory");
    let directory = directory.path();
    std::fs::write(directory.join("input"), input).expect("an input");
    let status = command(directory, program).status().expect("it runs");
    let usual = outcome(directory);
    assert!(status.success() && !usual.0.is_empty(), "{}", usual.1);

    let pid = spawn_alone(&mut command(directory, program));
    let mut captures = 0;
    while captures < CAPTURES && !is_over(pid) {
        let until = Instant::now() + Duration::from_secs(60);
        while worked(pid) < WORKED && !is_over(pid) {
            assert!(Instant::now() < until, "it does not work");
            std::thread::sleep(Duration::from_millis(1));
        }
        // It goes on while this waits for other tests.
        let _alone = one_at_a_time();
        let Some((image, mut pages)) = capture(pid) else {
            break;
        };
        restart(&image, &RestartOptions::default(), None, &mut pages)
            .unwrap_or_else(|error| panic!("restart: {error}"));
        captures += 1;
    }
    assert!(captures > 0, "it was over before it was captured");
    let status = waitpid(Pid::from_raw(pid), None).expect("its end");
    let again = outcome(directory);
    assert_eq!(
        status,
        WaitStatus::Exited(Pid::from_raw(pid), 0),
        "{}",
        again.1
    );
    assert!(again == usual, "it has put out something else");
}

/// Captures and ends it, unless it is over.
fn capture(pid: i32) -> Option<(Image, CopiedPages)> {
    let options = CaptureOptions::default();
    let mut pages = CopiedPages::default();
    let captured = check(pid, options)
        .and_then(|_| Frozen::new(pid, false))
        .and_then(|frozen| {
            let image = frozen.capture(options, &mut pages)?.image;
            frozen.end(FreezeEnd::Kill)?;
            Ok(image)
        });
    match captured {
        Ok(image) => {
            waitpid(Pid::from_raw(pid), None).expect("its end");
            Some((image, pages))
        }
        Err(error) => {
            assert!(is_over(pid), "capture: {error}");
            None
        }
    }
}

#[test]
fn python_with_large_buffers() {
    goes_on(&["/usr/bin/python3", "-c", &workloads::python(16, 12)], b"");
}

#[test]
fn sqlite_in_the_middle_of_a_workload() {
    goes_on(
        &["sqlite3", ":memory:"],
        workloads::sqlite(150_000).as_bytes(),
    );
}

#[test]
fn xz_with_two_threads() {
    goes_on(&workloads::XZ, &workloads::text(8 << 20));
}
