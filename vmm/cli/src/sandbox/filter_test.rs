use super::*;

#[test]
fn the_filter_of_each_kind_can_be_compiled() {
    for kind in ThreadKind::ALL {
        assert!(!rules(kind).program().is_empty(), "{}", kind.name());
    }
}
