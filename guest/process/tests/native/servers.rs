//! Servers that this machine may have, with their clients: captured in the middle of their work and
//! restarted, three times. Clients are told that their connection is gone, and connect again.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use nvvmm_process::{
    CaptureOptions, CopiedPages, FreezeEnd, RestartOptions, check, freeze_and_capture, restart,
};

use crate::harness::{can_run, one_at_a_time, output_of, spawn_alone};

const PATIENCE: Duration = Duration::from_secs(60);
const RESTARTS: u32 = 3;
const NOBODY: u32 = 65_534;

/// A server with its descendants. It ends with the test.
struct Server {
    pid: i32,
    port: u16,
}

impl Server {
    /// Starts a program in a directory, in which it writes its log.
    fn start(program: &Path, arguments: &[&str], directory: &Path, port: u16) -> Self {
        nix::sys::prctl::set_child_subreaper(true).expect("a subreaper");
        let log = File::create(directory.join("log")).expect("a log");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir(directory)
            .env_clear()
            .stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a log")).stderr(log);
        // PostgreSQL refuses to be root.
        command.uid(NOBODY).gid(NOBODY);
        let pid = spawn_alone(&mut command);
        Self { pid, port }
    }

    fn connect(&self) -> TcpStream {
        let began = Instant::now();
        loop {
            match TcpStream::connect(("127.0.0.1", self.port)) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
                    return stream;
                }
                Err(error) => assert!(began.elapsed() < PATIENCE, "nobody serves: {error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Captures and ends it, and restarts it.
    fn move_on(&self) {
        let options = CaptureOptions {
            tree: true,
            frees_numbers: true,
            ..CaptureOptions::default()
        };
        let _alone = one_at_a_time();
        check(self.pid, options).unwrap_or_else(|error| panic!("check: {error}"));
        let mut pages = CopiedPages::default();
        let (frozen, captured) = freeze_and_capture(self.pid, options, &mut pages)
            .unwrap_or_else(|error| panic!("capture: {error}"));
        frozen.end(FreezeEnd::Kill).expect("their end");
        let ended = captured.image.ended.iter().map(|child| child.pid);
        let processes = captured.image.processes.iter();
        for pid in processes.map(|process| process.pid).chain(ended) {
            waitpid(Pid::from_raw(pid), None).expect("its end");
        }
        let options = RestartOptions::default();
        restart(&captured.image, &options, None, &mut pages)
            .unwrap_or_else(|error| panic!("restart: {error}"));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGQUIT);
        let began = Instant::now();
        let ends = Some(nix::sys::wait::WaitPidFlag::WNOHANG);
        while let Ok(nix::sys::wait::WaitStatus::StillAlive) =
            waitpid(Pid::from_raw(self.pid), ends)
        {
            if began.elapsed() > Duration::from_secs(10) {
                let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A port that nobody has; somebody else may take it before it is used.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A directory that the server may write to.
fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).expect("its owner");
    directory
}

/// A client whose server is gone is told so at once.
fn assert_ended(mut client: TcpStream) {
    match client.read(&mut [0; 16]) {
        Ok(0) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        other => panic!("its connection goes on: {other:?}"),
    }
}

#[test]
fn a_web_server_of_python_with_threads() {
    const PROGRAM: &str = "/usr/bin/python3";
    if !can_run() {
        return;
    }
    if !Path::new(PROGRAM).exists() {
        return eprintln!("SKIPPED: {PROGRAM} is not here");
    }
    let directory = directory();
    std::fs::write(directory.path().join("page"), "what is served").expect("a file");
    let port = free_port();
    let number = port.to_string();
    let arguments = ["-m", "http.server", "--bind", "127.0.0.1", &number];
    let server = Server::start(Path::new(PROGRAM), &arguments, directory.path(), port);
    let get = || {
        let mut client = server.connect();
        client
            .write_all(b"GET /page HTTP/1.0\r\n\r\n")
            .expect("room");
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer");
        assert!(answer.ends_with("what is served"), "{answer}");
    };
    get();
    for _ in 0..RESTARTS {
        // A thread of the server waits for what it asks.
        let client = server.connect();
        get();
        server.move_on();
        assert_ended(client);
        get();
    }
}

/// A session of PostgreSQL's protocol, without a password.
struct Session(TcpStream);

impl Session {
    fn new(server: &Server) -> Self {
        let began = Instant::now();
        loop {
            let mut stream = server.connect();
            let mut message = 196_608u32.to_be_bytes().to_vec();
            message.extend(b"user\0nobody\0database\0postgres\0\0");
            let len = message.len() as u32 + 4;
            stream
                .write_all(&[&len.to_be_bytes()[..], &message].concat())
                .expect("room");
            let mut session = Self(stream);
            // While it starts it sends an error and ends the connection.
            if let Ok(answer) = session.answer() {
                assert_eq!(answer, Vec::<String>::new());
                return session;
            }
            assert!(began.elapsed() < PATIENCE, "it does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Sends statements. Answers the first columns of all rows.
    fn ask(&mut self, statements: &str) -> Vec<String> {
        let len = statements.len() as u32 + 5;
        let message = [b"Q", &len.to_be_bytes()[..], statements.as_bytes(), b"\0"].concat();
        self.0.write_all(&message).expect("room");
        self.answer().expect("an answer")
    }

    /// Reads messages until it waits for the next statement.
    fn answer(&mut self) -> io::Result<Vec<String>> {
        let mut rows = Vec::new();
        loop {
            let mut head = [0; 5];
            self.0.read_exact(&mut head)?;
            let len = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4;
            let mut body = vec![0; len];
            self.0.read_exact(&mut body)?;
            match head[0] {
                b'Z' => return Ok(rows),
                b'E' => return Err(io::Error::other(String::from_utf8_lossy(&body))),
                // Number of columns, length of the first one, its text.
                b'D' => {
                    let len = u32::from_be_bytes([body[2], body[3], body[4], body[5]]) as usize;
                    rows.push(String::from_utf8_lossy(&body[6..6 + len]).into_owned());
                }
                _ => {}
            }
        }
    }
}

#[test]
fn postgresql_with_sessions() {
    let has = |name: &str| {
        let found = Path::new("/usr/local/bin").join(name);
        found.canonicalize().ok()
    };
    if !can_run() {
        return;
    }
    let (Some(initdb), Some(postgres)) = (has("initdb"), has("postgres")) else {
        return eprintln!("SKIPPED: PostgreSQL is not here");
    };
    let directory = directory();
    let data = directory.path().join("data");
    let data = data.to_str().expect("a path");
    let mut initdb = Command::new(initdb);
    initdb
        .args([
            "-D",
            data,
            "-U",
            "nobody",
            "-A",
            "trust",
            "-N",
            "--no-locale",
        ])
        .current_dir("/")
        .env_clear()
        .uid(NOBODY)
        .gid(NOBODY);
    let made = output_of(&mut initdb).expect("initdb");
    assert!(made.status.success(), "{made:?}");
    let port = free_port();
    let number = port.to_string();
    let sockets = directory.path().to_str().expect("a path").to_owned();
    let arguments = [
        "-D",
        data,
        "-p",
        &number,
        "-k",
        &sockets,
        "-h",
        "127.0.0.1",
        "-c",
        "fsync=off",
    ];
    let server = Server::start(&postgres, &arguments, directory.path(), port);
    let mut session = Session::new(&server);
    session.ask("create table t (n int, text text)");
    for restart in 0..RESTARTS {
        session.ask("insert into t select n, md5(n::text) from generate_series(1, 5000) n");
        session.ask("begin; delete from t");
        server.move_on();
        assert_ended(session.0);
        // What was committed is there, and what was not is not.
        session = Session::new(&server);
        let found = session.ask("select count(*) from t where text = md5(n::text)");
        assert_eq!(found, [(5000 * (restart + 1)).to_string()]);
    }
    session.ask("vacuum t");
    assert_eq!(session.ask("select 'works'"), ["works"]);
}
