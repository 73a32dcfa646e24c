//! Captures and restarts of the guest's processes, with crate nvvmm-process. The host takes and
//! places frames; the agent names them.

mod answers;
pub mod capture;
pub mod check;
mod exclusive;
mod frames;
mod protected;
pub mod reserve;
pub mod restart;
#[cfg(test)]
mod test_host;
pub mod window;
