//! Key files of sealed streams.

use std::path::Path;

use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::stream::sealed::Key;

/// The key in a file.
pub fn read(path: &Path) -> Result<Key, VmError> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| VmError::io(format_args!("read the key file {}", path.display()), &e))?;
    Key::from_text(&text).ok_or_else(|| {
        let why = format!(
            "{} does not contain a key of 64 hexadecimal digits",
            path.display()
        );
        VmError::new(ErrorKind::Usage, why).with_remedy("make one with 'openssl rand -hex 32'")
    })
}

#[cfg(test)]
#[path = "stream_key_test.rs"]
mod stream_key_test;
