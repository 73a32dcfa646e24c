//! The protocol of nvvmm and its agent in a guest, over streams of the guest's vsock device.
//!
//! Each side of a stream begins with a [`Greeting`], eight bytes that say which versions it speaks.
//! The newest one that both speak counts. Then come frames: a length (four bytes, little-endian, at
//! most [`FRAME_BYTES_MAX`]), and so many bytes of one message, encoded with postcard.
//!
//! There are two kinds of streams. The host asks the agent for one at [`AGENT_PORT`] for each
//! command: it sends [`ToAgent`], first of all one of the requests, and gets [`FromAgent`]. The
//! agent asks the host for one at [`HOST_PORT`] and keeps it as long as it can: it sends
//! [`FromGuest`] and gets [`ToGuest`]. That stream breaks when the VM is restored, which is how
//! an agent learns of it.
//!
//! Neither side trusts the other: whatever comes is a message or an error, and no more than a frame
//! is ever kept.

mod frame;
mod greeting;
mod message;
mod process;

pub use frame::{FRAME_BYTES_MAX, FrameError, receive, send};
pub use greeting::{
    CHECKS, Greeting, GreetingError, KEEPS_CONNECTIONS, VERSION, VERSION_MIN, greet,
};
pub use message::{
    DATA_BYTES_MAX, Ended, Exec, FailedBecause, FromAgent, FromGuest, Restored, Role, TerminalSize,
    ToAgent, ToGuest,
};
pub use process::{
    AfterCapture, Capture, Captured, Check, Checked, FrameRun, Frames, RUNS_MAX, Restart, Restarted,
};

/// The vsock port of the guest where the agent listens; only root can.
pub const AGENT_PORT: u32 = 512;
/// The vsock port of the host where the VM listens for its agent.
pub const HOST_PORT: u32 = 512;
/// Vsock ports of the guest from which the agent asks for its stream to [`HOST_PORT`]. Only root
/// can use them, and the host hears nobody else there.
pub const AGENT_SOURCE_PORTS: std::ops::RangeInclusive<u32> = 513..=1023;
