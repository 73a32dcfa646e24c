use super::*;

#[test]
fn names_sort_by_age_and_are_no_other_names() {
    let names = Names::new("web").unwrap();
    assert_eq!(names.of(7), "web@replica-00000007");
    assert!(names.of(9) < names.of(10) && names.of(99_999) < names.of(100_000));
    for number in [0, 7, 99_999_999, 100_000_000, u64::MAX] {
        assert_eq!(names.number_of(&names.of(number)), Some(number));
    }
    for other in [
        "web@7",
        "web@replica-7",
        "web@replica-000000007",
        "web@replica-+0000007",
        "web@replica-",
        "web2@replica-00000007",
        "web-replica-00000007",
    ] {
        assert_eq!(names.number_of(other), None, "{other}");
    }
    assert!(Names::new("../web").is_err());
}
