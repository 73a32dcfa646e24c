use nvvmm_snapshot::SnapshotId;

use super::*;

fn members(numbers: &[u64]) -> Vec<Member> {
    let member = |number: &u64| Member {
        id: SnapshotId::new(*number).unwrap(),
        number: *number,
        name: Member::name_of("web", *number),
    };
    numbers.iter().map(member).collect()
}

#[test]
fn a_vm_from_a_checkpoint_of_its_name_goes_on_with_the_ring() {
    for (origin, expected) in [
        (Some("web@7"), OwnCheckpoints::ALL),
        (Some("base"), OwnCheckpoints::None),
        (Some("web2@7"), OwnCheckpoints::None),
        (Some("web@x"), OwnCheckpoints::None),
        (None, OwnCheckpoints::None),
    ] {
        let own = OwnCheckpoints::of_origin(origin, "web");
        assert_eq!(own, expected, "{origin:?}");
    }
}

#[test]
fn checkpoints_from_before_are_others() {
    let all = members(&[3, 4, 9]);
    assert_eq!(OwnCheckpoints::None.others(&all), all);
    assert_eq!(OwnCheckpoints::From(4).others(&all), members(&[3]));
    assert_eq!(OwnCheckpoints::ALL.others(&all), []);
}
