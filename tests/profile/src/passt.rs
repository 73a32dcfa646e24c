//! passt, as far as this host can run it.

use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

/// Time in which a passt ends that has no network, or no right.
const ENDS_WITHIN: Duration = Duration::from_millis(500);

/// True where there is a passt, and it has a network of the host and the right to start. Says why
/// not.
pub fn has_passt() -> bool {
    static HAS: LazyLock<bool> = LazyLock::new(|| match start() {
        Ok(()) => true,
        Err(why) => {
            eprintln!("passt cannot run here, so nothing is tested: {why}");
            false
        }
    });
    *HAS
}

fn start() -> Result<(), String> {
    let socket = std::env::temp_dir().join(format!("nvvmm-passt-{}", std::process::id()));
    let started = Command::new("passt")
        .args(["--foreground", "--quiet", "--socket"])
        .arg(&socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut child = started.map_err(|error| error.to_string())?;
    thread::sleep(ENDS_WITHIN);
    let ended = child.try_wait().map_err(|error| error.to_string())?;
    let _ = child.kill();
    let _ = child.wait();
    let _ = std::fs::remove_file(&socket);
    match ended {
        None => Ok(()),
        Some(status) => Err(format!("it ended with {status}")),
    }
}
