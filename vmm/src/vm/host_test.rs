use super::*;

fn lacks(message: &str, remedy: &str) -> Result<(), VmError> {
    Err(VmError::new(ErrorKind::HostLacks, message).with_remedy(remedy))
}

#[test]
fn two_things_that_a_host_lacks_are_named_at_once() {
    let error = all_of([lacks("no kvm", "load it"), lacks("no uffd", "open it")]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::HostLacks);
    assert_eq!(error.message, "no kvm; no uffd");
    let remedy = error.remedy.unwrap();
    assert!(
        remedy.contains("load it") && remedy.contains("open it"),
        "{remedy}"
    );
}

#[test]
fn one_failure_stays_as_it_is() {
    let alone = lacks("no kvm", "load it");
    assert_eq!(all_of([Ok(()), alone.clone()]), alone);
    assert_eq!(all_of([Ok(()), Ok(())]), Ok(()));
}

#[test]
fn a_failure_that_is_no_lack_decides_the_kind() {
    let both = all_of([lacks("no kvm", "load it"), Err(VmError::failed("EMFILE"))]);
    assert_eq!(both.unwrap_err().kind, ErrorKind::Failed);
}
