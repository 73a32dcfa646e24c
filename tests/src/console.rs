//! A VM's serial console, line by line.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

/// A connection to the console socket of a VM.
#[derive(Debug)]
pub struct Console {
    stream: UnixStream,
    received: Vec<u8>,
    /// Reason why nothing more will come.
    ended: Option<String>,
    /// Everything that came, for the message of a failed test.
    log: String,
}

impl Console {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> Self {
        let stream =
            UnixStream::connect(path).unwrap_or_else(|e| panic!("console {}: {e}", path.display()));
        stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .expect("a socket takes a timeout");
        Self {
            stream,
            received: Vec::new(),
            ended: None,
            log: String::new(),
        }
    }

    /// Types a line.
    pub fn say(&mut self, line: &str) {
        if let Err(error) = self.stream.write_all(format!("{line}\n").as_bytes()) {
            while self.line(Duration::from_millis(100)).is_some() {}
            panic!(
                "the console takes no input ({error}); the last lines were:\n{}",
                self.tail()
            );
        }
    }

    /// The last lines that came, for the message of a failed test.
    pub fn tail(&self) -> String {
        let lines: Vec<&str> = self.log.lines().collect();
        lines[lines.len().saturating_sub(80)..].join("\n")
    }

    /// The next line, without its end. `None` if no line came in time, or if the console closed the
    /// connection.
    pub fn line(&mut self, timeout: Duration) -> Option<String> {
        let until = Instant::now() + timeout;
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                self.log.push_str(&line);
                self.log.push('\n');
                return Some(line);
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    self.ended = Some("the console ended the connection".into());
                    return None;
                }
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(e)
                    if matches!(
                        e.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) => {}
                Err(error) => {
                    self.ended = Some(format!("the console's connection broke: {error}"));
                    return None;
                }
            }
            if Instant::now() > until {
                return None;
            }
        }
    }

    /// Skips to the line that contains `what`, and returns it.
    pub fn expect(&mut self, what: &str, timeout: Duration) -> String {
        let until = Instant::now() + timeout;
        while let Some(line) = self.line(until.saturating_duration_since(Instant::now())) {
            if line.contains(what) {
                return line;
            }
        }
        let why = self
            .ended
            .clone()
            .unwrap_or_else(|| format!("nothing within {timeout:?}"));
        panic!(
            "no line with {what:?}: {why}; unread: {:?}; the last lines were:\n{}",
            String::from_utf8_lossy(&self.received),
            self.tail()
        );
    }

    /// Discards everything that has come until now, such as the scroll-back that a new client gets.
    pub fn drain(&mut self) {
        while self.line(Duration::from_millis(300)).is_some() {}
        self.received.clear();
    }
}
