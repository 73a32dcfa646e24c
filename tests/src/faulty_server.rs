//! A server of this process that speaks as much S3 as reading a store needs, and fails as a test
//! wants: over a directory that `nvvmm push` has filled.

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
    /// Connections that are reset in the middle of an answer.
    pub resets: u32,
    /// Answers about pieces in which a bit is another one.
    pub flipped: u32,
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
    has_ended: AtomicBool,
}

impl FaultyServer {
    /// Serves the bucket `b`, whose objects are the files below `directory`.
    pub fn start(directory: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            directory: directory.to_owned(),
            faults: Mutex::new((Faults::default(), Random::seeded("faulty server"))),
            sent_bytes: AtomicU64::new(0),
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
    body: Vec<u8>,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, (Faults, Random)> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The faults, and a number below 100 for each kind.
    fn draw(&self) -> (Faults, [u32; 3]) {
        let (faults, random) = &mut *self.lock();
        (*faults, [(); 3].map(|()| random.below(100) as u32))
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?);
        while let Some(request) = read_request(&mut lines)? {
            let (faults, [error, reset, flip]) = self.draw();
            if faults.is_away || self.has_ended.load(Ordering::Relaxed) {
                return Ok(());
            }
            std::thread::sleep(faults.latency);
            if error < faults.errors {
                answer(&mut stream, "500 Internal Server Error", "", b"")?;
                continue;
            }
            let Some(path) = self.path_of(&request.path) else {
                answer(&mut stream, "400 Bad Request", "", b"")?;
                continue;
            };
            if request.method == "PUT" {
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                std::fs::write(&path, &request.body)?;
                answer(&mut stream, "200 OK", "ETag: \"1\"\r\n", b"")?;
                continue;
            }
            let Ok((mut bytes, from, total)) = read_range(&path, request.range) else {
                answer(&mut stream, "404 Not Found", "", b"")?;
                continue;
            };
            if flip < faults.flipped && request.path.contains("/packs/") && !bytes.is_empty() {
                let at = bytes.len() / 2;
                bytes[at] ^= 1;
            }
            let end = from + bytes.len() as u64;
            let head = format!(
                "ETag: \"1\"\r\nLast-Modified: Mon, 30 Nov 2026 20:00:00 GMT\r\n\
                 Content-Range: bytes {from}-{}/{total}\r\n",
                end.saturating_sub(1)
            );
            self.sent_bytes
                .fetch_add(bytes.len() as u64, Ordering::Relaxed);
            let status = match request.range {
                Some(_) => "206 Partial Content",
                None => "200 OK",
            };
            if reset < faults.resets {
                let length = format!("Content-Length: {}\r\n", bytes.len());
                write!(stream, "HTTP/1.1 {status}\r\n{head}{length}\r\n")?;
                return stream.write_all(&bytes[..bytes.len() / 2]);
            }
            answer(&mut stream, status, &head, &bytes)?;
        }
        Ok(())
    }

    /// The file of `/b/KEY`.
    fn path_of(&self, path: &str) -> Option<PathBuf> {
        let key = Path::new(path.split('?').next()?.strip_prefix("/b/")?);
        let is_plain = key
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        is_plain.then(|| self.directory.join(key))
    }
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

fn answer(stream: &mut TcpStream, status: &str, head: &str, body: &[u8]) -> std::io::Result<()> {
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\n{head}Content-Length: {length}\r\n\r\n"
    )?;
    stream.write_all(body)
}
