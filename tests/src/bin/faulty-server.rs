//! The test's S3 server as a program, for scripts/bench-remote.sh:
//!
//!     faulty-server DIRECTORY LATENCY-MS
//!
//! Prints the server's URL. Answers each line of its input with three numbers: bytes of objects
//! sent and received so far, and requests. Ends with its input.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use nvvmm_tests::{Faults, FaultyServer};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, latency] = arguments.as_slice() else {
        eprintln!("usage: faulty-server DIRECTORY LATENCY-MS");
        return ExitCode::from(2);
    };
    let Ok(latency) = latency.parse() else {
        eprintln!("'{latency}' is no number of milliseconds");
        return ExitCode::from(2);
    };
    let server = FaultyServer::start(Path::new(directory));
    server.set(Faults {
        latency: Duration::from_millis(latency),
        ..Faults::default()
    });
    let [(_, url), ..] = server.variables();
    println!("{url}");
    for _ in std::io::stdin().lines() {
        println!(
            "{} {} {}",
            server.sent_bytes(),
            server.received_bytes(),
            server.requests()
        );
    }
    ExitCode::SUCCESS
}
