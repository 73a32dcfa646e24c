//! The part of HTTP that programs need to scrape metrics: one short GET or HEAD on a connection,
//! and its answer.
//!
//! Source: RFC 9112. Any local user may connect to a loopback port, so the cost of one connection
//! is bounded.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// Longest request with all its headers.
pub(super) const REQUEST_BYTES_MAX: usize = 8 * 1024;
/// Most headers of one.
const HEADERS_MAX: usize = 64;
/// Bytes that a client may send after its request. They are ignored.
const IGNORED_BYTES_MAX: usize = 64 * 1024;

/// Either kind of connection.
pub(super) trait Connection: Read + Write {
    /// Sets the time that one read or write may take, not zero.
    fn limit(&self, time: Duration) -> io::Result<()>;
    /// Ends the stream of answers.
    fn end(&self) -> io::Result<()>;
}

macro_rules! connection {
    ($stream:ty) => {
        impl Connection for $stream {
            fn limit(&self, time: Duration) -> io::Result<()> {
                self.set_read_timeout(Some(time))?;
                self.set_write_timeout(Some(time))
            }

            fn end(&self) -> io::Result<()> {
                self.shutdown(Shutdown::Write)
            }
        }
    };
}

connection!(TcpStream);
connection!(UnixStream);

/// Answer to a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// Status code and reason.
    pub status: &'static str,
    /// Content-Type of the body.
    pub content_type: &'static str,
    /// The body; to a HEAD request only its length is told.
    pub body: String,
}

impl Answer {
    /// An answer that says in one line what is wrong.
    pub(super) fn refusal(status: &'static str, why: &str) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: format!("{why}\n"),
        }
    }
}

/// Reads one request, writes its answer, and ends the connection, all within `patience`. `get`
/// answers for a path.
pub(super) fn converse(
    mut stream: impl Connection,
    patience: Duration,
    get: impl FnOnce(&str) -> Answer,
) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    let (answer, with_body) = match read_request(&mut stream, deadline) {
        Ok(Some(request)) => match request.method.as_str() {
            "GET" => (get(&request.path), true),
            "HEAD" => (get(&request.path), false),
            _ => (
                Answer::refusal("405 Method Not Allowed", "only GET and HEAD"),
                true,
            ),
        },
        Ok(None) => return Ok(()),
        Err(Refused::With(answer)) => (answer, true),
        Err(Refused::Broken(error)) => return Err(error),
    };
    stream.limit(left(deadline))?;
    write_answer(&mut stream, &answer, with_body)?;
    stream.end()?;
    // To close with bytes unread would have the kernel throw away the answer that the client is
    // still to read.
    drain(&mut stream, deadline);
    Ok(())
}

/// The first line of a request.
#[derive(Debug)]
struct Request {
    method: String,
    path: String,
}

enum Refused {
    /// The client is told.
    With(Answer),
    /// The connection is.
    Broken(io::Error),
}

/// `None`: the client went away without a word.
fn read_request(
    stream: &mut impl Connection,
    deadline: Instant,
) -> Result<Option<Request>, Refused> {
    let mut bytes = Vec::new();
    loop {
        if let Some(request) = parse(&bytes).map_err(Refused::With)? {
            return Ok(Some(request));
        }
        if bytes.len() >= REQUEST_BYTES_MAX {
            let why = format!("a request has {REQUEST_BYTES_MAX} bytes at most");
            return Err(Refused::With(too_large(&why)));
        }
        let mut more = [0; 1024];
        let space = more.len().min(REQUEST_BYTES_MAX - bytes.len());
        match read_within(stream, &mut more[..space], deadline) {
            Ok(0) if bytes.is_empty() => return Ok(None),
            Ok(0) => return Err(Refused::With(bad_request("the request is cut off"))),
            Ok(count) => bytes.extend_from_slice(&more[..count]),
            Err(error) if is_late(&error) => {
                let late = Answer::refusal("408 Request Timeout", "the request took too long");
                return Err(Refused::With(late));
            }
            Err(error) => return Err(Refused::Broken(error)),
        }
    }
}

/// `None`: more is to come.
fn parse(bytes: &[u8]) -> Result<Option<Request>, Answer> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(_)) => {
            let text = |part: Option<&str>| part.unwrap_or_default().to_owned();
            Ok(Some(Request {
                method: text(request.method),
                path: text(request.path),
            }))
        }
        Err(httparse::Error::TooManyHeaders) => Err(too_large(&format!(
            "a request has {HEADERS_MAX} headers at most"
        ))),
        Err(error) => Err(bad_request(&format!("this is no request: {error}"))),
    }
}

fn bad_request(why: &str) -> Answer {
    Answer::refusal("400 Bad Request", why)
}

fn too_large(why: &str) -> Answer {
    Answer::refusal("431 Request Header Fields Too Large", why)
}

fn write_answer(stream: &mut impl Connection, answer: &Answer, with_body: bool) -> io::Result<()> {
    let mut text = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n",
        answer.status,
        answer.content_type,
        answer.body.len()
    );
    if answer.status.starts_with("405") {
        text.push_str("Allow: GET, HEAD\r\n");
    }
    text.push_str("\r\n");
    if with_body {
        text.push_str(&answer.body);
    }
    stream.write_all(text.as_bytes())
}

fn drain(stream: &mut impl Connection, deadline: Instant) {
    let mut bytes = [0; 4096];
    let mut seen = 0;
    while seen < IGNORED_BYTES_MAX {
        match read_within(stream, &mut bytes, deadline) {
            Ok(count @ 1..) => seen += count,
            _ => return,
        }
    }
}

fn read_within(
    stream: &mut impl Connection,
    into: &mut [u8],
    deadline: Instant,
) -> io::Result<usize> {
    loop {
        if Instant::now() >= deadline {
            return Err(ErrorKind::TimedOut.into());
        }
        stream.limit(left(deadline))?;
        match stream.read(into) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Time that is left. A limit of zero would mean no limit.
fn left(deadline: Instant) -> Duration {
    let left = deadline.saturating_duration_since(Instant::now());
    left.max(Duration::from_millis(1))
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

#[cfg(test)]
#[path = "http_test.rs"]
mod http_test;
