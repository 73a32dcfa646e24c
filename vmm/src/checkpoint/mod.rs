//! Taking a snapshot of a running machine and bringing one back.

pub mod report;
