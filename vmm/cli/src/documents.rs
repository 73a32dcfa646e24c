//! `nvvmm completions` and `nvvmm man`: what is made from the definition of the command line.

use std::fs;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use nvvmm::VmError;

use super::args::Arguments;
use super::partial::check_free;
use super::{completion, output};

/// `nvvmm completions`.
pub fn completions(shell: Shell) -> Result<(), VmError> {
    output::print(&completion::script(shell)?)
}

/// `nvvmm man`: a page for each command, in `dir`. With `force` it replaces pages that are there.
pub fn man(dir: &Path, force: bool) -> Result<(), VmError> {
    let failed = |e| VmError::io(format_args!("write man pages to {}", dir.display()), &e);
    fs::create_dir_all(dir).map_err(failed)?;
    check_free(&dir.join("nvvmm.1"), force)?;
    clap_mangen::generate_to(Arguments::command(), dir).map_err(failed)
}

#[cfg(test)]
#[path = "documents_test.rs"]
mod documents_test;
