//! Raw system calls and the `unsafe` they need, each behind a safe function.

pub mod kvm;
pub mod reservation;
