//! This program's own commands, for what is measured with VMs in processes of their own.

use std::{
    io,
    path::PathBuf,
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use nvvmm::VmError;

use super::{
    bench_pool::{BenchPool, private_directory},
    console::Console,
};

/// Runs commands with a pool, and with a directory for sockets that nobody else uses.
pub struct Commands {
    program: PathBuf,
    runtime: tempfile::TempDir,
    pool: PathBuf,
}

impl Commands {
    /// Prepares to run commands with `pool`.
    ///
    /// # Errors
    /// There is no directory for sockets, or this program is not found.
    pub fn on(pool: &BenchPool) -> Result<Self, VmError> {
        Ok(Self {
            program: std::env::current_exe().map_err(|e| VmError::io("find this program", &e))?,
            runtime: private_directory()?,
            pool: pool.pool_path().to_owned(),
        })
    }

    /// Runs one, and gives back what it has printed.
    ///
    /// # Errors
    /// It failed.
    pub fn run(&self, arguments: &[&str]) -> Result<Vec<u8>, VmError> {
        let ended = self.command(arguments).output();
        let ended = ended.map_err(|e| not_run(arguments, &e))?;
        if ended.status.success() {
            return Ok(ended.stdout);
        }
        Err(failed(arguments, &ended))
    }

    /// Runs one that does not end by itself for so long, and asks it to end then.
    ///
    /// # Errors
    /// It could not be started, ended earlier, or failed.
    pub fn run_for(&self, arguments: &[&str], time: Duration) -> Result<(), VmError> {
        let mut running = self
            .command(arguments)
            .spawn()
            .map_err(|e| not_run(arguments, &e))?;
        thread::sleep(time);
        let ended_early = running
            .try_wait()
            .map_err(|e| not_run(arguments, &e))?
            .is_some();
        if !ended_early {
            let pid = Pid::from_raw(running.id() as i32);
            kill(pid, Signal::SIGTERM).map_err(|e| not_run(arguments, &e.into()))?;
        }
        let ended = running
            .wait_with_output()
            .map_err(|e| not_run(arguments, &e))?;
        if ended_early {
            return Err(failed(arguments, &ended));
        }
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("NVVMM_RUNTIME_DIR", self.runtime.path())
            .env("NVVMM_POOL", &self.pool)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Ends a VM, if there is one of that name.
    pub fn end(&self, vm: &str) {
        if let Err(error) = self.run(&["stop", "--force", vm]) {
            tracing::debug!(%error, vm, "ending a VM");
        }
    }

    /// Connects to the console of a VM.
    ///
    /// # Errors
    /// There is no such VM.
    pub fn console(&self, vm: &str) -> Result<Console, VmError> {
        Console::connect(&self.runtime.path().join(format!("{vm}.console")))
    }
}

fn not_run(arguments: &[&str], error: &io::Error) -> VmError {
    VmError::io(format_args!("run nvvmm {}", arguments[0]), error)
}

fn failed(arguments: &[&str], ended: &Output) -> VmError {
    let why = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
    VmError::failed(format!("nvvmm {}: {why}", arguments.join(" ")))
}
