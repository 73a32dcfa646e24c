//! Links, cited sections and named files exist.
//!
//! - A relative link in Markdown leads to a file of the repository, and its anchor to a heading.
//! - A citation such as docs/inside/pool.md, "Growth" names a heading of that document.
//! - A path of the repository in Markdown, in a comment or in a message names a file that is there.

use std::collections::{BTreeMap, BTreeSet};

use crate::exceptions::Violation;
use crate::prose::{Passage, passages, without_code_blocks};
use crate::rust;
use crate::tree::{GENERATED, Kind, Source, Tree};

/// Endings of files that are looked up wherever they are named.
const NAMED_ANYWHERE: &[&str] = &["md", "rs", "sh"];

/// Endings of files that are looked up if their path begins at the repository's root.
const NAMED_FROM_ROOT: &[&str] = &["json", "ld", "png", "svg", "toml", "yml"];

/// Words that stand for a name in a path.
const PLACEHOLDERS: &[&str] = &["NAME", "TARGET"];

/// Links, citations and paths that lead nowhere, counted for each file.
pub fn check(tree: &Tree) -> Vec<Violation> {
    let places = Places::of(tree);
    let mut found = Vec::new();
    for file in &tree.files {
        let mut report = |line: usize, what: String| {
            let message = format!("{}:{line}: {what}", file.path);
            found.push(Violation {
                key: file.path.clone(),
                amount: 1,
                message,
            });
        };
        if file.kind == Kind::Markdown {
            check_links(file, &places, &mut report);
        }
        for passage in passages(file) {
            check_citations(&passage, file, &places, &mut report);
            check_paths(&passage, &places, &mut report);
        }
        for (line, text) in messages(file) {
            for token in tokens(&text).filter(|token| token.text.starts_with("docs/")) {
                if places.lacks(&token) {
                    report(line, format!("no such file: {}", token.text));
                }
            }
        }
    }
    found
}

/// Files, directories and headings that can be referred to.
struct Places {
    files: BTreeSet<String>,
    directories: BTreeSet<String>,
    headings: BTreeMap<String, Vec<String>>,
}

impl Places {
    fn of(tree: &Tree) -> Self {
        let files: BTreeSet<String> = tree.files.iter().map(|file| file.path.clone()).collect();
        let mut directories = BTreeSet::new();
        for path in &files {
            directories.extend(
                path.match_indices('/')
                    .map(|(at, _)| path[..at].to_string()),
            );
        }
        let headings = tree
            .of_kind(Kind::Markdown)
            .map(|file| (file.path.clone(), headings(&file.text)));
        Self {
            headings: headings.collect(),
            files,
            directories,
        }
    }

    /// True for the path of a file or directory from the root.
    fn has(&self, path: &str) -> bool {
        path.is_empty() || self.files.contains(path) || self.directories.contains(path)
    }

    /// True if a path's end, from a `/` on, is `path`.
    fn has_ending(&self, path: &str) -> bool {
        let ends = |known: &String| known.strip_suffix(path).is_some_and(|p| p.ends_with('/'));
        self.has(path) || self.files.iter().any(ends) || self.directories.iter().any(ends)
    }

    /// True if the token is a path of the repository, by its look, and nothing is there.
    fn lacks(&self, token: &Token) -> bool {
        let path = token
            .text
            .strip_prefix("./")
            .unwrap_or(token.text)
            .trim_end_matches('/');
        let from_root = path
            .split_once('/')
            .is_some_and(|(first, _)| self.directories.contains(first));
        let file = path.rsplit('/').next().unwrap_or(path);
        let looks_like_a_path = match file.rsplit_once('.') {
            Some(("", _)) => false,
            Some((_, ending)) => {
                NAMED_ANYWHERE.contains(&ending) || from_root && NAMED_FROM_ROOT.contains(&ending)
            }
            None => from_root && token.quoted,
        };
        // `target/..` is made by a build; `NAME_test.rs` stands for any name.
        let stands_for_any = |part: &str| PLACEHOLDERS.iter().any(|word| part.contains(word));
        let no_path = |part: &str| GENERATED.contains(&part) || stands_for_any(part);
        looks_like_a_path && !path.split('/').any(no_path) && !self.has_ending(path)
    }

    /// The document that is named `path` in `file`: from the root, or from the file's directory.
    fn document(&self, path: &str, file: &Source) -> Option<&Vec<String>> {
        let beside = join(file.directory(), path);
        self.headings
            .get(path)
            .or_else(|| self.headings.get(&beside?))
    }
}

/// Headings of a Markdown document, without their marks.
fn headings(text: &str) -> Vec<String> {
    let prose = without_code_blocks(text);
    let headings = prose.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| line.trim_matches('#').trim().to_string())
        .collect()
}

/// The anchor of a heading, as code hosts and mdBook make it.
fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.flat_map(char::to_lowercase)
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// `path` seen from `directory`, without `.` and `..`. None if it leaves the repository.
pub fn join(directory: &str, path: &str) -> Option<String> {
    let mut parts: Vec<&str> = directory
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Targets of the relative links in Markdown, with their places. Code blocks must be taken out.
pub fn link_targets(prose: &str) -> Vec<(usize, &str)> {
    let first_word = |text: &str| text.split_whitespace().next().map_or(0, str::len);
    let inline = prose.match_indices("](").filter_map(|(at, _)| {
        let rest = prose[at + 2..].trim_start();
        let target = &rest[..rest.find(')')?];
        Some((at, &target[..first_word(target)]))
    });
    let defined = prose.match_indices("]: ").filter_map(|(at, _)| {
        let line = prose[..at].rfind('\n').map_or(0, |end| end + 1);
        let definition = prose[line..].starts_with('[') && !prose[line..at].contains(']');
        let rest = prose[at + 3..].trim_start();
        definition.then(|| (at, &rest[..first_word(rest)]))
    });
    let outside = |target: &str| target.contains("://") || target.starts_with("mailto:");
    let all = inline.chain(defined);
    all.filter(|(_, target)| !outside(target)).collect()
}

/// Checks the relative links of a Markdown document.
fn check_links(file: &Source, places: &Places, report: &mut impl FnMut(usize, String)) {
    let prose = without_code_blocks(&file.text);
    for (at, target) in link_targets(&prose) {
        let (path, wanted) = target
            .split_once('#')
            .map_or((target, None), |(p, a)| (p, Some(a)));
        let path = match path {
            "" => Some(file.path.clone()),
            _ => join(file.directory(), path),
        };
        let line = prose[..at].matches('\n').count() + 1;
        match path.filter(|path| places.has(path)) {
            None => report(line, format!("no such file: {target}")),
            Some(path) => {
                let headings = places.headings.get(&path).into_iter().flatten();
                let anchors: Vec<String> = headings.map(|heading| anchor(heading)).collect();
                if wanted.is_some_and(|wanted| !anchors.iter().any(|known| known == wanted)) {
                    report(line, format!("no such heading: {target}"));
                }
            }
        }
    }
}

/// Checks citations: a document's path, a comma, and a heading in quotes.
fn check_citations(
    passage: &Passage,
    file: &Source,
    places: &Places,
    report: &mut impl FnMut(usize, String),
) {
    for (at, _) in passage.text.match_indices(".md") {
        let start = passage.text[..at]
            .rfind(|c| !is_of_path(c))
            .map_or(0, |before| {
                before
                    + passage.text[before..]
                        .chars()
                        .next()
                        .map_or(0, char::len_utf8)
            });
        let document = &passage.text[start..at + 3];
        let rest = passage.text[at + 3..].trim_start_matches(['`', ')']);
        let Some(rest) = rest.strip_prefix(',').map(str::trim_start) else {
            continue;
        };
        let Some(quoted) = rest.strip_prefix('"').and_then(|rest| rest.split_once('"')) else {
            continue;
        };
        let heading = quoted.0.split_whitespace().collect::<Vec<_>>().join(" ");
        let heading = heading.trim_end_matches([',', '.']);
        let known = places.document(document, file);
        if known.is_some_and(|headings| !headings.iter().any(|known| known == heading)) {
            report(
                passage.line(at),
                format!("no heading \"{heading}\" in {document}"),
            );
        }
    }
}

/// Checks the paths in a passage.
fn check_paths(passage: &Passage, places: &Places, report: &mut impl FnMut(usize, String)) {
    for token in tokens(&passage.text) {
        if places.lacks(&token) {
            report(
                passage.line(token.at),
                format!("no such file: {}", token.text),
            );
        }
    }
}

/// A word that may be a path.
struct Token<'a> {
    text: &'a str,
    at: usize,
    /// True if it stands alone in backticks.
    quoted: bool,
}

fn is_of_path(c: char) -> bool {
    c.is_ascii_alphanumeric() || "_-./".contains(c)
}

/// Words of a text that are made of a path's characters only. Absolute paths, paths with `..` and
/// parts of URLs are none.
fn tokens(text: &str) -> impl Iterator<Item = Token<'_>> {
    let ends = |c: char| c.is_whitespace() || "`\"'()[]{}<>,;|".contains(c);
    let mut at = 0;
    text.split_inclusive(ends).filter_map(move |piece| {
        let start = at;
        at += piece.len();
        let word = piece.trim_end_matches(ends);
        // `links.rs:12` names a line.
        let path = word.trim_end_matches(|c: char| c.is_ascii_digit() || c == ':');
        let path = if word.contains(':') { path } else { word };
        let path = path.trim_end_matches(['.', ':', '!', '?']);
        // `<name>_test.rs` stands for any name.
        let part = text[..start].ends_with('>') || piece.ends_with('<');
        let outside = part || path.is_empty() || path.starts_with('/') || path.contains("..");
        let quoted = text[..start].ends_with('`') && piece.ends_with('`');
        (!outside && path.chars().all(is_of_path)).then_some(Token {
            text: path,
            at: start,
            quoted,
        })
    })
}

/// Text in which messages to users are: strings of a product's source, and whole scripts.
fn messages(file: &Source) -> Vec<(usize, String)> {
    let in_tests = file.path.starts_with("tests/")
        || file.path.contains("/tests/")
        || file.path.ends_with("_test.rs");
    match file.kind {
        Kind::Rust if !in_tests => rust::scan(&file.text).strings,
        Kind::Shell => {
            let lines = file.text.lines().enumerate();
            let code = lines.filter(|(_, line)| !line.trim_start().starts_with('#'));
            code.map(|(index, line)| (index + 1, line.to_string()))
                .collect()
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
