//! A VM in a process of its own that goes back to its checkpoints, by this program's own commands.

use std::{path::Path, thread, time::Duration};

use nvvmm::VmError;

use super::{bench_pool::BenchPool, commands::Commands, console::number};
use crate::json::ring::Rewind;

const VM: &str = "rewound";
const SEED: u64 = 29;
/// Time that the guest runs between two rewinds: some checkpoints are taken.
const GOES_ON: Duration = Duration::from_millis(200);

/// Times of rewinds.
#[derive(Clone, Debug, Default)]
pub struct Rewinds {
    /// Times from the request until the guest ran again, in microseconds.
    pub total_us: Vec<f64>,
    /// Part of these during which there was no guest.
    pub stopped_us: Vec<f64>,
    /// Frames that the guest compared with what they must hold.
    pub frames_verified: u64,
}

/// Ends the VM when it is dropped.
struct Running<'c>(&'c Commands);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.end(VM);
    }
}

/// Has a guest that rewrites `set_bytes` all the time go back to its newest checkpoint so many
/// times, while its ring goes on.
///
/// # Errors
/// A command failed, or the guest's memory is wrong afterwards.
pub fn measure(
    pool: &BenchPool,
    set_bytes: u64,
    ring: &[&str],
    times: usize,
) -> Result<Rewinds, VmError> {
    let commands = Commands::on(pool)?;
    let spec = pool.spec(set_bytes);
    let (kernel, memory, cpus) = (
        { spec.kernel.as_deref().unwrap_or(Path::new("")) }
            .to_string_lossy()
            .into_owned(),
        format!("{}M", spec.memory_bytes >> 20),
        spec.vcpus.to_string(),
    );
    let running = Running(&commands);
    commands.run(&[
        "run", "--kernel", &kernel, "--memory", &memory, "--cpus", &cpus, "--name", VM, "--detach",
    ])?;
    let mut console = commands.console(VM)?;
    console.ask(&format!("fill {} {SEED}", set_bytes >> 20))?;
    console.ask(&format!("churn on {SEED} rand"))?;
    commands.run(&[&["checkpoint", VM], ring].concat())?;
    let mut rewinds = Rewinds::default();
    for _ in 0..times {
        thread::sleep(GOES_ON);
        let printed = commands.run(&["rewind", VM, "--json"])?;
        let report: Rewind = serde_json::from_slice(&printed).map_err(|e| {
            VmError::failed(format!(
                "nvvmm rewind prints something else than its report: {e}"
            ))
        })?;
        rewinds.total_us.push(report.total_us as f64);
        rewinds.stopped_us.push(report.pause_us as f64);
        rewinds.frames_verified += number(&console.ask("check")?, "frames")?;
    }
    // In order: a process that is killed inside a commit leaves the pool to be mended by the next
    // one who uses it.
    commands.run(&["checkpoint", VM, "--stop"])?;
    commands.run(&["stop", VM])?;
    drop(running);
    pool.remove_checkpoints(VM)?;
    Ok(rewinds)
}
