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
