use super::*;

#[test]
fn the_kernels_lists_are_understood() {
    assert_eq!(parse_list("0"), Some(vec![0]));
    assert_eq!(parse_list("0-2,5,7-8"), Some(vec![0, 1, 2, 5, 7, 8]));
    assert_eq!(parse_list(""), None);
    assert_eq!(parse_list("0-x"), None);
}

#[test]
fn work_runs_on_the_cpu_it_was_given_to() {
    let ran = on_each(|_| sys::current_cpu()).unwrap();
    assert!(!ran.is_empty());
    assert!(ran.iter().all(|(asked, found)| asked == found), "{ran:?}");
}
