use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::*;

fn lack(message: &str, remedy: &str) -> VmError {
    VmError::new(ErrorKind::HostLacks, message).with_remedy(remedy)
}

#[test]
fn all_that_is_missing_is_named_at_once_a_line_for_each() {
    let both = vec![
        lack("no kvm", "load it"),
        lack("no uffd", "open it"),
        lack("no uffd either", "open it"),
    ];
    let error = VmError::all(both).unwrap();
    assert_eq!(error.kind, ErrorKind::HostLacks);
    assert_eq!(
        error.message,
        "3 things keep a VM from running here\nno kvm\nno uffd\nno uffd either"
    );
    assert_eq!(
        error.remedy.unwrap(),
        "load it\nopen it\n'nvvmm doctor' shows all"
    );
}

#[test]
fn one_failure_stays_as_it_is() {
    let alone = lack("no kvm", "load it");
    assert_eq!(VmError::all(vec![alone.clone()]), Some(alone));
    assert_eq!(VmError::all(Vec::new()), None);
}

#[test]
fn a_failure_that_is_no_lack_decides_the_kind() {
    let both = VmError::all(vec![lack("no kvm", "load it"), VmError::failed("EMFILE")]);
    assert_eq!(both.unwrap().kind, ErrorKind::Failed);
}

#[test]
fn a_path_that_is_no_text_is_named_with_its_bytes_escaped() {
    let path = Path::new(OsStr::from_bytes(b"/tmp/a\xff\x1bb"));
    let error = check_path_is_text("the kernel", path).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Usage);
    assert!(error.message.contains("the kernel"), "{error}");
    assert!(error.message.contains(r"/tmp/a\xFF"), "{error}");
    assert!(error.message.chars().all(|c| !c.is_control()), "{error}");
    assert_eq!(
        check_path_is_text("the kernel", Path::new("/tmp/ä")),
        Ok(())
    );
}

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
        (libc::EROFS, ErrorKind::Denied),
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
