//! Raw system calls: the only place, with the mapped regions, where `unsafe` is written.

pub mod kvm;
