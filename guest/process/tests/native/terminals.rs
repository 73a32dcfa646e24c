//! A server of terminals with a shell, its jobs and an editor: captured and restarted, three times.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use nvvmm_process::{
    CaptureOptions, CopiedPages, Error, FreezeEnd, Image, RestartOptions, check,
    freeze_and_capture, restart,
};

use crate::harness::{alone, can_run, one_at_a_time, with_terminals};

/// Only a test that hangs comes near it.
const PATIENCE: Duration = Duration::from_secs(20);
const RESTARTS: usize = 3;

/// A server of tmux. It ends with the test.
struct Server<'a> {
    directory: &'a Path,
    pid: i32,
}

impl<'a> Server<'a> {
    /// Starts one with this program in its first window. None: there is no tmux here.
    fn start(directory: &'a Path, program: &str) -> Option<Self> {
        nix::sys::prctl::set_child_subreaper(true).expect("a subreaper");
        let mut server = Self { directory, pid: 0 };
        let started = server.run(&["new-session", "-d", "-x", "90", "-y", "30", program]);
        if !started.is_ok_and(|started| started.status.success()) {
            eprintln!("SKIPPED: tmux does not run here");
            return None;
        }
        let pid = server.ask(&["display-message", "-p", "#{pid}"]);
        server.pid = pid.trim().parse().expect("a number");
        Some(server)
    }

    fn run(&self, arguments: &[&str]) -> std::io::Result<Output> {
        let _alone = one_at_a_time();
        let mut command = Command::new("tmux");
        command
            .arg("-S")
            .arg(self.directory.join("socket"))
            .args(["-f", "/dev/null"])
            .args(arguments)
            .env_remove("TMUX")
            .env("TERM", "screen")
            .current_dir(self.directory);
        alone(&mut command).output()
    }

    fn ask(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments).expect("tmux runs");
        assert!(done.status.success(), "{arguments:?}: {done:?}");
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    fn keys(&self, window: &str, keys: &[&str]) {
        self.ask(&[&["send-keys", "-t", window][..], keys].concat());
    }

    fn screen(&self, window: &str) -> String {
        self.ask(&["capture-pane", "-p", "-t", window])
    }

    /// Waits until a window shows these words.
    fn shows(&self, window: &str, words: &str) {
        let began = Instant::now();
        loop {
            let screen = self.screen(window);
            if screen.contains(words) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "no {words:?} in {screen}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Runs a command line of a shell, and waits until this program is in the foreground.
    fn runs(&self, window: &str, line: &str, program: &str) {
        self.keys(window, &[line, "Enter"]);
        let began = Instant::now();
        let what = "#{pane_current_command}";
        while self
            .ask(&["display-message", "-p", "-t", window, what])
            .trim()
            != program
        {
            assert!(
                began.elapsed() < PATIENCE,
                "no {program}: {}",
                self.screen(window)
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn capture(&self, afterwards: FreezeEnd) -> Result<(Image, CopiedPages), Error> {
        let options = CaptureOptions {
            tree: true,
            frees_numbers: afterwards == FreezeEnd::Kill,
            ..CaptureOptions::default()
        };
        let _alone = one_at_a_time();
        check(self.pid, options)?;
        let mut pages = CopiedPages::default();
        let (frozen, captured) = freeze_and_capture(self.pid, options, &mut pages)?;
        frozen.end(afterwards)?;
        let image = Image::decode(&captured.image.encode()?)?;
        Ok((image, pages))
    }

    /// Captures and ends it, and restarts it.
    fn move_on(&self) {
        let captured = self.capture(FreezeEnd::Kill);
        let (image, mut pages) = captured.unwrap_or_else(|error| panic!("capture: {error}"));
        let ended = image.ended.iter().map(|child| child.pid);
        let all: Vec<i32> = (image.processes.iter().map(|process| process.pid))
            .chain(ended)
            .collect();
        for pid in all {
            waitpid(Pid::from_raw(pid), None).expect("its end");
        }
        let _alone = one_at_a_time();
        restart(&image, &RestartOptions::default(), None, &mut pages)
            .unwrap_or_else(|error| panic!("restart: {error}"));
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if self.pid > 0 {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
            let _ = waitpid(Pid::from_raw(self.pid), None);
        }
    }
}

/// Waits until a file has this content.
fn await_content(path: &Path, content: &str) {
    let began = Instant::now();
    loop {
        let found = std::fs::read_to_string(path).unwrap_or_default();
        if found == content {
            return;
        }
        assert!(
            began.elapsed() < PATIENCE,
            "{} has {found:?}",
            path.display()
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_server_of_terminals_with_a_shell_its_jobs_and_an_editor() {
    if !can_run() {
        return;
    }
    let _terminals = with_terminals();
    let directory = tempfile::tempdir().expect("a directory");
    let shell = "exec env PS1='% ' bash --norc --noprofile";
    let Some(server) = Server::start(directory.path(), shell) else {
        return;
    };
    let shell = ":0";
    server.shows(shell, "%");
    server.keys(shell, &["sleep 1234 &", "Enter"]);
    server.runs(shell, "cat >lines", "cat");
    server.keys(shell, &["first line", "Enter"]);
    // To stop it drops what was typed and not read.
    let lines = directory.path().join("lines");
    await_content(&lines, "first line\n");
    server.keys(shell, &["C-z"]);
    server.shows(shell, "Stopped");
    // The leader of this job ends, and is waited for.
    server.keys(shell, &["echo piped words | less -K", "Enter"]);
    server.shows(shell, "(END)");
    let has_editor = Command::new("vim").arg("--version").output().is_ok();
    if has_editor {
        server.ask(&["new-window", "-d", "-n", "editor", "vim -u NONE -n text"]);
        server.shows("editor", "~");
        server.keys("editor", &["i", "typed before"]);
        server.shows("editor", "typed before");
    }
    server
        .capture(FreezeEnd::Thaw)
        .unwrap_or_else(|error| panic!("capture: {error}"));
    for round in 0..RESTARTS {
        let before = server.screen(shell);
        server.move_on();
        assert_eq!(server.screen(shell), before);
        if has_editor {
            let words = format!(" and {round}");
            server.keys("editor", &[&words]);
            server.shows("editor", &words);
        }
    }
    server.keys(shell, &["q"]);
    server.runs(shell, "clear; jobs", "bash");
    server.shows(shell, "Stopped");
    server.shows(shell, "Running");
    server.runs(shell, "fg %2", "cat");
    server.keys(shell, &["second line", "Enter"]);
    await_content(&lines, "first line\nsecond line\n");
    server.keys(shell, &["C-d"]);
    server.runs(shell, "clear", "bash");
    server.runs(shell, "wc -l lines", "bash");
    server.shows(shell, "2 lines");
    server.runs(shell, "clear; fg %1", "sleep");
    server.keys(shell, &["C-c"]);
    server.runs(shell, "echo ended $?", "bash");
    server.shows(shell, "ended 130");
    if has_editor {
        server.keys("editor", &["Escape", ":wq", "Enter"]);
        let text = directory.path().join("text");
        await_content(&text, "typed before and 0 and 1 and 2\n");
    }
    server.ask(&["kill-server"]);
}

/// A program that puts out without end, so that a terminal's buffers are full in most instants.
#[test]
fn a_terminal_whose_buffers_are_full() {
    if !can_run() {
        return;
    }
    let _terminals = with_terminals();
    let directory = tempfile::tempdir().expect("a directory");
    let program = "i=0; while :; do i=$((i+1)); echo $i; done";
    let Some(server) = Server::start(directory.path(), program) else {
        return;
    };
    let last = || {
        let screen = server.screen(":0");
        let lines: Vec<u64> = (screen.lines().take(29))
            .map(|line| line.parse().expect("a number"))
            .collect();
        let rises = lines.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        assert!(rises && lines.len() > 20, "a line is missing in {screen}");
        lines[lines.len() - 1]
    };
    std::thread::sleep(Duration::from_millis(300));
    let mut seen = last();
    for _ in 0..RESTARTS {
        server
            .capture(FreezeEnd::Thaw)
            .unwrap_or_else(|error| panic!("capture: {error}"));
        let now = last();
        assert!(now >= seen, "{now} after {seen}");
        server.move_on();
        let after = last();
        assert!(after >= now, "{after} after {now}");
        seen = after;
    }
    server.ask(&["kill-server"]);
}
