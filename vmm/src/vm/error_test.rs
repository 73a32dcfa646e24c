use std::io;

use super::*;

/// Errors that a user meets first on a host that is not ready: each has exit code 7 and a remedy.
#[test]
fn what_the_host_lacks_is_said_with_its_remedy() {
    let kvm = |error| machine_error(MachineError::Kvm(error));
    let cases = [
        (
            cow_error(CowError::Uffd(UffdError::NoPermission)),
            "/dev/userfaultfd",
        ),
        (cow_error(CowError::Uffd(UffdError::KernelTooOld)), "5.19"),
        (kvm(KvmError::Lacks("KVM_CAP_IRQFD")), "newer kernel"),
        (
            kvm(KvmError::Incompatible("avx2".into())),
            "same kind of CPU",
        ),
        (
            kvm(KvmError::Open {
                remedy: "load it",
                source: io::ErrorKind::NotFound.into(),
            }),
            "load it",
        ),
        (
            kvm(KvmError::Msr {
                vcpu: 0,
                index: 1,
                value: 2,
            }),
            "same kind of CPU",
        ),
    ];
    for (error, words) in cases {
        assert_eq!(error.kind, ErrorKind::HostLacks, "{error}");
        let remedy = error.remedy.clone().unwrap_or_default();
        assert!(remedy.contains(words), "{error}: {remedy}");
    }
}

#[test]
fn a_kernel_that_is_none_is_said_with_what_would_be_one() {
    let error = machine_error(MachineError::Boot(BootError::NotAKernel {
        path: "/etc/passwd".into(),
        why: "it looks like a text file".into(),
    }));
    assert_eq!(error.kind, ErrorKind::Usage);
    assert!(error.message.contains("text file"), "{error}");
    assert!(error.remedy.unwrap_or_default().contains("bzImage"));
}
