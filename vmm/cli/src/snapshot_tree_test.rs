use super::*;

fn node(id: u64, parent: u64, name: &str) -> TreeNode {
    TreeNode {
        id,
        parent: (parent != 0).then_some(parent),
        name: name.to_owned(),
    }
}

fn lines(nodes: &[TreeNode]) -> Vec<String> {
    draw(nodes).into_iter().map(|(_, line)| line).collect()
}

#[test]
fn branches_are_drawn() {
    let nodes = [
        node(1, 0, "base"),
        node(2, 1, "left"),
        node(3, 2, "left-1"),
        node(4, 2, "left-2"),
        node(5, 1, "right"),
        node(6, 5, "right-1"),
        node(7, 0, "other"),
    ];
    assert_eq!(
        lines(&nodes),
        [
            "base",
            "├─ left",
            "│  ├─ left-1",
            "│  └─ left-2",
            "└─ right",
            "   └─ right-1",
            "other"
        ]
    );
}

#[test]
fn children_may_come_before_their_parent_and_the_indices_tell() {
    let nodes = [node(9, 4, "child"), node(4, 0, "parent")];
    assert_eq!(
        draw(&nodes),
        [(1, "parent".to_owned()), (0, "└─ child".to_owned())]
    );
}

#[test]
fn a_snapshot_whose_parent_was_removed_is_a_root() {
    assert_eq!(
        lines(&[node(3, 2, "orphan"), node(4, 3, "its-child")]),
        ["orphan", "└─ its-child"]
    );
}

#[test]
fn rings_are_shown_once_and_end() {
    let drawn = lines(&[node(1, 2, "a"), node(2, 1, "b"), node(3, 3, "self")]);
    assert_eq!(drawn, ["self", "a", "└─ b"]);
}

#[test]
fn a_long_chain_stays_narrow() {
    let nodes: Vec<TreeNode> = (1..=20_000).map(|id| node(id, id - 1, "s")).collect();
    let drawn = lines(&nodes);
    assert_eq!(drawn.len(), nodes.len());
    let width = drawn.iter().map(|l| l.chars().count()).max().unwrap();
    assert_eq!(width, 3 * INDENT_LEVELS_MAX + 1);
    assert_eq!(drawn[12].trim_start(), "└─ s");
    assert_eq!(drawn[13].trim_start(), "⋯─ s");
}

#[test]
fn nothing_makes_nothing() {
    assert!(draw(&[]).is_empty());
}
