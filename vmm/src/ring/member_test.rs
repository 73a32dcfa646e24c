use super::*;

#[test]
fn names_are_read_back_and_no_others() {
    assert_eq!(Member::name_of("web", 12), "web@12");
    assert_eq!(Member::number_of("web@12", "web"), Some(12));
    assert_eq!(
        Member::number_of(&Member::name_of("a", u64::MAX), "a"),
        Some(u64::MAX)
    );
    for other in [
        "web",
        "web@",
        "web@x",
        "web@012",
        "web@+1",
        "web@-1",
        "web@1.5",
        "web2@1",
        "we@1",
        "@1",
        "web@@1",
        "web@18446744073709551616",
    ] {
        assert_eq!(Member::number_of(other, "web"), None, "{other}");
    }
    assert!(is_member_name("web@1") && !is_member_name("web-1"));
}
