//! The `nvvmm` command.

fn main() {}
