//! Holds the repository to its rules of style and structure.
//!
//! Each rule is a module beside this file. A rule has a list of exceptions in
//! `tests/tidy/exceptions`: a line is a key and the amount by which it breaks the rule. The lists
//! only shrink: more than what is listed fails, and so does less, until the list says so.
//!
//! After work that removed exceptions, this lowers or removes their lines. It never adds any:
//!
//! ```sh
//! cargo test -p nvvmm-tests --test tidy -- --ignored shrink_lists
//! ```
//!
//! This writes the lists anew, with what is worse, too. Only for merges of branches that began
//! before a rule did:
//!
//! ```sh
//! cargo test -p nvvmm-tests --test tidy -- --ignored write_lists
//! ```

mod book;
mod dependencies;
mod docstrings;
mod exceptions;
mod layers;
mod lines;
mod links;
mod modules;
mod prose;
mod rust;
mod sizes;
mod tree;

use exceptions::{Exceptions, Update, Violation};
use tree::Tree;

/// A rule: the name of its list of exceptions and its check.
type Rule = (&'static str, fn(&Tree) -> Vec<Violation>);

const RULES: &[Rule] = &[
    ("book", book::check),
    ("dependencies", dependencies::check),
    ("docstrings", docstrings::check),
    ("files", sizes::check_files),
    ("functions", sizes::check_functions),
    ("layers", layers::check),
    ("lines", lines::check),
    ("links", links::check),
];

/// Fails if the repository breaks `rule` in other places than its exceptions say.
fn hold(rule: &str) {
    let (name, check) = RULES
        .iter()
        .find(|(name, _)| *name == rule)
        .expect("no such rule");
    let found = check(&Tree::of_the_repository());
    let complaints = Exceptions::read(name).complaints(&found);
    assert!(
        complaints.is_empty(),
        "rule \"{rule}\":\n{}",
        complaints.join("\n")
    );
}

#[test]
fn chapters_are_in_the_book() {
    hold("book");
}

#[test]
fn dependencies_are_used() {
    hold("dependencies");
}

#[test]
fn docstrings_begin_with_the_thing_itself() {
    hold("docstrings");
}

#[test]
fn files_are_short() {
    hold("files");
}

#[test]
fn functions_are_short() {
    hold("functions");
}

#[test]
fn imports_point_down() {
    hold("layers");
}

#[test]
fn lines_are_short() {
    hold("lines");
}

#[test]
fn links_and_cited_places_exist() {
    hold("links");
}

#[test]
#[ignore = "writes the lists of exceptions, smaller only"]
fn shrink_lists() {
    let tree = Tree::of_the_repository();
    for (name, check) in RULES {
        Exceptions::read(name)
            .update(&check(&tree), Update::Shrink)
            .write(name);
    }
}

#[test]
#[ignore = "writes the lists of exceptions with what is worse, too: for merges"]
fn write_lists() {
    let tree = Tree::of_the_repository();
    for (name, check) in RULES {
        Exceptions::default()
            .update(&check(&tree), Update::Replace)
            .write(name);
    }
}

#[test]
#[ignore = "prints which modules name which: to order the table of layers"]
fn print_imports() {
    print!("{}", layers::describe(&Tree::of_the_repository()));
}
