//! A test in place of the host, which copies the frames that it is told of, and a process to
//! capture.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nvvmm_protocol::{
    AfterCapture, Capture, Captured, DATA_BYTES_MAX, FailedBecause, FrameRun, FromAgent, Restart,
    TerminalSize, ToAgent,
};
use tempfile::TempDir;

use crate::sys;
use crate::test_stream::HostEnd;

/// Only a test that hangs comes near it.
const PATIENCE: Duration = Duration::from_secs(120);
const PAGE_BYTES: usize = 4096;

/// Repeats until it is so.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// True if tests can trace processes, choose numbers and see frames here. If not, prints that.
pub fn can_run() -> bool {
    // SAFETY: takes no arguments.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        assert!(
            std::env::var_os("NVVMM_REQUIRE_ROOT").is_none(),
            "captures of processes need root"
        );
        eprintln!("SKIPPED: captures of processes need root");
    }
    // Descriptors that the test runner has left open must not reach a subject.
    // SAFETY: takes no pointers, and closes nothing in this process.
    unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    root
}

/// A shell that has something in its memory, and looks at the end whether it is still there.
pub struct Subject {
    pub pid: i32,
    directory: TempDir,
    ended: JoinHandle<ExitStatus>,
}

/// Its output and its status, if it found everything unchanged.
pub const WHOLE: (&str, i32) = ("all is there\n", 7);

impl Subject {
    /// With standard output into a file.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let output = File::create(directory.path().join("output")).unwrap();
        Self::start_with(directory, Stdio::null(), output.into())
    }

    /// With these standard streams.
    pub fn start_on(input: impl Into<Stdio>, output: impl Into<Stdio>) -> Self {
        Self::start_with(tempfile::tempdir().unwrap(), input.into(), output.into())
    }

    fn start_with(directory: TempDir, input: Stdio, output: Stdio) -> Self {
        let script = "x=$(seq 20000); : >ready; while [ ! -e go ]; do :; done
            [ \"$x\" = \"$(seq 20000)\" ] && echo all is there && exit 7";
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(directory.path());
        // The process that runs the tests may ignore hang-ups.
        sys::with_usual_signals(&mut command);
        let mut child = command
            .stdin(input)
            .stdout(output)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = child.id() as i32;
        let ended = thread::spawn(move || {
            sys::wait_for_exit(pid as u32);
            child.wait().unwrap()
        });
        let ready = directory.path().join("ready");
        wait_until("the subject is not ready", || ready.exists());
        Self {
            pid,
            directory,
            ended,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// R, S, T (stopped), t (frozen), Z and so on.
    pub fn state(&self) -> char {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        stat.rsplit(')')
            .next()
            .unwrap()
            .trim_start()
            .chars()
            .next()
            .unwrap()
    }

    /// Lets it end, and checks that it was never killed and finds everything unchanged.
    pub fn ends_well(self) {
        fs::write(self.path("go"), "").unwrap();
        let output = self.path("output");
        let status = self.ended.join().unwrap();
        assert_eq!(
            (&fs::read_to_string(output).unwrap()[..], status.code()),
            (WHOLE.0, Some(WHOLE.1))
        );
    }

    /// Checks that it was killed.
    pub fn was_killed(self) -> Restartable {
        assert_eq!(self.ended.join().unwrap().signal(), Some(libc::SIGKILL));
        Restartable {
            pid: self.pid,
            directory: self.directory,
        }
    }
}

/// The files of a subject that was killed.
pub struct Restartable {
    pub pid: i32,
    directory: TempDir,
}

impl Restartable {
    pub fn exists(&self) -> bool {
        Path::new(&format!("/proc/{}", self.pid)).exists()
    }

    /// Tells it to look.
    pub fn go(&self) {
        fs::write(self.directory.path().join("go"), "").unwrap();
    }

    /// Prepares another restart.
    pub fn again(&self) {
        fs::remove_file(self.directory.path().join("go")).unwrap();
    }

    pub fn output(&self) -> String {
        fs::read_to_string(self.directory.path().join("output")).unwrap()
    }
}

/// Pages and image of a process, as the host keeps them.
#[derive(Default)]
pub struct Kept {
    pages: HashMap<u64, Vec<u8>>,
    pub image: Vec<u8>,
    pub image_pages: u64,
}

impl Kept {
    /// Copies what is in these frames, all of which must be the process's.
    pub fn take(&mut self, pid: i32, runs: &[FrameRun]) {
        let (addresses, memory) = (addresses(pid), memory(pid));
        for (gfn, image_page) in runs.iter().flat_map(pages) {
            let mut bytes = vec![0; PAGE_BYTES];
            memory.read_exact_at(&mut bytes, addresses[&gfn]).unwrap();
            self.pages.insert(image_page, bytes);
        }
    }

    /// Copies back into these frames.
    pub fn place(&self, pid: i32, runs: &[FrameRun]) {
        let (addresses, memory) = (addresses(pid), memory(pid));
        for (gfn, image_page) in runs.iter().flat_map(pages) {
            memory
                .write_all_at(&self.pages[&image_page], addresses[&gfn])
                .unwrap();
        }
    }

    /// Hears a capture to its end.
    pub fn hear_capture(&mut self, host: &HostEnd, pid: i32) -> Captured {
        loop {
            match host.hear() {
                FromAgent::Ahead(_) => {}
                FromAgent::Frames(runs) => self.take(pid, &runs),
                FromAgent::Image { bytes, pages } => {
                    self.image_pages = pages;
                    self.hear_image(host);
                    assert_eq!(self.image.len() as u64, bytes);
                }
                FromAgent::Captured(captured) => return captured,
                other => panic!("{other:?}"),
            }
            host.say(ToAgent::Done);
        }
    }

    pub fn hear_image(&mut self, host: &HostEnd) {
        let (image, errors, last) = host.hear_all();
        assert_eq!((errors, last), (Vec::new(), FromAgent::End));
        self.image = image;
    }

    /// Asks for a restart.
    pub fn ask_restart(&self, attach: bool) -> HostEnd {
        self.ask_restart_on(attach, None)
    }

    fn ask_restart_on(&self, attach: bool, terminal: Option<TerminalSize>) -> HostEnd {
        let host = HostEnd::ask(ToAgent::Restart(Restart {
            bytes: self.image.len() as u64,
            attach,
            terminal,
            window: None,
        }));
        for part in self.image.chunks(DATA_BYTES_MAX) {
            host.say(ToAgent::Data(part.to_vec()));
        }
        host.say(ToAgent::End);
        host
    }

    /// Asks for a restart, and does the host's part of it.
    pub fn restart(&self, pid: i32, attach: bool) -> HostEnd {
        self.restart_on(pid, attach, None)
    }

    /// Does the same as [`Kept::restart`], attached to a terminal.
    pub fn restart_on(&self, pid: i32, attach: bool, terminal: Option<TerminalSize>) -> HostEnd {
        let host = self.ask_restart_on(attach, terminal);
        let restarted = loop {
            match host.hear() {
                FromAgent::Frames(runs) => self.place(pid, &runs),
                FromAgent::Restarted(restarted) => break restarted,
                other => panic!("{other:?}"),
            }
            host.say(ToAgent::Done);
        };
        assert_eq!(
            (restarted.pid, restarted.processes, restarted.threads),
            (pid, 1, 1)
        );
        assert_eq!(restarted.pages, self.image_pages, "each page once");
        host
    }
}

/// Asks for a capture.
pub fn ask_capture(pid: i32, external_stdio: bool, afterwards: AfterCapture) -> HostEnd {
    HostEnd::ask(ToAgent::Capture(Capture {
        pid,
        tree: false,
        external_stdio,
        afterwards,
    }))
}

/// Hears that it failed, and why.
pub fn expect_failure(host: &HostEnd, expected: FailedBecause, words: &str) {
    match host.hear() {
        FromAgent::Failed { because, message }
            if because == expected && message.contains(words) => {}
        other => panic!("{other:?}"),
    }
}

/// Captures and kills.
pub fn captured(subject: Subject, external_stdio: bool) -> (Restartable, Kept) {
    let mut kept = Kept::default();
    let host = ask_capture(subject.pid, external_stdio, AfterCapture::Kill);
    kept.hear_capture(&host, subject.pid);
    host.end();
    (subject.was_killed(), kept)
}

fn pages(run: &FrameRun) -> impl Iterator<Item = (u64, u64)> {
    let run = *run;
    (0..u64::from(run.pages)).map(move |page| (run.gfn + page, run.image_page + page))
}

fn memory(pid: i32) -> File {
    File::options()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))
        .unwrap()
}

/// The address in a process of each frame.
fn addresses(pid: i32) -> HashMap<u64, u64> {
    const PRESENT: u64 = 1 << 63;
    const FRAME_MASK: u64 = (1 << 55) - 1;
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut addresses = HashMap::new();
    for line in maps.lines().filter(|line| !line.ends_with("[vsyscall]")) {
        let (start, rest) = line.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = (number(start), number(rest.split(' ').next().unwrap()));
        for address in (start..end).step_by(PAGE_BYTES) {
            let mut entry = [0; 8];
            pagemap
                .read_exact_at(&mut entry, address / PAGE_BYTES as u64 * 8)
                .unwrap();
            let entry = u64::from_le_bytes(entry);
            if entry & PRESENT != 0 {
                addresses.insert(entry & FRAME_MASK, address);
            }
        }
    }
    addresses
}
