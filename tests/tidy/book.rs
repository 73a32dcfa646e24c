//! Each chapter in `docs` can be reached from `docs/SUMMARY.md` by links.

use std::collections::BTreeSet;

use crate::exceptions::Violation;
use crate::links::{join, link_targets};
use crate::prose::without_code_blocks;
use crate::tree::{Kind, Tree};

const SUMMARY: &str = "docs/SUMMARY.md";

/// Documents in `docs` that no chain of links from the summary leads to.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let reached = reached(tree);
    tree.of_kind(Kind::Markdown)
        .filter(|file| file.path.starts_with("docs/") && !reached.contains(&file.path))
        .map(|file| Violation {
            key: file.path.clone(),
            amount: 1,
            message: format!("{}: no links from {SUMMARY} lead to it", file.path),
        })
        .collect()
}

fn reached(tree: &Tree) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut next = vec![SUMMARY.to_string()];
    while let Some(path) = next.pop() {
        let Some(file) = tree.get(&path).filter(|file| file.kind == Kind::Markdown) else {
            continue;
        };
        if reached.insert(path) {
            let prose = without_code_blocks(&file.text);
            let targets = link_targets(&prose).into_iter().map(|(_, target)| target);
            let paths = targets.filter_map(|target| target.split('#').next());
            next.extend(paths.filter_map(|path| join(file.directory(), path)));
        }
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tree::Tree;

    #[test]
    fn a_chapter_that_is_not_in_the_book_is_found() {
        let files = [
            ("README.md", "[lost](docs/lost.md)"),
            ("docs/SUMMARY.md", "- [a](a.md)\n- [b](b/README.md#part)\n"),
            ("docs/a.md", "```\n[lost](lost.md)\n```\n"),
            ("docs/b/README.md", "[c](./c.md) [up](../../README.md#x)"),
            ("docs/b/c.md", ""),
            ("docs/other.md", ""),
        ];
        let found: Vec<String> = check(&Tree::of(&files))
            .into_iter()
            .map(|v| v.key)
            .collect();
        assert_eq!(found, ["docs/other.md"]);
        let alone = [("docs/SUMMARY.md", ""), ("docs/lost.md", "")];
        assert_eq!(check(&Tree::of(&alone)).len(), 1);
    }
}
