//! What a capture is asked for.

/// How a capture is to be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureOptions {
    /// With all descendants.
    pub tree: bool,
    /// Standard input, output and error may lead to what an image does not hold (terminals, pipes
    /// of others, sockets). Whoever restarts puts something in their place.
    pub external_stdio: bool,
}
