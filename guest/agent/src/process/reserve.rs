//! Memory that is kept ready for the next restart, if whoever runs the agent wants that:
//! `NVVMM_RESERVE=SIZE` in its environment. (The kernel makes that of the same words on its command
//! line, for its first process.)

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
/// Has the size in bytes while there is one.
const FILE: &str = "/run/nvvmm/reserve";
/// After a failure, for want of memory above all.
const PAUSE: Duration = Duration::from_secs(60);
/// A smaller process does not take long.
const PAGES_MIN: u64 = 1024;

static READY: Mutex<Option<Reserve>> = Mutex::new(None);
static TAKEN: Condvar = Condvar::new();

/// Keeps one from now on, if that is wanted.
pub fn keep_as_told() {
    let Some(size) = std::env::var_os(VARIABLE) else {
        return;
    };
    match size.to_str().and_then(bytes_of) {
        Some(0) => {}
        // It makes the processes that are restarted: its end would be that of their parent
        // (PR_SET_PDEATHSIG).
        Some(bytes) => _ = thread::spawn(move || keep(bytes)),
        None => eprintln!("nvvmm-agent: {VARIABLE}={} is not a size", size.display()),
    }
}

/// For an image with so many pages: the reserve, if there is one and it is worth it.
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
                // Nobody need find it; it is for whoever waits for it.
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

/// So that it need not be in the page tables of the host, from which it takes time to take it at
/// the restart.
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
