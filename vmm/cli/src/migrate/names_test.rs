use super::*;

#[test]
fn only_snapshots_of_the_same_migration_are_its_own() {
    let names = Names::new("web", "0123456789abcdef").unwrap();
    assert_eq!(names.of_round(3), "web.migrate-0123456789abcdef-3");
    assert!(names.is_of_this(&names.of_round(12)));
    for other in [
        "web",
        "web.migrate-0123456789abcdef-",
        "web.migrate-0123456789abcdef-3a",
        "web.migrate-0123456789abcdef-+3",
        "web.migrate-0123456789abcdee-3",
        "db.migrate-0123456789abcdef-3",
    ] {
        assert!(!names.is_of_this(other), "{other}");
    }
}

#[test]
fn what_comes_from_the_other_host_is_no_path() {
    for (vm, id) in [
        ("../web", "0123456789abcdef"),
        ("web", "../../../../etc/x"),
        ("web", "0123456789abcde"),
        ("web", ""),
    ] {
        assert!(Names::new(vm, id).is_err(), "{vm} {id}");
    }
}
