//! Taking a snapshot of a running machine, and what a snapshot holds besides memory.

pub mod blob;
pub mod phases;
pub mod report;
mod take;

pub use take::{TakeError, Taken, Taking, take};
