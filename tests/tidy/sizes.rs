//! No file of Rust has more than 600 lines, no function more than 80.

use crate::exceptions::Violation;
use crate::rust::{self, is_name};
use crate::tree::{Kind, Tree};

/// The most lines of a file.
const MOST_OF_A_FILE: usize = 600;

/// The most lines of a function, from its opening brace to its closing one.
const MOST_OF_A_FUNCTION: usize = 80;

/// Files that are too long, with their lines.
pub fn check_files(tree: &Tree) -> Vec<Violation> {
    let lengths = tree
        .of_kind(Kind::Rust)
        .map(|file| (file, file.text.lines().count()));
    lengths
        .filter(|(_, lines)| *lines > MOST_OF_A_FILE)
        .map(|(file, lines)| Violation {
            key: file.path.clone(),
            amount: lines,
            message: format!("{}: {lines} lines, at most {MOST_OF_A_FILE}", file.path),
        })
        .collect()
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
