//! No line is longer than 100 characters.
//!
//! Two things are let through, because they cannot be broken: a line that is one word with a URL
//! or with a link's target in it, and a row of a Markdown table.

use crate::exceptions::Violation;
use crate::tree::{Kind, Tree, WRITTEN_BY_PROGRAMS};

/// The most characters of a line.
const MOST: usize = 100;

/// Lines that are too long, counted for each file.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in &tree.files {
        if file.kind == Kind::Other || WRITTEN_BY_PROGRAMS.contains(&file.path.as_str()) {
            continue;
        }
        for (index, line) in file.text.lines().enumerate() {
            let length = line.chars().count();
            if length > MOST && !cannot_be_broken(line, file.kind) {
                found.push(Violation {
                    key: file.path.clone(),
                    amount: 1,
                    message: format!("{}:{}: {length} characters", file.path, index + 1),
                });
            }
        }
    }
    found
}

/// True for a table's row and for a line that is one word with a URL or a link's target.
fn cannot_be_broken(line: &str, kind: Kind) -> bool {
    let line = line.trim();
    if kind == Kind::Markdown && line.starts_with('|') && line.ends_with('|') {
        return true;
    }
    let word = without_marks(line, kind);
    let one_word = !word.contains(char::is_whitespace);
    one_word && (word.contains("://") || kind == Kind::Markdown && word.contains("]("))
}

/// The line without what stands before its text: marks of comments, lists and quotes, and the
/// name of a link's definition (`[name]: `).
fn without_marks(line: &str, kind: Kind) -> &str {
    let marks: &[&str] = match kind {
        Kind::Rust => &["//! ", "/// ", "// "],
        Kind::Markdown => &["- ", "* ", "> "],
        _ => &["# "],
    };
    let text = marks
        .iter()
        .find_map(|mark| line.strip_prefix(mark))
        .unwrap_or(line)
        .trim();
    match text.split_once("]: ") {
        Some((name, target)) if name.starts_with('[') => target,
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::tree::Tree;

    fn lines_found(path: &str, line: &str) -> usize {
        check(&Tree::of(&[(path, line)])).len()
    }

    #[test]
    fn a_long_line_is_found_in_each_kind_of_file() {
        let long = "word ".repeat(20) + "x";
        assert_eq!(long.chars().count(), 101);
        for path in ["a.rs", "docs/a.md", "a.sh", "a.toml", "a.yml", "a.yaml"] {
            assert_eq!(lines_found(path, &long), 1, "{path}");
            assert_eq!(lines_found(path, &long[1..]), 0, "{path}");
        }
        assert_eq!(lines_found("a.svg", &long), 0);
        assert_eq!(lines_found("docs/performance.md", &long), 0);
    }

    #[test]
    fn characters_count_and_not_bytes() {
        assert_eq!(lines_found("a.md", &"ä".repeat(100)), 0);
    }

    #[test]
    fn a_url_that_stands_alone_is_let_through() {
        let url = format!("https://example.org/{}", "x".repeat(100));
        assert_eq!(lines_found("a.rs", &format!("/// {url}")), 0);
        assert_eq!(lines_found("a.md", &format!("- {url}")), 0);
        assert_eq!(lines_found("a.md", &format!("[name]: {url}")), 0);
        assert_eq!(lines_found("a.md", &format!("text]({url}),")), 0);
        assert_eq!(lines_found("a.sh", &format!("# {url}")), 0);
        assert_eq!(lines_found("a.md", &format!("See {url}")), 1);
        assert_eq!(
            lines_found("a.rs", &format!("// text]({})", "x".repeat(100))),
            1
        );
    }

    #[test]
    fn a_row_of_a_table_is_let_through_in_markdown_only() {
        let row = format!("| {} |", "word ".repeat(20));
        assert_eq!(lines_found("a.md", &row), 0);
        assert_eq!(lines_found("a.md", &row[..row.len() - 1]), 1);
        assert_eq!(lines_found("a.rs", &row), 1);
    }
}
