//! Options of a capture.

/// Options of a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureOptions {
    /// Captures all descendants, too.
    pub tree: bool,
    /// Standard input, output and error may lead to what an image does not hold (terminals, pipes
    /// of others, sockets). The restart replaces them.
    pub external_stdio: bool,
}
