//! nvvmm
fn main() {}
