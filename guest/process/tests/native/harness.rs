//! Runs `subject`, captures and restarts it.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use nvvmm_process::{
    CaptureOptions, CopiedPages, Error, FreezeEnd, Frozen, Image, PageSource, Reserve,
    RestartOptions, freeze_and_capture, restart,
};
use tempfile::TempDir;

use crate::proc_view::{assert_same, proc_view};
use crate::scenarios;

/// Only a test that hangs comes near it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Held while a process is started, or looked for. A process that was just forked has all
/// that its parent has open, so it would be taken for somebody with an end of a pipe of another
/// test's subject.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held while there are pseudo-terminals whose numbers are to be free again after a capture: each
/// new one gets the lowest that is free.
static TERMINALS: Mutex<()> = Mutex::new(());

pub fn with_terminals() -> MutexGuard<'static, ()> {
    TERMINALS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// True if tests can trace processes, choose numbers and see frames here. If not, prints that.
pub fn can_run() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        assert!(
            std::env::var_os("NVVMM_REQUIRE_ROOT").is_none(),
            "captures of processes need root"
        );
        eprintln!("SKIPPED: captures of processes need root");
    }
    root
}

/// Has a program start with nothing open but its standard streams.
pub fn alone(command: &mut Command) -> &mut Command {
    // SAFETY: the closure makes one system call, which is allowed between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // Whatever the test runner has left open: it is not the program's.
            libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32);
            Ok(())
        })
    }
}

/// Starts a program with nothing open but its standard streams. It is waited for by its number, as
/// a restarted one must be.
pub fn spawn_alone(command: &mut Command) -> i32 {
    alone(command);
    let _alone = one_at_a_time();
    command.spawn().expect("a program starts").id() as i32
}

/// Runs a program to its end.
pub fn output_of(command: &mut Command) -> std::io::Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = {
        let _alone = one_at_a_time();
        command.spawn()?
    };
    child.wait_with_output()
}

/// A process that runs a scenario.
pub struct Subject {
    pub pid: i32,
    directory: TempDir,
    reaped: bool,
}

impl Subject {
    /// Starts one, and waits until it has set everything up.
    pub fn start(scenario: &str) -> Self {
        // Orphans of a tree that is killed come to this process, so that their numbers become free
        // again.
        nix::sys::prctl::set_child_subreaper(true).expect("a subreaper");
        let directory = tempfile::tempdir().expect("a directory");
        let log = File::options()
            .create(true)
            .append(true)
            .open(directory.path().join("log"))
            .expect("a log");
        let mut command = Command::new(env!("CARGO_BIN_EXE_subject"));
        command
            .arg(scenario)
            .arg(directory.path())
            .current_dir(directory.path())
            .stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        let subject = Self {
            pid: spawn_alone(&mut command),
            directory,
            reaped: false,
        };
        subject.wait_for("ready");
        subject
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    fn wait_for(&self, name: &str) {
        let began = Instant::now();
        while !self.path(name).exists() {
            let ended = !Path::new(&format!("/proc/{}/fd/0", self.pid)).exists();
            assert!(
                !ended,
                "the subject ended before it was {name}: {}",
                self.log()
            );
            assert!(
                began.elapsed() < PATIENCE,
                "the subject is not {name}: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Captures it, through the bytes of the image.
    pub fn capture(
        &self,
        options: CaptureOptions,
        afterwards: FreezeEnd,
    ) -> Result<(Image, CopiedPages), Error> {
        let _alone = one_at_a_time();
        let options = CaptureOptions {
            frees_numbers: afterwards == FreezeEnd::Kill,
            ..options
        };
        nvvmm_process::check(self.pid, options)?;
        let mut pages = CopiedPages::default();
        let (frozen, captured) = freeze_and_capture(self.pid, options, &mut pages)?;
        let image = captured.image;
        frozen.end(afterwards)?;
        let decoded = Image::decode(&image.encode()?)?;
        assert_eq!(decoded, image);
        Ok((image, pages))
    }

    /// Checks that it could be captured.
    pub fn check(&self) -> Result<(), Error> {
        let _alone = one_at_a_time();
        nvvmm_process::check(self.pid, CaptureOptions::default()).map(drop)
    }

    /// Tries to capture it with no check before; it goes on.
    pub fn capture_unchecked(&self, options: CaptureOptions) -> Result<Image, Error> {
        let _alone = one_at_a_time();
        let frozen = Frozen::new(self.pid, options.tree)?;
        Ok(frozen.capture(options, &mut CopiedPages::default())?.image)
    }

    /// Ends it.
    pub fn kill(&mut self) {
        self.reaped = true;
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).expect("a process");
        waitpid(Pid::from_raw(self.pid), None).expect("its end");
    }

    /// Waits for the end of what was captured and killed.
    pub fn reap_killed(&mut self, image: &Image) {
        self.reaped = true;
        for process in &image.processes {
            let status = waitpid(Pid::from_raw(process.pid), None).expect("its end");
            assert!(
                matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)),
                "{status:?}: {}",
                self.log()
            );
        }
        for child in &image.ended {
            waitpid(Pid::from_raw(child.pid), None).expect("an end that nobody had waited for");
        }
    }

    /// Tells it to go on; it must find all as it was.
    pub fn finish(&mut self) {
        std::fs::write(self.path("go"), "").expect("a file");
        let began = Instant::now();
        let status = loop {
            match waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG)).expect("a child") {
                WaitStatus::StillAlive if began.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(2))
                }
                other => break other,
            }
        };
        self.reaped = status != WaitStatus::StillAlive;
        assert_eq!(
            status,
            WaitStatus::Exited(Pid::from_raw(self.pid), 0),
            "{}",
            self.log()
        );
        for name in ["passed", "go"] {
            std::fs::remove_file(self.path(name)).expect("it said that it passed");
        }
    }

    /// Says that a test has restarted it by itself.
    pub fn is_restarted(&mut self) {
        self.reaped = false;
    }

    pub fn restart(&mut self, image: &Image, pages: &mut dyn PageSource) {
        self.restart_with(None, image, pages);
    }

    pub fn restart_with(
        &mut self,
        reserve: Option<Reserve>,
        image: &Image,
        pages: &mut dyn PageSource,
    ) {
        let _alone = one_at_a_time();
        restart(image, &RestartOptions::default(), reserve, pages)
            .unwrap_or_else(|error| panic!("restart: {error}"));
        self.reaped = false;
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
            let _ = waitpid(Pid::from_raw(self.pid), None);
        }
    }
}

/// A capture of what was restarted has as many pages. What only children have in common they do not
/// have in common any more.
pub fn assert_same_pages(image: &Image, again: &Image) {
    let (before, after) = (image.pages, again.pages);
    let has_children = image.processes.len() > 1;
    assert!(
        after == before || after > before && has_children,
        "there were {before} pages, and now {after}"
    );
}

/// A scenario goes on unharmed after a capture; what was captured is restarted, more than once,
/// captured again, and passes each time.
pub fn round_trips(scenario: &str) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
    if !scenarios::is_known_to(&release, scenario) {
        eprintln!(
            "SKIPPED: Linux {} has nothing of {scenario}",
            release.trim()
        );
        return;
    }
    let _terminals = scenario.contains("terminal").then(with_terminals);
    let options = CaptureOptions {
        tree: scenarios::WITH_CHILDREN.contains(&scenario),
        ..CaptureOptions::default()
    };
    let capture = |subject: &Subject, afterwards| {
        subject
            .capture(options, afterwards)
            .unwrap_or_else(|error| panic!("capture: {error}"))
    };
    let mut original = Subject::start(scenario);
    let before = proc_view(original.pid);
    capture(&original, FreezeEnd::Thaw);
    assert_same(&before, original.pid);
    original.finish();

    let mut subject = Subject::start(scenario);
    let before = proc_view(subject.pid);
    let (image, mut pages) = capture(&subject, FreezeEnd::Kill);
    subject.reap_killed(&image);
    for _ in 0..2 {
        subject.restart(&image, &mut pages);
        assert_same(&before, subject.pid);
        subject.finish();
    }
    subject.restart(&image, &mut pages);
    let (again, mut pages_again) = capture(&subject, FreezeEnd::Kill);
    assert_same_pages(&image, &again);
    subject.reap_killed(&image);
    subject.restart(&again, &mut pages_again);
    assert_same(&before, subject.pid);
    subject.finish();
}
