//! The program `nvvmm`.

use std::process::ExitCode;

fn main() -> ExitCode {
    nvvmm_cli::run()
}
