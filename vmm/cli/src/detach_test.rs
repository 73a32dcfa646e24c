use super::*;

#[test]
fn an_argument_names_the_descriptors_that_are_given_with_it() {
    assert_eq!(descriptors_named("/dev/fd/63"), [63]);
    assert_eq!(descriptors_named("--disk=/proc/self/fd/7,ro"), [7]);
    assert_eq!(descriptors_named("/dev/fd/4:/dev/fd/5"), [4, 5]);
    for none in ["/dev/fd/", "/dev/fd/x", "63", "/dev/fd/99999999999"] {
        assert_eq!(descriptors_named(none), [0; 0], "{none}");
    }
}

#[test]
fn a_vm_process_keeps_the_variables_that_are_for_it() {
    for kept in ["NVVMM_POOL", "XDG_RUNTIME_DIR", "RUST_BACKTRACE"] {
        assert!(is_for_vm_process(OsStr::new(kept)), "{kept}");
    }
    for other in ["AWS_SECRET_ACCESS_KEY", "PATH", "HOME", "nvvmm_x", ""] {
        assert!(!is_for_vm_process(OsStr::new(other)), "{other}");
    }
}

#[test]
fn a_report_that_is_no_json_is_an_error_that_can_be_told() {
    let path = std::path::PathBuf::from(
        <std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(vec![0xff]),
    );
    let error = line_of(&path).unwrap_err();
    assert!(line_of(&Report::Failed { error }).is_ok());
}
