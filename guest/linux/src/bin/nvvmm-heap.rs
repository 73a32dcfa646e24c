//! nvvmm-heap MIB DIRECTORY: a process to capture. It fills MIB of private memory with a pattern,
//! makes DIRECTORY/ready, and waits for DIRECTORY/go. Then it verifies every word, and writes the
//! result and its cost to DIRECTORY/verdict. It repeats this for each go.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const WORDS_PER_MIB: usize = (1 << 20) / 8;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nvvmm-heap: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = || io::Error::other("usage: nvvmm-heap MIB DIRECTORY");
    let mib: usize = arguments
        .next()
        .and_then(|mib| mib.parse().ok())
        .ok_or_else(usage)?;
    let directory: PathBuf = arguments.next().ok_or_else(usage)?.into();
    let memory: Vec<u64> = (0..(mib * WORDS_PER_MIB) as u64).map(word).collect();
    publish(&directory, "ready", &format!("{}\n", std::process::id()))?;
    loop {
        while std::fs::remove_file(directory.join("go")).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        publish(&directory, "verdict", &verdict(&memory))?;
    }
}

/// The expected word at `index`.
fn word(index: u64) -> u64 {
    (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index >> 3
}

/// Reads all of the memory: how many words are wrong, the page faults that this process took for
/// it, and the time.
fn verdict(memory: &[u64]) -> String {
    let (began, faults) = (Instant::now(), minor_faults());
    let wrong = (0..)
        .zip(memory)
        .filter(|(index, found)| **found != word(*index))
        .count();
    format!(
        "wrong={wrong} faults={} verify_us={}\n",
        minor_faults() - faults,
        began.elapsed().as_micros()
    )
}

fn minor_faults() -> i64 {
    // SAFETY: all zeroes are a value of this struct of plain numbers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to such a struct, which is ours; it is not kept.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    usage.ru_minflt
}

/// Writes a file that is never seen in part.
fn publish(directory: &Path, name: &str, content: &str) -> io::Result<()> {
    let new = directory.join(format!("{name}.new"));
    std::fs::write(&new, content)?;
    std::fs::rename(new, directory.join(name))
}
