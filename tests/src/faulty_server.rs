//! A server of this process that speaks as much S3 as a store needs, and fails as a test wants. Its
//! objects are the files of a directory, as `nvvmm push` makes them there.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Seek, SeekFrom, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Component, Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::Random;

/// Faults of a server. Parts are percent of the requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Time before each answer.
    pub latency: Duration,
    /// Answers "internal error".
    pub errors: u32,
    /// Answers "slow down".
    pub throttled: u32,
    /// Connections that are reset in the middle of an answer. What was to be written is written.
    pub resets: u32,
    /// Answers about pieces in which a bit is another one.
    pub flipped: u32,
    /// Answers about pieces that end before their end.
    pub cut: u32,
    /// Writes on a condition are refused.
    pub refuses_conditions: bool,
    /// The server's clock is years ahead.
    pub is_ahead: bool,
    /// Nobody answers: connections are closed.
    pub is_away: bool,
}

/// A server, which ends with the test.
#[derive(Debug)]
pub struct FaultyServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    faults: Mutex<(Faults, Random)>,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    requests: AtomicU64,
    has_ended: AtomicBool,
}

impl FaultyServer {
    /// Serves the bucket `b`, whose objects are the files below `directory`.
    pub fn start(directory: &Path) -> Self {
        Self::start_at(directory, "127.0.0.1")
    }

    /// Does so at an address of this host.
    pub fn start_at(directory: &Path, address: &str) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            faults: Mutex::new((Faults::default(), Random::seeded("faulty server"))),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            has_ended: AtomicBool::new(false),
        });
        let serves = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serves.has_ended.load(Ordering::Relaxed) {
                    return;
                }
                let serves = Arc::clone(&serves);
                // A client that leaves is no fault of the test.
                std::thread::spawn(move || serves.serve(stream).unwrap_or_default());
            }
        });
        Self { address, shared }
    }

    /// Has requests from now on fail like this.
    pub fn set(&self, faults: Faults) {
        self.shared.lock().0 = faults;
    }

    /// Bytes of objects that were sent.
    pub fn sent_bytes(&self) -> u64 {
        self.shared.sent_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of objects that were received.
    pub fn received_bytes(&self) -> u64 {
        self.shared.received_bytes.load(Ordering::Relaxed)
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }

    /// Variables with which nvvmm finds the server.
    pub fn variables(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ]
    }
}

impl Drop for FaultyServer {
    fn drop(&mut self) {
        self.shared.has_ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

/// A request, as far as it matters.
struct Request {
    method: String,
    path: String,
    range: Option<(u64, u64)>,
    /// The object must not be there.
    if_absent: bool,
    body: Vec<u8>,
}

/// Numbers below 100, one for each kind of fault.
struct Draw {
    error: u32,
    throttle: u32,
    reset: u32,
    flip: u32,
    cut: u32,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, (Faults, Random)> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self) -> (Faults, Draw) {
        let (faults, random) = &mut *self.lock();
        let mut number = || random.below(100) as u32;
        let draw = Draw {
            error: number(),
            throttle: number(),
            reset: number(),
            flip: number(),
            cut: number(),
        };
        (*faults, draw)
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        // The head of an answer goes out before its body.
        stream.set_nodelay(true)?;
        let mut lines = BufReader::new(stream.try_clone()?);
        while let Some(request) = read_request(&mut lines)? {
            let (faults, draw) = self.draw();
            if faults.is_away || self.has_ended.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.requests.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(faults.latency);
            let done = if draw.error < faults.errors {
                Reply::of("500 Internal Server Error")
            } else if draw.throttle < faults.throttled {
                Reply::of("503 Slow Down")
            } else {
                self.carry_out(&request, &faults, &draw)?
            };
            let is_head = request.method == "HEAD";
            if !done.send(&mut stream, is_head, draw.reset < faults.resets)? {
                return Ok(());
            }
        }
        Ok(())
    }

    fn carry_out(&self, request: &Request, faults: &Faults, draw: &Draw) -> std::io::Result<Reply> {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        match (request.method.as_str(), self.path_of(path)) {
            ("GET", None) if query.contains("list-type=2") => self.list(query, faults),
            ("POST", None) if query.starts_with("delete") => self.delete(&request.body),
            ("PUT", Some(path)) => self.put(&path, request, faults),
            ("GET" | "HEAD", Some(path)) => Ok(self.get(&path, request, faults, draw)),
            _ => Ok(Reply::of("400 Bad Request")),
        }
    }

    fn put(&self, path: &Path, request: &Request, faults: &Faults) -> std::io::Result<Reply> {
        if request.if_absent && faults.refuses_conditions {
            return Ok(Reply::of("501 Not Implemented"));
        }
        // One writer at a time: what is absent stays so until it is written.
        let _guard = self.lock();
        if request.if_absent && path.exists() {
            return Ok(Reply::of("412 Precondition Failed"));
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let length = request.body.len() as u64;
        self.received_bytes.fetch_add(length, Ordering::Relaxed);
        std::fs::write(path, &request.body)?;
        Ok(Reply {
            head: "ETag: \"1\"\r\n".to_owned(),
            ..Reply::of("200 OK")
        })
    }

    fn get(&self, path: &Path, request: &Request, faults: &Faults, draw: &Draw) -> Reply {
        let Ok((mut bytes, from, total)) = read_range(path, request.range) else {
            return Reply::of("404 Not Found");
        };
        let is_pack = request.path.contains("/packs/") && !bytes.is_empty();
        if is_pack && draw.flip < faults.flipped {
            let at = bytes.len() / 2;
            bytes[at] ^= 1;
        }
        if is_pack && draw.cut < faults.cut {
            bytes.truncate(bytes.len() / 2);
        }
        let length = bytes.len() as u64;
        self.sent_bytes.fetch_add(length, Ordering::Relaxed);
        let last = (from + length).saturating_sub(1);
        Reply {
            status: match request.range {
                Some(_) => "206 Partial Content",
                None => "200 OK",
            },
            head: format!(
                "ETag: \"1\"\r\nLast-Modified: {}\r\n\
                 Content-Range: bytes {from}-{last}/{total}\r\n",
                moment(faults).0
            ),
            body: bytes,
        }
    }

    /// All objects of a prefix.
    fn list(&self, query: &str, faults: &Faults) -> std::io::Result<Reply> {
        let prefix = query
            .split('&')
            .find_map(|part| part.strip_prefix("prefix="));
        let prefix = prefix.unwrap_or_default().replace("%2F", "/");
        let mut body = "<ListBucketResult>".to_owned();
        for path in files_below(&self.directory.join(&prefix))? {
            let size = path.metadata().map_or(0, |found| found.len());
            let key = path.strip_prefix(&self.directory).unwrap_or(&path);
            body += &format!(
                "<Contents><Key>{}</Key><Size>{size}</Size><LastModified>{}</LastModified>\
                 <ETag>1</ETag></Contents>",
                key.display(),
                moment(faults).1
            );
        }
        body += "</ListBucketResult>";
        Ok(Reply {
            body: body.into_bytes(),
            ..Reply::of("200 OK")
        })
    }

    fn delete(&self, body: &[u8]) -> std::io::Result<Reply> {
        let text = String::from_utf8_lossy(body);
        let mut answer = "<DeleteResult>".to_owned();
        for part in text.split("<Key>").skip(1) {
            let key = part.split("</Key>").next().unwrap_or_default();
            if let Some(path) = self.path_of(&format!("/b/{key}")) {
                let _ = std::fs::remove_file(path);
            }
            answer += &format!("<Deleted><Key>{key}</Key></Deleted>");
        }
        answer += "</DeleteResult>";
        Ok(Reply {
            body: answer.into_bytes(),
            ..Reply::of("200 OK")
        })
    }

    /// The file of `/b/KEY`.
    fn path_of(&self, path: &str) -> Option<PathBuf> {
        let key = Path::new(path.strip_prefix("/b/")?);
        let is_plain = key
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        let has_any = key.components().next().is_some();
        (is_plain && has_any).then(|| self.directory.join(key))
    }
}

/// An answer.
struct Reply {
    status: &'static str,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn of(status: &'static str) -> Self {
        Self {
            status,
            head: String::new(),
            body: Vec::new(),
        }
    }

    /// Sends it, or half of it. False when the connection is of no more use.
    fn send(&self, stream: &mut TcpStream, is_head: bool, is_reset: bool) -> std::io::Result<bool> {
        let (status, head, length) = (self.status, &self.head, self.body.len());
        let body = match (is_head, is_reset) {
            (true, _) => &[],
            (false, true) => &self.body[..length / 2],
            (false, false) => &self.body[..],
        };
        if is_reset && body.is_empty() {
            return Ok(false);
        }
        write!(
            stream,
            "HTTP/1.1 {status}\r\n{head}Content-Length: {length}\r\n\r\n"
        )?;
        stream.write_all(body)?;
        Ok(!is_reset)
    }
}

/// The time of the server, as HTTP and as S3 write it.
fn moment(faults: &Faults) -> (&'static str, &'static str) {
    match faults.is_ahead {
        true => ("Sat, 30 Nov 2041 20:00:00 GMT", "2041-11-30T20:00:00Z"),
        false => ("Mon, 30 Nov 2026 20:00:00 GMT", "2026-11-30T20:00:00Z"),
    }
}

/// All files below a directory, in order; none if it is not there.
fn files_below(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let Ok(entries) = std::fs::read_dir(directory) else {
        return Ok(files);
    };
    for entry in entries {
        let path = entry?.path();
        match path.is_dir() {
            true => files.extend(files_below(&path)?),
            false => files.push(path),
        }
    }
    files.sort();
    Ok(files)
}

fn read_request(lines: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if lines.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split(' ');
    let (method, path) = (words.next(), words.next());
    let mut request = Request {
        method: method.unwrap_or_default().to_owned(),
        path: path.unwrap_or_default().to_owned(),
        range: None,
        if_absent: false,
        body: Vec::new(),
    };
    let mut length = 0;
    loop {
        let mut header = String::new();
        if lines.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        let header = header.trim().to_ascii_lowercase();
        if let Some(range) = header.strip_prefix("range: bytes=") {
            let ends = range.split_once('-');
            request.range =
                ends.and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
        }
        request.if_absent |= header.starts_with("if-none-match: *");
        if let Some(bytes) = header.strip_prefix("content-length: ") {
            length = bytes.parse().unwrap_or_default();
        }
    }
    request.body.resize(length, 0);
    lines.read_exact(&mut request.body)?;
    Ok(Some(request))
}

/// Bytes of a file from the first to the last of the range, the first one's place, and its length.
fn read_range(path: &Path, range: Option<(u64, u64)>) -> std::io::Result<(Vec<u8>, u64, u64)> {
    let mut file = File::open(path)?;
    let total = file.metadata()?.len();
    let (from, last) = range.unwrap_or((0, total.saturating_sub(1)));
    let end = last.saturating_add(1).min(total);
    let mut bytes = vec![0; end.saturating_sub(from) as usize];
    file.seek(SeekFrom::Start(from))?;
    file.read_exact(&mut bytes)?;
    Ok((bytes, from, total))
}
