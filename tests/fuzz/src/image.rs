//! Images of disks that `nvvmm disk import` reads. The whole input is the file.

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::sys::memfd::{MFdFlags, memfd_create};

/// Runs one input.
pub fn run(input: &[u8]) {
    let file = File::from(memfd_create(c"image", MFdFlags::MFD_CLOEXEC).expect("a memory file"));
    file.write_all_at(input, 0).expect("room in memory");
    if let Err(message) = nvvmm_cli::fuzzing::read_image(file) {
        assert!(!message.is_empty());
    }
}
