//! Options of a capture.

/// Options of a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureOptions {
    /// Captures all descendants, too.
    pub tree: bool,
    /// Standard input, output and error may lead to what an image does not hold (terminals, pipes
    /// of others, sockets). The restart replaces them.
    pub external_stdio: bool,
    /// The processes will be killed, and are to be restarted here: nothing else may keep their
    /// numbers in use.
    pub frees_numbers: bool,
}
