use super::*;

#[test]
fn numbers_lead_back_to_what_has_them() {
    let ids = [1, 2, 1 << 40].map(|id| SnapshotId::new(id).unwrap());
    let mut nodes = vec![Node::Root];
    for id in ids {
        nodes.push(Node::Snapshot(id));
        nodes.extend(File::of_kind(SnapshotKind::Vm, 8).map(|file| Node::File(id, file)));
    }
    let mut numbers: Vec<u64> = nodes.iter().map(|node| node.number().unwrap()).collect();
    let back: Vec<Node> = numbers
        .iter()
        .map(|number| Node::of(*number).unwrap())
        .collect();
    assert_eq!(back, nodes);
    numbers.dedup();
    assert_eq!(numbers.len(), nodes.len());
    for none in [0, 2, 15, 16 + 12] {
        assert_eq!(Node::of(none), None);
    }
    let last = SnapshotId::new(u64::MAX).unwrap();
    assert_eq!(Node::Snapshot(last).number(), None);
}

#[test]
fn a_process_image_has_no_spec_and_disks_have_their_names() {
    let names = |kind, disks: &[String]| -> Vec<String> {
        let files = File::of_kind(kind, disks.len());
        files.map(|file| file.name(disks)).collect()
    };
    assert_eq!(names(SnapshotKind::Process, &[]), ["memory", "state.json"]);
    let of_vm = names(SnapshotKind::Vm, &["root".to_owned()]);
    assert_eq!(of_vm, ["memory", "state.json", "spec.json", "root.img"]);
}
