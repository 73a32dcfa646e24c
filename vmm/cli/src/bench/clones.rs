//! Many VMs from one snapshot, as processes: started by this program's own command.

use std::{thread, time::Instant};

use nvvmm::VmError;

use super::{bench_pool::BenchPool, commands::Commands, console::number};

/// VMs that run in processes of their own. Dropping this ends them.
pub struct Clones {
    commands: Commands,
    snapshot: String,
    names: Vec<String>,
}

impl Clones {
    /// Prepares clones of a snapshot in `pool`. None is started yet.
    ///
    /// # Errors
    /// There is no directory for sockets, or this program is not found.
    pub fn of(pool: &BenchPool, snapshot: &str) -> Result<Self, VmError> {
        Ok(Self {
            commands: Commands::on(pool)?,
            snapshot: snapshot.into(),
            names: Vec::new(),
        })
    }

    /// Starts one more, paused; how long its command took, in microseconds.
    ///
    /// # Errors
    /// The command failed.
    pub fn start_one(&mut self) -> Result<f64, VmError> {
        let name = self.next_name();
        let began = Instant::now();
        self.start(&name)?;
        Ok(began.elapsed().as_secs_f64() * 1e6)
    }

    /// Starts so many at the same time, paused; how long that took, in microseconds.
    ///
    /// # Errors
    /// One of the commands failed.
    pub fn start_together(&mut self, count: usize) -> Result<f64, VmError> {
        let names: Vec<String> = (0..count).map(|_| self.next_name()).collect();
        let began = Instant::now();
        let clones: &Self = self;
        thread::scope(|scope| {
            let starting: Vec<_> = names
                .iter()
                .map(|name| scope.spawn(move || clones.start(name)))
                .collect();
            starting.into_iter().try_for_each(|started| {
                started
                    .join()
                    .unwrap_or_else(|_| Err(VmError::failed("a thread failed")))
            })
        })?;
        Ok(began.elapsed().as_secs_f64() * 1e6)
    }

    /// Lets one after the other go on, write so many frames, and compare all of its memory; how
    /// many frames were compared.
    ///
    /// # Errors
    /// One is wrong, or a command failed.
    pub fn write_and_verify(&mut self, frames: u64) -> Result<u64, VmError> {
        let mut verified = 0;
        for name in &self.names {
            let mut console = self.commands.console(name)?;
            self.command(&["resume", name])?;
            console.ask(&format!("write 0 {frames}"))?;
            verified += number(&console.ask("check")?, "frames")?;
            // Its vCPUs would spin.
            self.command(&["pause", name])?;
        }
        Ok(verified)
    }

    /// Ends all of them.
    ///
    /// # Errors
    /// One of the commands failed.
    pub fn end(mut self) -> Result<(), VmError> {
        let names = std::mem::take(&mut self.names);
        names
            .iter()
            .try_for_each(|name| self.command(&["stop", name]))
    }

    fn next_name(&mut self) -> String {
        let name = format!("clone-{}", self.names.len());
        self.names.push(name.clone());
        name
    }

    fn start(&self, name: &str) -> Result<(), VmError> {
        self.command(&[
            "restore",
            &self.snapshot,
            "--name",
            name,
            "--detach",
            "--paused",
        ])
    }

    fn command(&self, arguments: &[&str]) -> Result<(), VmError> {
        self.commands.run(arguments).map(drop)
    }
}

impl Drop for Clones {
    fn drop(&mut self) {
        // Some may not have been started.
        self.names.iter().for_each(|name| self.commands.end(name));
    }
}
