//! A scanner of Rust's text that tells code, comments and strings apart.

/// A comment of one line, or one line of a longer one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment {
    /// Counted from 1.
    pub line: usize,
    /// `///` and `//!` mark docstrings, `//` others. Block comments have `/*`.
    pub mark: &'static str,
    /// Text after the mark.
    pub text: String,
}

/// A Rust file in its parts.
#[derive(Debug, Default)]
pub struct Scan {
    /// The file with comments and the insides of strings replaced by spaces. Its lines are those
    /// of the file.
    pub code: String,
    pub comments: Vec<Comment>,
    /// Insides of string literals, as written, each with the line where it begins.
    pub strings: Vec<(usize, String)>,
}

/// Takes a Rust file apart.
pub fn scan(text: &str) -> Scan {
    let chars = text.chars().collect();
    let mut scanner = Scanner {
        chars,
        at: 0,
        line: 1,
        scan: Scan::default(),
    };
    while scanner.at < scanner.chars.len() {
        scanner.step();
    }
    scanner.scan
}

/// True for characters that names are made of.
pub fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

struct Scanner {
    chars: Vec<char>,
    at: usize,
    line: usize,
    scan: Scan,
}

impl Scanner {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn rest_starts_with(&self, text: &str) -> bool {
        text.chars()
            .enumerate()
            .all(|(i, c)| self.peek(i) == Some(c))
    }

    /// Passes `count` characters of code.
    fn keep(&mut self, count: usize) {
        for _ in 0..count {
            let c = self.chars[self.at];
            self.line += usize::from(c == '\n');
            self.scan.code.push(c);
            self.at += 1;
        }
    }

    /// Passes one character that is not code. Lines stay.
    fn blank(&mut self) -> char {
        let c = self.chars[self.at];
        self.line += usize::from(c == '\n');
        self.scan.code.push(if c == '\n' { '\n' } else { ' ' });
        self.at += 1;
        c
    }

    fn step(&mut self) {
        match self.chars[self.at] {
            '/' if self.peek(1) == Some('/') => self.line_comment(),
            '/' if self.peek(1) == Some('*') => self.block_comment(),
            '"' => self.string(),
            '\'' => self.character(),
            c if is_name(c) => self.word(),
            _ => self.keep(1),
        }
    }

    fn line_comment(&mut self) {
        let mark = match (self.peek(2), self.peek(3)) {
            (Some('/'), Some('/')) => "//",
            (Some('/'), _) => "///",
            (Some('!'), _) => "//!",
            _ => "//",
        };
        let line = self.line;
        let mut text = String::new();
        while self.peek(0).is_some_and(|c| c != '\n') {
            text.push(self.blank());
        }
        self.scan.comments.push(Comment {
            line,
            mark,
            text: text[mark.len()..].to_string(),
        });
    }

    fn block_comment(&mut self) {
        let (mut line, mut text, mut depth) = (self.line, String::new(), 0);
        loop {
            if self.rest_starts_with("/*") {
                depth += 1;
                self.blank();
                self.blank();
            } else if self.rest_starts_with("*/") {
                depth -= 1;
                self.blank();
                self.blank();
            } else if self.peek(0).is_some() {
                text.push(self.blank());
            }
            let ended = depth == 0 || self.peek(0).is_none();
            if ended || text.ends_with('\n') {
                let text = std::mem::take(&mut text).trim_end_matches('\n').to_string();
                self.scan.comments.push(Comment {
                    line,
                    mark: "/*",
                    text,
                });
                line = self.line;
            }
            if ended {
                return;
            }
        }
    }

    /// A string with escapes: `at` is at its first quote.
    fn string(&mut self) {
        let line = self.line;
        self.keep(1);
        let mut text = String::new();
        while let Some(c) = self.peek(0) {
            if c == '"' {
                self.keep(1);
                break;
            }
            text.push(self.blank());
            if c == '\\' && self.peek(0).is_some() {
                text.push(self.blank());
            }
        }
        self.scan.strings.push((line, text));
    }

    /// A raw string: `at` is at the first of its `hashes` or at the quote.
    fn raw_string(&mut self, hashes: usize) {
        let line = self.line;
        self.keep(hashes + 1);
        let end: String = std::iter::once('"')
            .chain((0..hashes).map(|_| '#'))
            .collect();
        let mut text = String::new();
        while self.peek(0).is_some() && !self.rest_starts_with(&end) {
            text.push(self.blank());
        }
        self.keep((hashes + 1).min(self.chars.len() - self.at));
        self.scan.strings.push((line, text));
    }

    /// A character literal, or the `'` of a lifetime or label.
    fn character(&mut self) {
        if self.peek(1) == Some('\\') {
            self.keep(1);
            self.blank();
            self.blank();
            while self.peek(0).is_some_and(|c| c != '\'') {
                self.blank();
            }
            self.keep(1);
        } else if self.peek(2) == Some('\'') {
            self.keep(1);
            self.blank();
            self.keep(1);
        } else {
            self.keep(1);
        }
    }

    /// A name, a number, or the prefix of a string.
    fn word(&mut self) {
        let length = self.chars[self.at..]
            .iter()
            .take_while(|c| is_name(**c))
            .count();
        let word: String = self.chars[self.at..self.at + length].iter().collect();
        self.keep(length);
        if matches!(word.as_str(), "r" | "br" | "cr") {
            let hashes = self.chars[self.at..]
                .iter()
                .take_while(|c| **c == '#')
                .count();
            if self.peek(hashes) == Some('"') {
                self.raw_string(hashes);
            }
        }
    }
}

/// The code without items that are only for tests: each has `#[cfg(test)]` before it. Names of
/// modules in files of their own (`#[cfg(test)] mod name;`) are returned beside it.
pub fn without_tests(code: &str) -> (String, Vec<String>) {
    let mut product = String::with_capacity(code.len());
    let mut modules = Vec::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (before, item) = rest.split_at(at);
        product.push_str(before);
        let end = end_of_item(item);
        if let Some(name) = module_in_a_file(&item[..end]) {
            modules.push(name);
        }
        product.extend(
            item[..end]
                .chars()
                .map(|c| if c == '\n' { '\n' } else { ' ' }),
        );
        rest = &item[end..];
    }
    product.push_str(rest);
    (product, modules)
}

/// Length of an item with its attributes: to the first `;` outside all brackets, or to the `}` of
/// its body.
fn end_of_item(item: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in item.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            ';' | ',' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

/// Name of the module that an item like `#[cfg(test)] mod name;` declares.
fn module_in_a_file(item: &str) -> Option<String> {
    let words: Vec<&str> = item.trim_end_matches(';').split_whitespace().collect();
    let at = words.iter().position(|word| *word == "mod")?;
    (item.ends_with(';')).then(|| words.get(at + 1).map(|name| (*name).to_string()))?
}

#[cfg(test)]
mod tests {
    use super::{scan, without_tests};

    #[test]
    fn strings_and_comments_are_no_code() {
        let text = "let a = \"fn // no \\\" comment\"; // fn b() {\n/// Doc.\nfn c() {}\n";
        let scan = scan(text);
        assert!(!scan.code.contains("comment"));
        assert!(!scan.code.contains("fn b"));
        assert!(scan.code.contains("fn c() {}"));
        assert_eq!(scan.code.lines().count(), text.lines().count());
        assert_eq!(scan.strings, [(1, "fn // no \\\" comment".to_string())]);
        let marks: Vec<_> = scan
            .comments
            .iter()
            .map(|c| (c.line, c.mark, &*c.text))
            .collect();
        assert_eq!(marks, [(1, "//", " fn b() {"), (2, "///", " Doc.")]);
    }

    #[test]
    fn raw_strings_characters_and_lifetimes() {
        let scan = scan("r#\"a\" { \"#; '{'; '\\''; '\"'; b'\\\\'; fn f<'a>(x: &'a str) { r#fn }");
        assert_eq!(scan.code.matches('{').count(), 1);
        assert_eq!(scan.strings, [(1, "a\" { ".to_string())]);
        assert!(scan.code.contains("fn f<'a>(x: &'a str) { r#fn }"));
    }

    #[test]
    fn block_comments_nest() {
        let scan = scan("/* a\n/* b */ c\n*/ fn d() {}");
        assert_eq!(scan.code.trim(), "fn d() {}");
        assert_eq!(
            scan.comments.iter().map(|c| c.line).collect::<Vec<_>>(),
            [1, 2, 3]
        );
    }

    #[test]
    fn items_of_tests_are_left_out() {
        let (product, modules) = without_tests(
            "use a::b;\n#[cfg(test)]\n#[path = \"\"]\nmod c_test;\n\
             #[cfg(test)]\nmod tests { fn d() {} }\nfn e() {}\n",
        );
        assert_eq!(modules, ["c_test"]);
        assert!(product.contains("use a::b;") && product.contains("fn e() {}"));
        assert!(!product.contains("fn d") && !product.contains("c_test"));
    }
}
