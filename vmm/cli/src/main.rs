//! The `nvvmm` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    nvvmm_cli::main()
}
