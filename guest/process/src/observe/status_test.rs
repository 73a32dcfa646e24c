use super::*;
use crate::sys;

#[test]
fn limits_are_those_that_the_kernel_has() {
    let own = std::process::id() as Pid;
    let found = limits(own).unwrap();
    assert_eq!(found.len(), 16);
    for (resource, limit) in (0..).zip(found) {
        assert_eq!(limit, sys::limit(own, resource).unwrap(), "{resource}");
    }
}

#[test]
fn limits_in_another_form_are_refused() {
    let line = "Max open files            1024                 unlimited            files     ";
    assert_eq!(
        parse_limits(&format!("head\n{line}\n")),
        Some(vec![(1024, u64::MAX)])
    );
    for wrong in [
        "",
        "Max",
        "Max open files            1024",
        "Max open files            -1 5 files",
    ] {
        assert_eq!(parse_limits(&format!("head\n{wrong}\n")), None, "{wrong}");
    }
}
