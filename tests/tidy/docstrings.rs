//! A docstring begins with a verb or with the thing itself.

use crate::exceptions::Violation;
use crate::rust;
use crate::tree::{Kind, Tree};

/// Words that no docstring begins with.
const POOR: &[&str] = &[
    "What", "Whether", "How", "Where", "When", "Who", "Which", "It", "They", "That",
];

/// Docstrings that begin with one of [`POOR`], counted for each file.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in tree.of_kind(Kind::Rust) {
        let comments = rust::scan(&file.text).comments;
        for (index, comment) in comments.iter().enumerate() {
            let begins = comment.mark != "//"
                && !index.checked_sub(1).is_some_and(|last| {
                    comments[last].mark == comment.mark && comments[last].line + 1 == comment.line
                });
            let word: String = comment
                .text
                .trim()
                .chars()
                .take_while(|c| c.is_alphabetic())
                .collect();
            if begins && comment.mark != "/*" && POOR.contains(&word.as_str()) {
                found.push(Violation {
                    key: file.path.clone(),
                    amount: 1,
                    message: format!("{}:{}: begins with {word}", file.path, comment.line),
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{POOR, check};
    use crate::tree::Tree;

    #[test]
    fn poor_openings_are_found() {
        for word in POOR {
            let text = format!("/// {word} is mapped.\nfn a() {{}}\n");
            assert_eq!(check(&Tree::of(&[("a.rs", &text)])).len(), 1, "{word}");
        }
        let found = check(&Tree::of(&[(
            "a.rs",
            "//! Good.\n\n/// It's not.\n/// That is.\n",
        )]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].message, "a.rs:3: begins with It");
    }

    #[test]
    fn only_the_first_word_of_a_docstring_counts() {
        let good = "//! Iterates.\n//! It goes on.\n/// Maps.\n///\n/// What follows.\nfn a() {}\n\
                    // What this is.\nconst B: &str = \"\n/// Where\n\";\n";
        assert_eq!(check(&Tree::of(&[("a.rs", good)])).len(), 0);
    }
}
