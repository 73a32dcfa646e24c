//! Memory that is kept ready for the next restart, if `NVVMM_RESERVE=SIZE` is in the agent's
//! environment. The kernel sets that for its first process if its command line has the same words.

use std::fs;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nvvmm_process::{Empty, Error, Reserve};
use nvvmm_protocol::FromGuest;

use super::exclusive::one_at_a_time;
use super::frames::messages_of;
use crate::link;

const VARIABLE: &str = "NVVMM_RESERVE";
/// A file that contains the size in bytes while there is a reserve.
const FILE: &str = "/run/nvvmm/reserve";
/// Pause after a failure, which is mostly a lack of memory.
const PAUSE: Duration = Duration::from_secs(60);
/// A smaller process does not take long.
const PAGES_MIN: u64 = 1024;

static READY: Mutex<Option<Reserve>> = Mutex::new(None);
static TAKEN: Condvar = Condvar::new();

/// Keeps a reserve from now on, if the environment asks for it.
pub fn keep_as_told() {
    let Some(size) = std::env::var_os(VARIABLE) else {
        return;
    };
    match size.to_str().and_then(bytes_of) {
        Some(0) => {}
        // This thread makes the processes that are restarted. For them its end would be the end of
        // their parent (PR_SET_PDEATHSIG).
        Some(bytes) => _ = thread::spawn(move || keep(bytes)),
        None => eprintln!("nvvmm-agent: {VARIABLE}={} is not a size", size.display()),
    }
}

/// Takes the reserve for an image of so many pages, if there is one and it is worth it.
pub fn take(pages: u64) -> Option<Reserve> {
    if pages < PAGES_MIN {
        return None;
    }
    let reserve = ready().take()?;
    let _ = fs::remove_file(FILE);
    TAKEN.notify_all();
    Some(reserve)
}

fn keep(bytes: u64) {
    loop {
        match make(bytes) {
            Ok(reserve) => {
                // Only tests and users wait for this file: a failure does not matter.
                let _ = note(reserve.len_bytes());
                tell_host(&reserve);
                *ready() = Some(reserve);
            }
            Err(error) => {
                eprintln!("nvvmm-agent: no memory is kept ready: {error}");
                thread::sleep(PAUSE);
            }
        }
        let mut reserve = ready();
        while reserve.is_some() {
            reserve = TAKEN.wait(reserve).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn make(bytes: u64) -> Result<Reserve, Error> {
    let begun = {
        let _alone = one_at_a_time();
        Reserve::begin(bytes)
    };
    begun.and_then(Empty::fill)
}

fn ready() -> MutexGuard<'static, Option<Reserve>> {
    READY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(bytes: u64) -> std::io::Result<()> {
    if let Some(directory) = Path::new(FILE).parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(FILE, format!("{bytes}\n"))
}

/// Tells the host the frames of the reserve. The host then keeps them out of its page tables, which
/// saves time at the restart.
fn tell_host(reserve: &Reserve) {
    let runs = reserve.frames().unwrap_or_default();
    for part in messages_of(&runs) {
        link::tell(&FromGuest::Idle(part));
    }
}

/// A number with K, M, G or nothing behind it.
fn bytes_of(size: &str) -> Option<u64> {
    let digits = size.trim_end_matches(|unit: char| unit.is_ascii_alphabetic());
    let shift = match &size[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
#[path = "reserve_test.rs"]
mod reserve_test;
