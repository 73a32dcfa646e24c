use std::{
    io::{PipeWriter, Read, Write, pipe},
    net::TcpStream,
    os::unix::net::UnixStream,
    sync::mpsc::channel,
};

use super::*;

/// An exporter at `address`, while `deed` is done with its place.
fn serving(address: &ExporterAddress, deed: impl FnOnce(&str)) {
    let exporter = Exporter::bind(address).unwrap();
    let place = exporter.place().unwrap();
    let (stopped, stop): (_, PipeWriter) = pipe().unwrap();
    let (count, counted) = channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let scrape = || {
                count.send(()).unwrap();
                "up 1\n".to_owned()
            };
            exporter.serve(stopped.as_fd(), scrape).unwrap();
        });
        deed(&place);
        drop(stop);
    });
    drop(count);
    assert_eq!(
        counted.iter().count(),
        2,
        "each is asked for anew, and nothing else"
    );
}

fn ask(mut stream: impl Read + Write, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn assert_served(connect: impl Fn() -> Box<dyn Stream>) {
    for path in ["/metrics", "/metrics?name=x"] {
        let answer = ask(connect(), path);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            answer.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"),
            "{answer}"
        );
        assert!(answer.ends_with("\r\n\r\nup 1\n"), "{answer}");
    }
    // One that comes and goes, and one that asks for something else.
    drop(connect());
    assert!(ask(connect(), "/metrics/more").starts_with("HTTP/1.1 404 "));
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

#[test]
fn metrics_are_served_on_a_loopback_port() {
    serving(&"127.0.0.1:0".parse().unwrap(), |place| {
        let port = place
            .strip_prefix("http://")
            .and_then(|rest| rest.strip_suffix("/metrics"))
            .unwrap();
        assert_served(|| Box::new(TcpStream::connect(port).unwrap()));
    });
}

#[test]
fn metrics_are_served_on_a_unix_socket_that_goes_away() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics");
    let address: ExporterAddress = format!("unix:{}", path.display()).parse().unwrap();
    serving(&address, |_| {
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_served(|| Box::new(UnixStream::connect(&path).unwrap()));
        let second = Exporter::bind(&address).err().map(|error| error.kind());
        assert_eq!(second, Some(io::ErrorKind::AddrInUse));
    });
    assert!(!path.exists());
}

#[test]
fn only_this_host_can_be_reached() {
    for good in ["127.0.0.1:9100", "127.8.8.8:1", "[::1]:0"] {
        let parsed: ExporterAddress = good.parse().unwrap();
        assert_eq!(parsed, ExporterAddress::Loopback(good.parse().unwrap()));
    }
    assert_eq!("unix:a b".parse(), Ok(ExporterAddress::Unix("a b".into())));
    for (bad, why) in [
        ("0.0.0.0:9100", "outside"),
        ("[::]:9100", "outside"),
        ("192.168.1.1:80", "outside"),
        ("[::ffff:127.0.0.1]:80", "outside"),
        ("localhost:9100", "use unix:PATH"),
        ("127.0.0.1", "use unix:PATH"),
        ("9100", "use unix:PATH"),
        ("", "use unix:PATH"),
        ("unix:", "missing"),
    ] {
        let refused = bad.parse::<ExporterAddress>().unwrap_err();
        assert!(refused.contains(why), "{bad}: {refused}");
    }
}
