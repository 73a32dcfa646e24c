//! nvvmm-witness runs in a Linux guest. It counts, fills memory with checkable patterns, watches
//! clocks and timers, writes files, and verifies all of it when the host asks on the console. The
//! protocol is in README.md.

mod answer;
mod clocks;
mod counter;
mod cpus;
mod disk;
mod kernel;
mod memory;
mod page;
mod session;
mod stranger;
mod sys;
mod timers;

use std::io::{self, BufRead, IsTerminal};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

/// Version of the console protocol.
const PROTOCOL: u32 = 1;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("stranger") {
        return match stranger::try_all() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("nvvmm-witness: {error}");
                ExitCode::FAILURE
            }
        };
    }
    match listen() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            answer::send(&format!("@ died -- {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Obeys lines until nobody can send any. On a console the end of input passes; on a pipe it is
/// final.
fn listen() -> io::Result<()> {
    let input = io::stdin();
    let is_console = input.is_terminal();
    if is_console {
        sys::switch_echo_off(input.as_fd())?;
    }
    let mut session = session::Session::start()?;
    let cpus = cpus::online()?.len();
    answer::send(&format!("@ ready protocol={PROTOCOL} cpus={cpus}"));
    let mut line = Vec::new();
    loop {
        line.clear();
        match input.lock().read_until(b'\n', &mut line) {
            Ok(0) if !is_console => return Ok(()),
            Ok(0) => std::thread::sleep(Duration::from_millis(100)),
            Ok(_) => session.obey(&String::from_utf8_lossy(&line)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
