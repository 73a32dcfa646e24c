//! The agent in the guest (guest/agent), over the streams of the guest's vsock device. The protocol
//! is crate `nvvmm-protocol`.
//!
//! [`link`] is the VM's side of the stream that the agent keeps: it tells a restored guest what has
//! happened to it. [`call`] is a command's stream to the agent; by one, [`hooks`] has the guest
//! come to rest for a snapshot.

pub mod call;
pub mod hooks;
pub mod link;
