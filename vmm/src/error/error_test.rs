use super::*;

#[test]
fn the_systems_words_have_no_numbers_behind_them() {
    let denied = std::io::Error::from_raw_os_error(13);
    let error = VmError::io("open the disk a.img", &denied);
    assert_eq!(
        error.message,
        "cannot open the disk a.img: Permission denied"
    );
    for (text, plain) in [
        ("a (os error 2): b (os error 13)", "a: b"),
        ("a (os error x)", "a (os error x)"),
        ("a (os error ", "a (os error "),
        ("a (os error 13", "a (os error 13"),
        ("plain", "plain"),
    ] {
        assert_eq!(without_os_numbers(text.into()), plain);
    }
}

#[test]
fn an_error_of_the_pool_has_none_either() {
    let error = nvvmm_snapshot::Error::Io {
        op: "opening the pool /p".into(),
        source: std::io::Error::from_raw_os_error(13),
    };
    assert_eq!(
        VmError::from(error).message,
        "opening the pool /p: Permission denied"
    );
}
