//! Both sides of the protocol over a socket that is connected already, for the fuzz targets.

use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::line::LineStream;
use super::server::serve_client;
use super::{ControlClient, VmControl};

/// Serves one client until it is done.
pub fn serve(stream: UnixStream, control: &dyn VmControl, line_timeout: Duration) {
    serve_client(LineStream::new(stream), control, line_timeout);
}

/// A client of whoever is at the other end.
pub fn client(stream: UnixStream) -> ControlClient {
    ControlClient::over(stream)
}
