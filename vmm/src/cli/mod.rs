//! The `nvvmm` command line.
