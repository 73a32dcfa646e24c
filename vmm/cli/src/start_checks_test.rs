use nvvmm::spec::VmSpec;

use super::*;

fn lack(message: &str, remedy: &str) -> VmError {
    VmError::new(ErrorKind::HostLacks, message).with_remedy(remedy)
}

#[test]
fn each_missing_thing_gets_the_doctors_remedy_and_none_is_left_out() {
    let mut errors = vec![lack("no kvm", "join a group"), lack("no uffd", "open it")];
    let findings = vec![
        lack("no kvm", "sudo usermod -aG kvm $USER"),
        lack("an old kernel", "Linux 5.19"),
    ];
    add_findings(&mut errors, findings);
    let remedies: Vec<_> = errors.iter().flat_map(|error| &error.remedy).collect();
    assert_eq!(
        remedies,
        ["sudo usermod -aG kvm $USER", "open it", "Linux 5.19"]
    );
}

#[test]
fn a_limit_of_open_files_is_told_with_what_is_needed() {
    assert_eq!(refuse_below(50, 50), Ok(()));
    let error = refuse_below(49, 50).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(error.message.contains("needs 50 open files"), "{error}");
    assert!(error.message.contains("have 49"), "{error}");
}

#[test]
fn a_file_that_is_no_kernel_is_found_before_a_pool_is_made() {
    let source = VmSource::Boot(VmSpec::builder("/proc/self/status").build());
    assert!(check_files(&source).is_err());
}
