//! nvvmm-agent runs in a guest of nvvmm, as a service or as the guest's first process. It carries
//! out what `nvvmm exec` and `nvvmm cp` ask for, captures and restarts processes, and when the VM
//! was restored it tells the guest. README.md says how to set it up.

mod attached;
mod connections;
mod files;
mod first_process;
mod link;
mod notice;
mod process;
mod program;
mod serve;
mod stream;
mod sys;
#[cfg(test)]
mod test_stream;

use std::process::ExitCode;
use std::thread;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        return match first_process::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("nvvmm-agent: {error}");
                ExitCode::FAILURE
            }
        };
    }
    run()
}

/// Serves the host until the process is killed.
fn run() -> ExitCode {
    process::window::release_former();
    thread::spawn(link::keep);
    process::reserve::keep_as_told();
    // It ends only if it cannot listen.
    match serve::listen() {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!(
                "nvvmm-agent: cannot listen on vsock port {}: {error}",
                nvvmm_protocol::AGENT_PORT
            );
            ExitCode::FAILURE
        }
    }
}
