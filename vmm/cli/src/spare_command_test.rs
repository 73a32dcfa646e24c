use std::path::PathBuf;

use super::*;

fn line(count: u32, there: u32) -> Line {
    Line {
        order: spares::order_of(PathBuf::from("/p"), "base", count),
        there,
    }
}

#[test]
fn the_line_says_how_many_stand_by() {
    assert_eq!(line(0, 0).text(), "no spare VMs of base\n");
    assert_eq!(line(1, 1).text(), "1 spare VM of base stands by\n");
    assert_eq!(line(4, 3).text(), "3 spare VMs of base stand by\n");
    assert_eq!(line(4, 3).cells(), ["base", "4", "3", "/p"]);
}

#[test]
fn nothing_is_built_when_nothing_is_missing() {
    build(0, &|| false).unwrap();
    build(3, &|| true).unwrap();
}
