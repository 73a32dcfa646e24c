use std::thread;

use super::*;

/// Far longer than anything here takes.
const HUNG: Duration = Duration::from_secs(60);

/// Answer to `sent` of a server that knows `/metrics`. `ends`: the client then says
/// that it has no more.
fn asked(sent: &[u8], ends: bool, patience: Duration) -> String {
    let (mut client, server) = UnixStream::pair().unwrap();
    let served = thread::spawn(move || {
        converse(server, patience, |path| match path {
            "/metrics" => Answer {
                status: "200 OK",
                content_type: "text/x",
                body: "up 1\n".into(),
            },
            _ => Answer::refusal("404 Not Found", "look at /metrics"),
        })
    });
    // A server that has heard enough may be gone.
    let _ = client.write_all(sent);
    if ends {
        let _ = client.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    drop(client);
    served.join().unwrap().unwrap();
    String::from_utf8(answer).unwrap()
}

fn told(sent: &[u8]) -> String {
    asked(sent, true, HUNG)
}

#[test]
fn a_get_is_answered_with_a_body_and_a_head_without() {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 5\r\nConnection: close\r\n\r\n";
    for version in ["1.0", "1.1"] {
        let get = format!("GET /metrics HTTP/{version}\r\nHost: x\r\nAccept: */*\r\n\r\n");
        assert_eq!(told(get.as_bytes()), format!("{head}up 1\n"));
    }
    assert_eq!(told(b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), head);
}

#[test]
fn the_answer_does_not_wait_for_the_client_to_end() {
    let patience = Duration::from_millis(200);
    let answer = asked(b"GET /metrics HTTP/1.1\r\n\r\n", false, patience);
    assert!(answer.ends_with("\r\n\r\nup 1\n"), "{answer}");
}

#[test]
fn other_requests_are_refused() {
    for (sent, status) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "404 Not Found"),
        (
            b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            "405 Method Not Allowed",
        ),
        (b"hello\r\n\r\n", "400 Bad Request"),
        (b"GET /metrics HTTP/2.0\r\n\r\n", "400 Bad Request"),
        (b"GET /metrics HTTP/1.1\r\nHost", "400 Bad Request"),
        (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            "400 Bad Request",
        ),
    ] {
        let answer = told(sent);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{answer}"
        );
        assert_eq!(
            answer.contains("\r\nAllow: GET, HEAD\r\n"),
            status.starts_with("405")
        );
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}\r\n", body.len())),
            "{answer}"
        );
    }
    assert_eq!(told(b""), "", "nothing was asked");
}

#[test]
fn too_much_is_refused() {
    let mut long = b"GET /".to_vec();
    long.resize(REQUEST_BYTES_MAX + 1, b'a');
    let many = format!(
        "GET /metrics HTTP/1.1\r\n{}\r\n",
        "a: b\r\n".repeat(HEADERS_MAX + 1)
    );
    for sent in [long, many.into_bytes()] {
        let answer = told(&sent);
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
}

#[test]
fn who_says_nothing_more_is_not_waited_for() {
    let answer = asked(
        b"GET /metrics HTTP/1.1\r\n",
        false,
        Duration::from_millis(50),
    );
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}
