//! Shell that runs one command after another, with a terminal for commands that talk to a guest.

use std::{
    fs::File,
    io::{PipeReader, Read, Write},
    os::fd::OwnedFd,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use nix::{pty::openpty, unistd::ttyname};

/// Longest time for a command to end, or a guest to answer: several times that of the slowest with
/// an emulated CPU.
const PATIENCE: Duration = Duration::from_secs(600);
/// Time after which a guest is asked for its prompt once more.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// Mark that the shell writes behind each command, with its status.
const MARK: &str = "@@documents";
/// Prompts of the shells of Linux guests: the small one, and Debian. What follows is typed.
const PROMPTS: [&str; 2] = ["/ # ", "root@debian:~# "];
/// Ctrl-] and one more key, which leave a console.
const LEAVE: &str = "\x1d\x1d";

/// A running shell. Dropping it ends the shell.
#[derive(Debug)]
pub struct Session {
    shell: Child,
    input: ChildStdin,
    output: Chunks,
}

/// Output and exit code of a command.
#[derive(Debug)]
pub struct Answer {
    /// Standard output and standard error.
    pub output: Vec<String>,
    /// Exit code.
    pub code: i32,
}

/// Text that a thread reads as it comes.
#[derive(Debug)]
struct Chunks {
    chunks: Receiver<Vec<u8>>,
    text: String,
}

impl Session {
    /// Starts a bash with the environment and directory of `command`.
    pub fn start(mut command: Command) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command
            .stdin(Stdio::piped())
            .stdout(writer.try_clone().expect("a descriptor"))
            .stderr(writer);
        let mut shell = command.spawn().expect("bash starts");
        // It holds the pipe's other end.
        drop(command);
        let input = shell.stdin.take().expect("it is piped");
        Self {
            shell,
            input,
            output: Chunks::of(reader),
        }
    }

    /// Runs a command to its end.
    pub fn run(&mut self, command: &str) -> Answer {
        self.begin(command, "</dev/null");
        self.end()
    }

    /// Runs a command on a terminal, types what `shown` has behind prompts, and leaves by Ctrl-].
    pub fn talk(&mut self, command: &str, shown: &[String]) -> Answer {
        let terminal = openpty(None, None).expect("a terminal");
        let name = ttyname(&terminal.slave).expect("a terminal has a name");
        let name = name.display();
        let mut screen = Screen::of(terminal.master);
        self.begin(command, &format!("<{name} >{name} 2>&1"));
        let is_shown = |prompt: &&str| shown.iter().any(|line| line.starts_with(prompt));
        if let Some(prompt) = PROMPTS.into_iter().find(is_shown) {
            let typed = shown.iter().filter_map(|line| line.strip_prefix(prompt));
            screen.talk_to_a_shell(prompt, typed.filter(|line| !line.is_empty()));
        } else {
            let is_typed = |line: &&String| {
                !line.is_empty()
                    && !["@ ", "nvvmm: ", "..."]
                        .iter()
                        .any(|start| line.starts_with(start))
            };
            screen.talk_to_the_bare_metal_guest(shown.iter().filter(is_typed));
        }
        screen.type_in(LEAVE);
        let Answer { mut output, code } = self.end();
        output.extend(screen.lines());
        Answer { output, code }
    }

    fn begin(&mut self, command: &str, streams: &str) {
        let script = format!("{{ {command}\n}} {streams}\nprintf '\\n%s %d\\n' {MARK} $?\n");
        self.input.write_all(script.as_bytes()).expect("bash reads");
    }

    fn end(&mut self) -> Answer {
        let mark = format!("\n{MARK} ");
        let found = self.output.wait_for(&mark, 0, PATIENCE) && {
            let at = self.output.text.find(&mark).expect("it was found");
            self.output.wait_for("\n", at + mark.len(), PATIENCE)
        };
        assert!(
            found,
            "the command did not end, or ended the shell: {}",
            self.output.text
        );
        let text = std::mem::take(&mut self.output.text);
        let (output, after) = text.split_once(&mark).expect("it was found");
        let (code, rest) = after.split_once('\n').expect("it was found");
        self.output.text = rest.to_owned();
        Answer {
            output: lines(output),
            code: code.parse().expect("a status is a number"),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

/// A terminal: its keyboard, and all that it has shown.
struct Screen {
    keyboard: File,
    shown: Chunks,
    /// Bytes that were shown before the last line was typed.
    seen: usize,
}

impl Screen {
    fn of(master: OwnedFd) -> Self {
        let mut keyboard = File::from(master);
        let mut screen = keyboard.try_clone().expect("a descriptor");
        let shown = Chunks::from(move |bytes: &mut [u8]| screen.read(bytes));
        keyboard.flush().expect("nothing was typed");
        Self {
            keyboard,
            shown,
            seen: 0,
        }
    }

    fn type_in(&mut self, text: &str) {
        self.keyboard
            .write_all(text.as_bytes())
            .expect("the terminal takes keys");
    }

    /// Types a line once the guest is quiet.
    fn type_line(&mut self, line: &str) {
        self.shown.settle();
        self.seen = self.shown.text.len();
        self.type_in(&format!("{line}\n"));
    }

    fn wait_for(&mut self, what: &str) {
        let came = self.shown.wait_for(what, self.seen, PATIENCE);
        assert!(came, "{what:?} never came: {}", self.shown.text);
    }

    /// Types lines at the prompt of a shell, which echoes each of them. A client that connects late
    /// sees no prompt until it presses Enter.
    fn talk_to_a_shell<'l>(&mut self, prompt: &str, lines: impl Iterator<Item = &'l str>) {
        let until = Instant::now() + PATIENCE;
        while !self.shown.wait_for(prompt, 0, ASK_AGAIN) {
            assert!(Instant::now() < until, "no prompt: {}", self.shown.text);
            self.type_in("\n");
        }
        for line in lines {
            self.type_line(line);
            self.wait_for("\n");
            self.wait_for(prompt);
        }
        self.shown.settle();
    }

    /// Types lines to the bare-metal guest, which has no prompt and no echo, and answers each line
    /// with one. Documents show typed lines all the same.
    fn talk_to_the_bare_metal_guest<'l>(&mut self, lines: impl Iterator<Item = &'l String>) {
        self.wait_for("@ ");
        for line in lines {
            self.type_line(line);
            self.shown.text.push_str(&format!("{line}\n"));
            self.wait_for("@ ");
        }
        self.shown.settle();
    }

    fn lines(mut self) -> Vec<String> {
        self.shown.settle();
        lines(&without_escapes(&self.shown.text))
    }
}

impl Chunks {
    fn of(mut reader: PipeReader) -> Self {
        Self::from(move |bytes: &mut [u8]| reader.read(bytes))
    }

    fn from(mut read: impl FnMut(&mut [u8]) -> std::io::Result<usize> + Send + 'static) -> Self {
        let (sender, chunks) = mpsc::channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = read(&mut bytes) {
                if sender.send(bytes[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self {
            chunks,
            text: String::new(),
        }
    }

    /// Waits until `what` comes, behind the first `from` bytes. False if it does not come in time.
    fn wait_for(&mut self, what: &str, from: usize, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            if self
                .text
                .get(from..)
                .is_some_and(|text| text.contains(what))
            {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.chunks.recv_timeout(left) {
                Ok(chunk) => self.text.push_str(&String::from_utf8_lossy(&chunk)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// Reads until nothing has come for a moment.
    fn settle(&mut self) {
        while let Ok(chunk) = self.chunks.recv_timeout(Duration::from_millis(300)) {
            self.text.push_str(&String::from_utf8_lossy(&chunk));
        }
    }
}

fn lines(text: &str) -> Vec<String> {
    text.lines()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

/// Skips the rest of a control sequence (ECMA-48): `[` to a letter, `]` to a bell, else one
/// character.
fn skip_sequence(chars: &mut std::str::Chars<'_>) {
    match chars.next() {
        Some('[') => drop(chars.find(|c| ('@'..='~').contains(c))),
        Some(']') => drop(chars.find(|c| *c == '\x07')),
        _ => {}
    }
}

/// Removes control sequences of terminals.
fn without_escapes(text: &str) -> String {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\x1b' => skip_sequence(&mut chars),
            '\r' | '\x07' => {}
            c => plain.push(c),
        }
    }
    plain
}

#[test]
fn a_shell_keeps_its_state_and_tells_how_commands_ended() {
    let mut bash = Command::new("bash");
    bash.args(["--noprofile", "--norc"]);
    let mut session = Session::start(bash);
    assert_eq!(session.run("A=1; echo x; echo y >&2").output, ["x", "y"]);
    let answer = session.run("(exit 3)");
    assert_eq!((answer.output.len(), answer.code), (0, 3));
    assert_eq!(session.run("printf %s \\\n  $A").output, ["1"]);
    assert_eq!(without_escapes("a\x1b[6nb\x1b[1;32mc\r"), "abc");
    assert_eq!(without_escapes("\x1b[?2004h\x1b]104\x07d\x1b[!pe"), "de");
}
