//! Key files of sealed streams.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::stream::sealed::Key;

/// Bytes of a key file that are read at most.
const FILE_BYTES_MAX: u64 = 4096;

/// The key in a file that nobody but its owner may read.
pub fn read(path: &Path) -> Result<Key, VmError> {
    let failed = |e| VmError::io(format_args!("read the key file {}", path.display()), &e);
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        let why = format!(
            "the key file {} is open to others (mode {:03o})",
            path.display(),
            mode & 0o777
        );
        let remedy = format!("close it with 'chmod 600 {}'", path.display());
        return Err(VmError::new(ErrorKind::Refused, why).with_remedy(remedy));
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Key::from_text(&text).ok_or_else(|| {
        let why = format!(
            "{} does not contain a key of 64 hexadecimal digits",
            path.display()
        );
        VmError::new(ErrorKind::Usage, why)
            .with_remedy("make one with '(umask 077; openssl rand -hex 32 > key)'")
    })
}

#[cfg(test)]
#[path = "stream_key_test.rs"]
mod stream_key_test;
