//! This program's own commands, for what is measured with VMs in processes of their own.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
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
        let ended = Command::new(&self.program)
            .args(arguments)
            .env("NVVMM_RUNTIME_DIR", self.runtime.path())
            .env("NVVMM_POOL", &self.pool)
            .stdin(Stdio::null())
            .output()
            .map_err(|e| VmError::io(format_args!("run nvvmm {}", arguments[0]), &e))?;
        if ended.status.success() {
            return Ok(ended.stdout);
        }
        let why = String::from_utf8_lossy(&ended.stderr).trim().to_owned();
        Err(VmError::failed(format!(
            "nvvmm {}: {why}",
            arguments.join(" ")
        )))
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
