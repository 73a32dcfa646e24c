use super::*;

#[test]
fn copies_are_numbered_from_one() {
    assert_eq!(names(None, 2).unwrap(), [None, None]);
    let error = names(Some(&"x".repeat(64)), 1).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Usage);
}

#[test]
fn the_first_failure_counts_and_a_warning_is_kept_once() {
    let started = Started::default();
    assert!(!started.has_failed());
    for text in ["first", "second"] {
        started.note(Err(VmError::failed(text)));
    }
    assert!(started.has_failed());
    let (vms, warnings, failed) = started.into_parts();
    assert!(vms.is_empty() && warnings.is_empty());
    assert_eq!(failed.unwrap().message, "first");
}

#[test]
fn the_error_tells_what_became_of_the_others() {
    let error = end_all(&[], 3, VmError::failed("the pool is full"));
    assert_eq!(
        error.message,
        "not all of 3 VMs could be started: the pool is full; 0 VMs that ran already ended again"
    );
}
