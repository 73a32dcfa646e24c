//! Text for readers: Markdown, and comments of all other files.

use crate::rust;
use crate::tree::{Kind, Source};

/// A passage of text, such as the comment before a function.
#[derive(Debug, Default)]
pub struct Passage {
    /// Lines, each ended by a line feed, without the marks of comments.
    pub text: String,
    /// Line of the file for each line of `text`.
    lines: Vec<usize>,
}

impl Passage {
    fn push(&mut self, line: usize, text: &str) {
        self.lines.push(line);
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// Line of the file, counted from 1, of a place in `text`.
    pub fn line(&self, at: usize) -> usize {
        let line = self.text[..at].matches('\n').count();
        self.lines
            .get(line)
            .or(self.lines.last())
            .copied()
            .unwrap_or(1)
    }
}

/// All passages of a file. Markdown is one passage.
pub fn passages(file: &Source) -> Vec<Passage> {
    let lines: Vec<(usize, String)> = match file.kind {
        Kind::Other => Vec::new(),
        Kind::Markdown => numbered(&file.text)
            .map(|(line, text)| (line, text.into()))
            .collect(),
        Kind::Rust => rust::scan(&file.text)
            .comments
            .into_iter()
            .map(|c| (c.line, c.text))
            .collect(),
        Kind::Shell | Kind::Toml | Kind::Yaml => numbered(&file.text)
            .filter_map(|(line, text)| Some((line, text.trim_start().strip_prefix('#')?.into())))
            .collect(),
    };
    let mut passages: Vec<Passage> = Vec::new();
    for (line, text) in lines {
        match passages.last_mut() {
            Some(last) if last.lines.last().is_some_and(|before| before + 1 == line) => {
                last.push(line, &text);
            }
            _ => {
                let mut passage = Passage::default();
                passage.push(line, &text);
                passages.push(passage);
            }
        }
    }
    passages
}

/// Markdown with its blocks of code as empty lines.
pub fn without_code_blocks(text: &str) -> String {
    let mut inside = false;
    let mut prose = String::new();
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        if !inside && !fence {
            prose.push_str(line);
        }
        inside ^= fence;
        prose.push('\n');
    }
    prose
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
mod tests {
    use super::{passages, without_code_blocks};
    use crate::tree::Tree;

    #[test]
    fn comments_in_consecutive_lines_are_one_passage() {
        let rust = "//! A\n//! b.\n\n/// C.\nfn d() {} // E.\n";
        let tree = Tree::of(&[("a.rs", rust), ("b.sh", "x\n# A\n  # b.\ny # c\n")]);
        let texts: Vec<String> = tree
            .files
            .iter()
            .flat_map(passages)
            .map(|passage| passage.text)
            .collect();
        assert_eq!(texts, [" A\n b.\n", " C.\n E.\n", " A\n b.\n"]);
        let passage = &passages(&tree.files[0])[1];
        assert_eq!((passage.line(0), passage.line(5)), (4, 5));
    }

    #[test]
    fn code_blocks_are_no_prose() {
        assert_eq!(
            without_code_blocks("a\n```sh\n[b](c)\n```\nd\n"),
            "a\n\n\n\nd\n"
        );
    }
}
