use super::*;

#[test]
fn a_file_up_to_the_limit_is_fine_and_a_larger_one_is_named_with_both_sizes() {
    let path = Path::new("/p");
    for (limit, size_bytes) in [(None, u64::MAX), (Some(4096), 4096), (Some(0), 0)] {
        refuse_above(limit, "pool", path, size_bytes).unwrap();
    }
    let error = refuse_above(Some(1 << 20), "pool", path, 64 << 20).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert_eq!(
        error.message,
        "the pool /p has 64.0 MiB, and files of this shell may have 1.0 MiB at most (ulimit -f)"
    );
}
