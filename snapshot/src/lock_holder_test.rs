use super::*;

#[test]
fn a_distance_names_the_process_its_namespace_and_the_turn() {
    for holder in [
        LockHolder::UNKNOWN,
        LockHolder {
            pid: (1 << PID_BITS) - 1,
            namespace: u32::MAX,
            turn: (1 << TURN_BITS) - 1,
        },
        LockHolder::next_turn(),
    ] {
        assert!((0..DISTANCES).contains(&holder.distance()), "{holder:?}");
        assert_eq!(LockHolder::at_distance(holder.distance()), holder);
    }
    assert_eq!(LockHolder::next_turn().pid(), Some(std::process::id()));
}

#[test]
fn a_process_of_another_namespace_has_no_number_here() {
    let elsewhere = LockHolder {
        namespace: 1,
        ..LockHolder::next_turn()
    };
    assert_eq!(elsewhere.pid(), None);
    assert_eq!(
        elsewhere.to_string(),
        format!("process {} of another PID namespace", std::process::id())
    );
    let unknown = LockHolder::UNKNOWN;
    assert_eq!(unknown.pid(), None);
    assert!(unknown.to_string().contains("does not give its number"));
}
