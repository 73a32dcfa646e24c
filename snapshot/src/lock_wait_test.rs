use std::io::Read;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;
use crate::file_lock::{self, LockMode, LockPlace};
use crate::handle::Pool;
use crate::other_process::ProcessState;
use crate::pool::CreateOptions;

/// Variable by which a test starts itself as the process that has a pool's lock.
const HOLDER_OF: &str = "NVVMM_TEST_HOLDER_OF";

/// Runs in a process of its own, started by the tests below: takes the lock of a pool, says so, and
/// keeps it until it is killed.
#[test]
fn holds_the_lock_of_a_pool() {
    let Some(path) = std::env::var_os(HOLDER_OF) else {
        return;
    };
    let file = File::options().read(true).write(true).open(path).unwrap();
    assert!(file_lock::try_lock(&file, LockPlace::Catalog, LockMode::Exclusive).unwrap());
    println!("\nLOCKED");
    std::thread::sleep(Duration::from_secs(600));
}

struct Held {
    _dir: tempfile::TempDir,
    pool: std::sync::Arc<Pool>,
    holder: Child,
}

impl Held {
    /// A pool whose lock another process has.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pool");
        let options = CreateOptions {
            size_bytes: 8 << 20,
            overcommit: true,
        };
        let pool = Pool::create(&path, &options).unwrap();
        let mut holder = Command::new(std::env::current_exe().unwrap())
            .args(["holds_the_lock_of_a_pool", "--nocapture"])
            .env(HOLDER_OF, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = Vec::new();
        let stdout = holder.stdout.as_mut().unwrap();
        while !said.ends_with(b"LOCKED") {
            let mut byte = [0];
            stdout.read_exact(&mut byte).unwrap();
            said.push(byte[0]);
        }
        Self {
            _dir: dir,
            pool,
            holder,
        }
    }

    fn stop(&self) {
        kill(Pid::from_raw(self.holder.id() as i32), Signal::SIGSTOP).unwrap();
        while !ProcessState::of(self.holder.id()).unwrap().is_stopped() {
            std::thread::yield_now();
        }
    }

    fn end(&mut self) {
        self.holder.kill().unwrap();
        self.holder.wait().unwrap();
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[test]
fn a_stopped_process_that_has_the_lock_is_named_and_not_waited_for() {
    let mut held = Held::new();
    held.stop();
    let error = held.pool.snapshots().unwrap_err();
    let pid = held.holder.id();
    let Error::PoolLocked { holder, hopeless } = &error else {
        panic!("{error}");
    };
    assert!(hopeless);
    assert_eq!(holder.pid(), Some(pid));
    assert!(holder.is_stopped());
    let text = error.to_string();
    assert!(
        text.contains(&format!("process {pid} (")) && text.contains("which is stopped"),
        "{text}"
    );
    let wait = held.pool.lock_wait().unwrap();
    assert!(wait.hopeless && wait.holder == *holder);
    // The next one is told at once, and another opener, too.
    assert!(matches!(
        held.pool.snapshots(),
        Err(Error::PoolLocked { .. })
    ));
    assert!(matches!(
        Pool::open(held.pool.path()),
        Err(Error::PoolLocked { .. })
    ));
    held.end();
    assert!(held.pool.snapshots().unwrap().is_empty());
    assert_eq!(held.pool.lock_wait(), None);
}

#[test]
fn a_thread_in_a_hurry_may_try_again_and_others_wait_for_a_process_that_lives() {
    let mut held = Held::new();
    let pool = std::sync::Arc::clone(&held.pool);
    let hurried = std::thread::spawn(move || {
        wait_for_locks_at_most(Duration::from_millis(20));
        pool.snapshots().map(|_| ())
    });
    let error = hurried.join().unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            Error::PoolLocked {
                hopeless: false,
                ..
            }
        ),
        "{error}"
    );
    assert!(!held.pool.lock_wait().unwrap().hopeless);
    let pool = std::sync::Arc::clone(&held.pool);
    let patient = std::thread::spawn(move || pool.snapshots().map(|all| all.len()));
    while held
        .pool
        .lock_wait()
        .is_none_or(|wait| wait.waited < Duration::from_millis(100))
    {
        std::thread::yield_now();
    }
    held.end();
    assert_eq!(patient.join().unwrap().unwrap(), 0);
}
