//! Pseudo-terminals.

use std::ffi::CStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use crate::event_loops::owned;
use crate::processes::{fork, wait};
use crate::{Check, Fixture, wait_for};

const PATIENCE: Duration = Duration::from_secs(20);
const STOP: u8 = 0x13;
const START: u8 = 0x11;
const END_OF_FILE: u8 = 4;
const INTERRUPT: u8 = 3;
const LITERAL_NEXT: u8 = 0x16;
const TIOCGPTPEER: libc::Ioctl = 0x5441;
const TIOCGPKT: libc::Ioctl = 0x8004_5438;

pub fn scenario(name: &str, fixture: &Fixture) -> Option<Check> {
    Some(match name {
        "terminals" => terminals(),
        "terminal-of-bytes" => terminal_of_bytes(),
        "stopped-terminals" => stopped_terminals(),
        "terminal-tree" => terminal_tree(fixture),
        "unopened-terminal" => unopened_terminal(),
        "outside-terminal" => outside_terminal(fixture),
        _ => return None,
    })
}

struct Terminal {
    master: File,
    path: PathBuf,
}

impl Terminal {
    fn new() -> Self {
        let mut name = [0 as libc::c_char; 64];
        // SAFETY: the calls take numbers, and room for a name of that length.
        unsafe {
            let master = owned(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY));
            assert_eq!(libc::grantpt(master.as_raw_fd()), 0);
            assert_eq!(libc::unlockpt(master.as_raw_fd()), 0);
            let named = libc::ptsname_r(master.as_raw_fd(), name.as_mut_ptr(), name.len());
            assert_eq!(named, 0);
            let path = CStr::from_ptr(name.as_ptr())
                .to_str()
                .expect("a path")
                .into();
            Self { master, path }
        }
    }

    fn open(&self) -> File {
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOCTTY);
        options
            .read(true)
            .write(true)
            .open(&self.path)
            .expect("the other end")
    }
}

fn modes(file: &File) -> libc::termios {
    // SAFETY: a termios is plain numbers, which the kernel writes.
    unsafe {
        let mut found: libc::termios = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(file.as_raw_fd(), &mut found), 0);
        found
    }
}

fn change(file: &File, act: impl FnOnce(&mut libc::termios)) {
    let mut new = modes(file);
    act(&mut new);
    // SAFETY: the kernel reads the modes.
    let set = unsafe { libc::tcsetattr(file.as_raw_fd(), libc::TCSANOW, &new) };
    assert_eq!(set, 0);
}

fn window(file: &File) -> [u16; 4] {
    let mut size = [0u16; 4];
    // SAFETY: the kernel writes four numbers.
    let asked = unsafe { libc::ioctl(file.as_raw_fd(), libc::TIOCGWINSZ, size.as_mut_ptr()) };
    assert_eq!(asked, 0);
    size
}

fn set_window(file: &File, size: [u16; 4]) {
    // SAFETY: the kernel reads four numbers.
    let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::TIOCSWINSZ, size.as_ptr()) };
    assert_eq!(set, 0);
}

fn is_ready(file: &File, events: i16) -> bool {
    let mut asked = libc::pollfd {
        fd: file.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one pollfd, as the count says.
    unsafe { libc::poll(&mut asked, 1, 0) };
    asked.revents & events != 0
}

fn await_ready(file: &File, events: i16) {
    let began = Instant::now();
    while !is_ready(file, events) {
        assert!(began.elapsed() < PATIENCE, "it does not become ready");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Reads once, and expects these bytes.
fn expect(mut file: &File, bytes: &[u8]) {
    await_ready(file, libc::POLLIN);
    let mut read = vec![0; 8192];
    let len = file.read(&mut read).expect("bytes");
    assert_eq!(
        String::from_utf8_lossy(&read[..len]),
        String::from_utf8_lossy(bytes)
    );
}

/// A terminal with lines and one that is typed, with output, packets, a size and modes.
fn terminals() -> Check {
    let terminal = Terminal::new();
    let reader = terminal.open();
    change(&reader, |modes| {
        modes.c_lflag &= !libc::ECHO;
        modes.c_cc[libc::VEOL] = b'!';
    });
    let literal = [b'o', b'n', b'e', LITERAL_NEXT, b'\n', b'\n'];
    let typed = [
        &literal[..],
        b"two!",
        b"three",
        &[END_OF_FILE],
        b"\n",
        b"fou",
    ];
    (&terminal.master).write_all(&typed.concat()).expect("room");
    (&reader).write_all(b"out\nput").expect("room");
    await_ready(&terminal.master, libc::POLLIN);
    set_window(&reader, [33, 77, 330, 770]);
    let on = 1i32;
    // SAFETY: the kernel reads a number.
    let set = unsafe { libc::ioctl(terminal.master.as_raw_fd(), libc::TIOCPKT, &on) };
    assert_eq!(set, 0);
    let before = modes(&reader);
    Box::new(move || {
        let now = modes(&reader);
        assert_eq!((now.c_iflag, now.c_oflag), (before.c_iflag, before.c_oflag));
        assert_eq!((now.c_lflag, now.c_cc), (before.c_lflag, before.c_cc));
        assert_eq!(window(&terminal.master), [33, 77, 330, 770]);
        expect(&reader, b"one\n\n");
        expect(&reader, b"two!");
        expect(&reader, b"three");
        expect(&reader, b"\n");
        assert!(!is_ready(&reader, libc::POLLIN), "half a line can be read");
        (&terminal.master).write_all(b"r\n").expect("room");
        expect(&reader, b"four\n");
        let mut packets = 0i32;
        // SAFETY: the kernel writes a number.
        unsafe { libc::ioctl(terminal.master.as_raw_fd(), TIOCGPKT, &mut packets) };
        assert_eq!(packets, 1);
        expect(&terminal.master, b"\0out\r\nput");
    })
}

/// A terminal that gives bytes, more of them than it receives before it is read.
fn terminal_of_bytes() -> Check {
    let terminal = Terminal::new();
    // The flag stays with the open file, and this descriptor does not have it.
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the calls take numbers only.
    let raw = unsafe {
        let opened = libc::ioctl(terminal.master.as_raw_fd(), TIOCGPTPEER, flags);
        owned(libc::dup(owned(opened).as_raw_fd()))
    };
    let stays_open = |file: &File| {
        // SAFETY: the call takes numbers only.
        let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFD) };
        flags == 0
    };
    assert!(stays_open(&raw));
    // SAFETY: the call changes the modes only.
    change(&raw, |modes| unsafe { libc::cfmakeraw(modes) });
    let bytes: Vec<u8> = (0..=255).collect();
    let input = bytes.repeat(40);
    (&terminal.master).write_all(&input).expect("room");
    (&raw).write_all(&bytes).expect("room");
    Box::new(move || {
        assert!(stays_open(&raw));
        for (end, expected) in [(&raw, &input), (&terminal.master, &bytes)] {
            let mut read: Vec<u8> = Vec::new();
            while read.len() < expected.len() {
                await_ready(end, libc::POLLIN);
                let mut part = [0; 256];
                let len = (&*end).read(&mut part).expect("bytes");
                read.extend(&part[..len]);
            }
            assert!(read == *expected, "other bytes: {read:?}");
        }
    })
}

/// Terminals whose output was stopped, by a key and by a call; one that hung up.
fn stopped_terminals() -> Check {
    let (by_key, by_call, gone) = (Terminal::new(), Terminal::new(), Terminal::new());
    let (stopped, flow) = (by_key.open(), by_call.open());
    for file in [&stopped, &flow] {
        change(file, |modes| modes.c_lflag &= !libc::ECHO);
    }
    (&stopped).write_all(b"before").expect("room");
    (&by_key.master).write_all(&[STOP]).expect("room");
    // SAFETY: the call takes numbers only.
    assert_eq!(unsafe { libc::tcflow(flow.as_raw_fd(), libc::TCOOFF) }, 0);
    let began = Instant::now();
    while is_ready(&stopped, libc::POLLOUT) || is_ready(&flow, libc::POLLOUT) {
        assert!(began.elapsed() < PATIENCE, "they do not stop");
    }
    drop(gone.open());
    Box::new(move || {
        expect(&by_key.master, b"before");
        assert!(!is_ready(&stopped, libc::POLLOUT), "a key had stopped it");
        (&by_key.master).write_all(&[START]).expect("room");
        await_ready(&stopped, libc::POLLOUT);
        assert!(!is_ready(&flow, libc::POLLOUT), "a call had stopped it");
        (&by_call.master).write_all(&[START]).expect("room");
        // SAFETY: the call takes numbers only.
        assert_eq!(unsafe { libc::tcflow(flow.as_raw_fd(), libc::TCOON) }, 0);
        await_ready(&flow, libc::POLLOUT);
        assert!(is_ready(&gone.master, libc::POLLHUP));
        let error = (&gone.master).read(&mut [0]).expect_err("it hung up");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
    })
}

static SEEN: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: libc::c_int) {
    SEEN.fetch_or(1 << signal, Ordering::SeqCst);
}

fn handle(signals: &[libc::c_int]) {
    for signal in signals {
        let handler: extern "C" fn(libc::c_int) = note;
        // SAFETY: the handler does nothing but an atomic operation.
        unsafe { libc::signal(*signal, handler as libc::sighandler_t) };
    }
}

fn await_signal(signal: libc::c_int) {
    let began = Instant::now();
    while SEEN.load(Ordering::SeqCst) & 1 << signal == 0 {
        assert!(began.elapsed() < PATIENCE, "signal {signal} does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until a child has stopped, and answers the signal.
fn wait_stopped(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: status is a place for the answer.
    let stopped = unsafe { libc::waitpid(pid, &mut status, libc::WUNTRACED) };
    assert_eq!(stopped, pid);
    assert!(libc::WIFSTOPPED(status), "{status:#x}");
    libc::WSTOPSIG(status)
}

/// A server of a terminal, a shell of a session on it, and its jobs: one in the foreground, one
/// that is stopped, one whose leader has ended, and one without the terminal.
fn terminal_tree(fixture: &Fixture) -> Check {
    let terminal = Terminal::new();
    set_window(&terminal.master, [24, 80, 0, 0]);
    let (path, directory) = (terminal.path.clone(), fixture.directory.clone());
    let shell = fork(|| {
        // SAFETY: the calls take numbers only.
        unsafe {
            libc::close(terminal.master.as_raw_fd());
            assert!(libc::setsid() > 0);
        }
        // The leader of a session that opens it is controlled by it.
        let slave = File::options()
            .read(true)
            .write(true)
            .open(&path)
            .expect("the other end");
        self::shell(&slave, &directory)
    });
    wait_for(&fixture.path("shell"));
    Box::new(move || {
        let master = &terminal.master;
        let mut said = String::new();
        let mut until = |word: &str| {
            let began = Instant::now();
            while !said.contains(word) {
                assert!(began.elapsed() < PATIENCE, "{word} does not come: {said:?}");
                let mut part = [0; 256];
                if is_ready(master, libc::POLLIN) {
                    let len = (&*master).read(&mut part).expect("bytes");
                    said.push_str(&String::from_utf8_lossy(&part[..len]));
                }
            }
        };
        until("typed");
        set_window(master, [50, 100, 0, 0]);
        until("resized");
        (&*master).write_all(&[INTERRUPT]).expect("room");
        until("interrupted");
        until("shell goes on");
        (&*master).write_all(b"end\n").expect("room");
        until("good bye");
        assert_eq!(wait(shell), 0);
    })
}

fn shell(mut slave: &File, directory: &std::path::Path) -> i32 {
    let fd = slave.as_raw_fd();
    let own_group = || {
        // SAFETY: the calls take numbers only.
        unsafe {
            assert_eq!(libc::setpgid(0, 0), 0);
            libc::getpid()
        }
    };
    // SAFETY: the calls below take numbers only.
    let session = unsafe { libc::getsid(0) };
    let foreground = fork(|| {
        let group = own_group();
        handle(&[libc::SIGINT, libc::SIGWINCH, libc::SIGTTOU]);
        // SAFETY: as above.
        unsafe {
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            assert_eq!(libc::tcsetpgrp(fd, group), 0);
        }
        std::fs::write(directory.join("foreground"), "").expect("a file");
        wait_for(&directory.join("go"));
        let mut tty = File::options()
            .write(true)
            .open("/dev/tty")
            .expect("a terminal");
        // SAFETY: as above.
        let known = unsafe { (libc::tcgetpgrp(fd), libc::tcgetsid(fd)) };
        assert_eq!(known, (group, session));
        tty.write_all(b"typed ").expect("room");
        await_signal(libc::SIGWINCH);
        assert_eq!(window(slave), [50, 100, 0, 0]);
        tty.write_all(b"resized ").expect("room");
        await_signal(libc::SIGINT);
        tty.write_all(b"interrupted ").expect("room");
        0
    });
    wait_for(&directory.join("foreground"));
    let stopped = fork(|| {
        own_group();
        // A job in the background that reads is stopped.
        let mut byte = [0];
        i32::from((&*slave).read(&mut byte).is_err())
    });
    assert_eq!(wait_stopped(stopped), libc::SIGTTIN);
    let orphan = pipeline(directory);
    let without = fork(|| {
        // SAFETY: as above.
        assert_eq!(unsafe { libc::ioctl(fd, libc::TIOCNOTTY) }, 0);
        std::fs::write(directory.join("without"), "").expect("a file");
        wait_for(&directory.join("go"));
        i32::from(File::open("/dev/tty").is_ok())
    });
    wait_for(&directory.join("without"));
    let mut tty = File::options()
        .write(true)
        .open("/dev/tty")
        .expect("a terminal");
    std::fs::write(directory.join("shell"), "").expect("a file");
    wait_for(&directory.join("go"));
    assert_eq!(wait(foreground), 0);
    // SAFETY: as above.
    unsafe {
        libc::signal(libc::SIGTTOU, libc::SIG_IGN);
        assert_eq!(libc::tcsetpgrp(fd, libc::getpgrp()), 0);
    }
    tty.write_all(b"shell goes on").expect("room");
    let mut line = [0; 16];
    let len = slave.read(&mut line).expect("a line");
    assert_eq!(&line[..len], b"end\n");
    assert_eq!((wait(orphan), wait(without)), (0, 0));
    // SAFETY: as above.
    unsafe {
        let mut status = 0;
        assert_eq!(libc::kill(-stopped, libc::SIGKILL), 0);
        assert_eq!(libc::waitpid(stopped, &mut status, 0), stopped);
        assert!(libc::WIFSIGNALED(status), "{status:#x}");
    }
    slave.write_all(b"good bye").expect("room");
    0
}

/// The member of a group whose leader has ended and was waited for.
fn pipeline(directory: &std::path::Path) -> i32 {
    let leader = fork(|| {
        wait_for(&directory.join("joined"));
        0
    });
    // SAFETY: the calls take numbers only.
    assert_eq!(unsafe { libc::setpgid(leader, leader) }, 0);
    let member = fork(|| {
        // SAFETY: as above.
        assert_eq!(unsafe { libc::setpgid(0, leader) }, 0);
        std::fs::write(directory.join("joined"), "").expect("a file");
        wait_for(&directory.join("go"));
        // SAFETY: as above.
        i32::from(unsafe { libc::getpgrp() } != leader)
    });
    assert_eq!(wait(leader), 0);
    member
}

/// A terminal whose other end nobody has opened.
fn unopened_terminal() -> Check {
    let terminal = Terminal::new();
    Box::new(move || drop(terminal.open()))
}

/// A terminal whose other end a process outside has.
fn outside_terminal(fixture: &Fixture) -> Check {
    let terminal = Terminal::new();
    let slave = terminal.open();
    crate::refused::outsider(fixture);
    Box::new(move || drop((terminal, slave)))
}
