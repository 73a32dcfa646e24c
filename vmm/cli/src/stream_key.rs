//! Key files of sealed streams.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::stream::sealed::Key;

use super::whole_file::WholeFile;

/// Bytes of a key file that are read at most.
const FILE_BYTES_MAX: u64 = 4096;

/// The key in a file that nobody but its owner may read.
pub fn read(path: &Path) -> Result<Key, VmError> {
    let failed = |e| VmError::io(format_args!("read the key file {}", path.display()), &e);
    let key = WholeFile::open("the key file", path)?;
    let mode = key.file().metadata().map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        let why = format!(
            "the key file {} is open to others (mode {:03o})",
            path.display(),
            mode & 0o777
        );
        let remedy = format!("close it with 'chmod 600 {}'", path.display());
        return Err(VmError::new(ErrorKind::Refused, why).with_remedy(remedy));
    }
    let text = String::from_utf8(key.read(FILE_BYTES_MAX)?).unwrap_or_default();
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
