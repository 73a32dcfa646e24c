use super::*;

const WANTED: Wanted = Wanted {
    memory_bytes: 512 << 20,
    vcpus: 2,
    is_linux: true,
};
const GIVEN: Given = Given {
    pool_bytes: 512 << 20,
    waits_for_pool: true,
    cpus: 1,
    is_software_kvm: false,
};

fn texts(wanted: Wanted, given: Given) -> Vec<String> {
    let warnings = warnings(wanted, given);
    assert!(warnings.iter().all(|warning| warning.remedy.is_some()));
    { warnings.into_iter() }
        .map(|warning| warning.message)
        .collect()
}

#[test]
fn a_vm_that_fits_has_no_warning() {
    assert_eq!(texts(WANTED, GIVEN), [""; 0]);
    let flat = Wanted {
        is_linux: false,
        ..WANTED
    };
    let software = Given {
        is_software_kvm: true,
        ..GIVEN
    };
    assert_eq!(texts(flat, software), [""; 0]);
}

#[test]
fn memory_larger_than_the_pool_is_told() {
    let wanted = Wanted {
        memory_bytes: 1 << 40,
        ..WANTED
    };
    let [text] = &texts(wanted, GIVEN)[..] else {
        panic!("one warning");
    };
    assert!(text.contains("1.0 TiB"), "{text}");
    assert!(text.contains("512.0 MiB"), "{text}");
    assert!(text.contains("stands still"), "{text}");
    let private = Given {
        waits_for_pool: false,
        ..GIVEN
    };
    assert!(texts(wanted, private)[0].contains("snapshots are refused"));
}

#[test]
fn more_vcpus_than_cpus_are_told() {
    let wanted = Wanted { vcpus: 3, ..WANTED };
    let text = &texts(wanted, GIVEN)[0];
    assert!(
        text.contains("3 vCPUs") && text.contains("1 CPU:"),
        "{text}"
    );
    let given = Given { cpus: 4, ..GIVEN };
    assert_eq!(texts(wanted, given), [""; 0]);
}

#[test]
fn linux_on_a_software_kvm_is_told() {
    let given = Given {
        is_software_kvm: true,
        ..GIVEN
    };
    let text = &texts(WANTED, given)[0];
    assert!(text.contains("no vmx or svm"), "{text}");
}
