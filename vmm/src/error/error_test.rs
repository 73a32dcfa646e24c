use std::collections::BTreeSet;

use super::*;

/// All kinds. The match does not compile without a new one.
fn all() -> Vec<ErrorKind> {
    let next = |kind| match kind {
        ErrorKind::Usage => Some(ErrorKind::NotFound),
        ErrorKind::NotFound => Some(ErrorKind::Refused),
        ErrorKind::Refused => Some(ErrorKind::PoolFull),
        ErrorKind::PoolFull => Some(ErrorKind::PoolDamaged),
        ErrorKind::PoolDamaged => Some(ErrorKind::HostLacks),
        ErrorKind::HostLacks => Some(ErrorKind::Denied),
        ErrorKind::Denied => Some(ErrorKind::Failed),
        ErrorKind::Failed => None,
    };
    std::iter::successors(Some(ErrorKind::Usage), |kind| next(*kind)).collect()
}

#[test]
fn each_kind_has_a_code_of_its_own() {
    let codes: BTreeSet<u8> = all().into_iter().map(ErrorKind::exit_code).collect();
    assert_eq!(codes, (1..=8).collect());
}

#[test]
fn each_kind_comes_back_from_the_socket() {
    for kind in all() {
        let sent = serde_json::to_string(&kind).unwrap();
        assert_eq!(serde_json::from_str::<ErrorKind>(&sent).unwrap(), kind);
    }
    let newer: ErrorKind = serde_json::from_str("\"of_a_newer_version\"").unwrap();
    assert_eq!(newer, ErrorKind::Failed);
}

#[test]
fn the_system_s_errors_have_the_kind_of_their_cause() {
    for (errno, kind) in [
        (libc::ENOENT, ErrorKind::NotFound),
        (libc::EACCES, ErrorKind::Denied),
        (libc::EPERM, ErrorKind::Denied),
        (libc::EEXIST, ErrorKind::Refused),
        (libc::EBUSY, ErrorKind::Refused),
        (libc::EISDIR, ErrorKind::Usage),
        (libc::ENOTDIR, ErrorKind::Usage),
        (libc::EIO, ErrorKind::Failed),
        (libc::EMFILE, ErrorKind::Failed),
    ] {
        let error = io::Error::from_raw_os_error(errno);
        assert_eq!(VmError::io("try", &error).kind, kind, "{error}");
    }
}
