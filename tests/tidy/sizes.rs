//! No file of Rust has more than 600 lines, no function more than 80, no chapter of the
//! documentation more than 300, and the README no more than 160.

use crate::exceptions::Violation;
use crate::rust::{self, is_name};
use crate::tree::{Kind, Source, Tree, WRITTEN_BY_PROGRAMS};

/// The most lines of files of Rust, of chapters in `docs`, and of README.md.
const MOST_OF_RUST: usize = 600;
const MOST_OF_A_CHAPTER: usize = 300;
const MOST_OF_THE_README: usize = 160;

/// The most lines of a function, from its opening brace to its closing one.
const MOST_OF_A_FUNCTION: usize = 80;

/// Files that are too long, with their lines.
pub fn check_files(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in &tree.files {
        let (lines, most) = (file.text.lines().count(), most_lines(file));
        if lines > most && !WRITTEN_BY_PROGRAMS.contains(&file.path.as_str()) {
            found.push(Violation {
                key: file.path.clone(),
                amount: lines,
                message: format!("{}: {lines} lines, at most {most}", file.path),
            });
        }
    }
    found
}

/// The most lines that a file may have.
fn most_lines(file: &Source) -> usize {
    match file.kind {
        Kind::Rust => MOST_OF_RUST,
        Kind::Markdown if file.path == "README.md" => MOST_OF_THE_README,
        Kind::Markdown if file.path.starts_with("docs/") => MOST_OF_A_CHAPTER,
        _ => usize::MAX,
    }
}

/// Functions that are too long, with their lines.
pub fn check_functions(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for file in tree.of_kind(Kind::Rust) {
        for function in functions(&rust::scan(&file.text).code) {
            let Function { name, line, lines } = function;
            if lines > MOST_OF_A_FUNCTION {
                found.push(Violation {
                    key: format!("{} {name}", file.path),
                    amount: lines,
                    message: format!(
                        "{}:{line}: {name} has {lines} lines, at most {MOST_OF_A_FUNCTION}",
                        file.path
                    ),
                });
            }
        }
    }
    found
}

#[derive(Debug, PartialEq, Eq)]
struct Function {
    name: String,
    line: usize,
    /// Lines of the body, with those of its braces.
    lines: usize,
}

/// Functions that have a body. Those inside another one are part of it, and by themselves too.
fn functions(code: &str) -> Vec<Function> {
    let mut functions = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        if code[..at]
            .chars()
            .next_back()
            .is_some_and(|c| is_name(c) || c == '#')
        {
            continue;
        }
        let rest = code[at + 3..].trim_start();
        let name: String = rest
            .chars()
            .take_while(|c| is_name(*c) || "$#".contains(*c))
            .collect();
        if name.is_empty() {
            continue;
        }
        if let Some(body) = body(&code[at..]) {
            functions.push(Function {
                name,
                line: code[..at].matches('\n').count() + 1,
                lines: body.matches('\n').count() + 1,
            });
        }
    }
    functions
}

/// The body of the function at the beginning of `code`, with its braces. A `{` within other
/// brackets of the signature does not begin it.
fn body(code: &str) -> Option<&str> {
    let mut depth = 0usize;
    let mut begin = None;
    for (at, c) in code.char_indices() {
        match c {
            '{' if depth == 0 && begin.is_none() => {
                begin = Some(at);
                depth = 1;
            }
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth = depth.checked_sub(1)?;
                if let Some(begin) = begin.filter(|_| depth == 0) {
                    return Some(&code[begin..=at]);
                }
            }
            ';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{Function, check_files, check_functions, functions};
    use crate::tree::Tree;

    #[test]
    fn a_long_file_is_found() {
        let text = "// Line.\n".repeat(601);
        let found = check_files(&Tree::of(&[("a.rs", &text), ("b.rs", &text[9..])]));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].key.as_str(), found[0].amount), ("a.rs", 601));
    }

    #[test]
    fn a_long_chapter_is_found() {
        let text = "Line.\n".repeat(301);
        let files = [
            ("README.md", &text[6 * 140..]),
            ("docs/a.md", &text[..]),
            ("docs/b.md", &text[6..]),
            ("docs/performance.md", &text[..]),
        ];
        let found: Vec<String> = check_files(&Tree::of(&files))
            .into_iter()
            .map(|v| v.key)
            .collect();
        assert_eq!(found, ["README.md", "docs/a.md"]);
    }

    #[test]
    fn a_long_function_is_found() {
        let long = format!(
            "fn a(b: [u8; {{ 4 }}]) -> u8 {{\n{}}}\n",
            "    '{';\n".repeat(79)
        );
        let found = check_functions(&Tree::of(&[("a.rs", &long)]));
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].key.as_str(), found[0].amount), ("a.rs a", 81));
        let short = long.replacen("    '{';\n", "", 1);
        assert_eq!(check_functions(&Tree::of(&[("a.rs", &short)])).len(), 0);
    }

    #[test]
    fn only_functions_with_a_body_count() {
        let code = "trait A { fn b(); fn c() {} }\ntype D = fn (u8) -> u8;\nfn e() {\n{}\n}\n";
        let found = functions(code);
        let expected = [("c", 1, 1), ("e", 3, 3)].map(|(name, line, lines)| Function {
            name: name.into(),
            line,
            lines,
        });
        assert_eq!(found, expected);
    }
}
