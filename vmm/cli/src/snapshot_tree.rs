//! Draws snapshots under the snapshot that they came from.

use std::collections::{HashMap, HashSet};

/// Levels that are indented; deeper ones stand as far to the right, marked with dots. A VM that is
/// snapshotted every minute makes a chain of thousands.
const INDENT_LEVELS_MAX: usize = 12;

/// Facts about a snapshot that the tree needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeNode {
    /// Id of the snapshot.
    pub id: u64,
    /// Id of the snapshot it came from, which may be gone.
    pub parent: Option<u64>,
    /// Name of the snapshot.
    pub name: String,
}

/// The nodes in drawing order: the index of each in `nodes`, and its name with the branches before
/// it. Children stand under their parent in the order of `nodes`; a node whose parent is gone is a
/// root.
pub fn draw(nodes: &[TreeNode]) -> Vec<(usize, String)> {
    let known: HashSet<u64> = nodes.iter().map(|n| n.id).collect();
    let mut children: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut roots = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        match node.parent.filter(|p| known.contains(p) && *p != node.id) {
            Some(parent) => children.entry(parent).or_default().push(index),
            None => roots.push(index),
        }
    }
    let mut drawn = Vec::with_capacity(nodes.len());
    let mut seen = HashSet::new();
    draw_from(&roots, nodes, &children, &mut seen, &mut drawn);
    // Parents that form a ring, which a healthy pool never has: show them rather than lose them.
    for index in 0..nodes.len() {
        if !seen.contains(&index) {
            draw_from(&[index], nodes, &children, &mut seen, &mut drawn);
        }
    }
    drawn
}

/// One node waiting to be drawn: where it is, and which of the levels above it go on below.
struct Waiting {
    index: usize,
    goes_on: Vec<bool>,
    depth: usize,
}

fn draw_from(
    roots: &[usize],
    nodes: &[TreeNode],
    children: &HashMap<u64, Vec<usize>>,
    seen: &mut HashSet<usize>,
    drawn: &mut Vec<(usize, String)>,
) {
    let mut waiting: Vec<Waiting> = roots
        .iter()
        .rev()
        .map(|&index| Waiting {
            index,
            goes_on: Vec::new(),
            depth: 0,
        })
        .collect();
    while let Some(Waiting {
        index,
        goes_on,
        depth,
    }) = waiting.pop()
    {
        if !seen.insert(index) {
            continue;
        }
        let node = &nodes[index];
        drawn.push((index, format!("{}{}", branches(&goes_on, depth), node.name)));
        let below = children.get(&node.id).map_or(&[][..], Vec::as_slice);
        for (place, &child) in below.iter().enumerate().rev() {
            let mut levels = goes_on.clone();
            if depth < INDENT_LEVELS_MAX {
                levels.push(place + 1 < below.len());
            }
            waiting.push(Waiting {
                index: child,
                goes_on: levels,
                depth: depth + 1,
            });
        }
    }
}

fn branches(goes_on: &[bool], depth: usize) -> String {
    let Some((last, above)) = goes_on.split_last() else {
        return String::new();
    };
    let mut text: String = above
        .iter()
        .map(|&on| if on { "│  " } else { "   " })
        .collect();
    text.push_str(match (depth > INDENT_LEVELS_MAX, *last) {
        (true, _) => "⋯─ ",
        (false, true) => "├─ ",
        (false, false) => "└─ ",
    });
    text
}

#[cfg(test)]
#[path = "snapshot_tree_test.rs"]
mod snapshot_tree_test;
