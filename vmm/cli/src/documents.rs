//! `nvvmm completions` and `nvvmm man`: what is made from the definition of the command line.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use nvvmm::VmError;

use super::args::Arguments;
use super::{man_pages, output};

/// `nvvmm completions`.
pub fn completions(shell: Shell) -> Result<(), VmError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "nvvmm", &mut script);
    let script = String::from_utf8(script)
        .map_err(|e| VmError::failed(format!("the completion script is not UTF-8: {e}")))?;
    output::print(&script)
}

/// `nvvmm man`: a page for each command, in `dir`.
pub fn man(dir: &Path) -> Result<(), VmError> {
    let failed = |e| VmError::io(format_args!("write man pages to {}", dir.display()), &e);
    fs::create_dir_all(dir).map_err(failed)?;
    man_pages::write_all(dir).map_err(failed)
}

#[cfg(test)]
#[path = "documents_test.rs"]
mod documents_test;
