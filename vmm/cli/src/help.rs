//! Help texts at the width of the terminal.
//!
//! The texts behind a command's options (examples, tables) are constants whose lines were broken by
//! hand for the source. [`blocks`] reads them as paragraphs, headings and items; they are then
//! broken at the width of the terminal here, and set as a man page in `man_pages`.

use clap::{CommandFactory, FromArgMatches};

use super::args::Arguments;
use super::terminal;

/// Widest help: long lines are hard to read.
const WIDTH_MAX: usize = 110;
/// Narrowest help. In a smaller terminal it is cut by the terminal.
const WIDTH_MIN: usize = 40;
/// Width where none is known.
const WIDTH_USUAL: usize = 100;
/// Blanks before an item, and before the lines that explain a command.
const INDENT: usize = 2;
const INDENT_BELOW: usize = 6;

/// The definition of the command line, with help that fits the terminal.
pub fn command() -> clap::Command {
    let width = width();
    fitted(Arguments::command().term_width(width), width)
}

/// The arguments of this process.
///
/// # Errors
/// The arguments are not as defined; or help or the version was asked for.
pub fn arguments() -> Result<Arguments, clap::Error> {
    let matches = command().try_get_matches()?;
    Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command()))
}

fn width() -> usize {
    let known = terminal::columns().unwrap_or(WIDTH_USUAL);
    known.clamp(WIDTH_MIN, WIDTH_MAX)
}

fn fitted(command: clap::Command, width: usize) -> clap::Command {
    let below = command.get_after_long_help().map(|text| -> String {
        let blocks = blocks(&text.to_string());
        blocks.iter().map(|block| block.text(width)).collect()
    });
    let command = command.mut_subcommands(|subcommand| fitted(subcommand, width));
    match below {
        Some(below) => command.after_long_help(below),
        None => command,
    }
}

/// A part of a text behind a command's options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// An empty line.
    Gap,
    /// A line that ends with a colon, before items.
    Heading(String),
    /// Sentences.
    Paragraph(String),
    /// A line of a table: a term and its meaning, which begins in this column.
    Meaning {
        term: String,
        meaning: String,
        column: usize,
    },
    /// A command as it is typed, and the lines that explain it.
    Command { line: String, below: Vec<String> },
}

/// Reads a text.
pub fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        let line = line.trim();
        match (blocks.last_mut(), indent) {
            _ if line.is_empty() => blocks.push(Block::Gap),
            (Some(Block::Paragraph(before)), 0) => {
                before.push(' ');
                before.push_str(line);
            }
            (_, 0) if line.ends_with(':') && line.len() < 40 => {
                blocks.push(Block::Heading(line.to_owned()));
            }
            (_, 0) => blocks.push(Block::Paragraph(line.to_owned())),
            (Some(Block::Command { line: command, .. }), _) if command.ends_with('\\') => {
                command.truncate(command.trim_end_matches([' ', '\\']).len());
                command.push(' ');
                command.push_str(line);
            }
            (
                Some(Block::Meaning {
                    meaning, column, ..
                }),
                indent,
            ) if indent == *column => {
                meaning.push(' ');
                meaning.push_str(line);
            }
            (Some(Block::Command { below, .. }), indent) if indent > INDENT => {
                below.push(line.to_owned());
            }
            _ => blocks.push(item(line, indent)),
        }
    }
    blocks
}

/// A line of a table has its meaning behind two blanks or more.
fn item(line: &str, indent: usize) -> Block {
    match line.split_once("  ") {
        None => Block::Command {
            line: line.to_owned(),
            below: Vec::new(),
        },
        Some((term, rest)) => Block::Meaning {
            term: term.to_owned(),
            meaning: rest.trim_start().to_owned(),
            column: indent + line.len() - rest.trim_start().len(),
        },
    }
}

impl Block {
    /// Lines of at most `width` characters.
    fn text(&self, width: usize) -> String {
        match self {
            Self::Gap => "\n".to_owned(),
            Self::Heading(text) | Self::Paragraph(text) => set("", text, 0, width, ""),
            Self::Meaning {
                term,
                meaning,
                column,
            } => {
                let begin = format!("{:INDENT$}{term:<1$}", "", column - INDENT);
                // A meaning in a column of less than half the width is hard to read.
                if column * 2 > width {
                    let own = format!("{:INDENT$}{term}\n", "");
                    own + &set(&" ".repeat(INDENT_BELOW), meaning, INDENT_BELOW, width, "")
                } else {
                    set(&begin, meaning, *column, width, "")
                }
            }
            Self::Command { line, below } => {
                let begin = " ".repeat(INDENT);
                let mut text = set(&begin, line, INDENT_BELOW, width, " \\");
                for line in below {
                    let begin = " ".repeat(INDENT_BELOW);
                    text.push_str(&set(&begin, line, INDENT_BELOW + 2, width, ""));
                }
                text
            }
        }
    }
}

/// Breaks `text` behind `begin`, with the lines after the first set in by `indent`.
pub fn hanging(begin: &str, text: &str, indent: usize, width: usize) -> String {
    set(begin, text, indent, width, "")
}

/// Breaks `text` behind `begin` into lines of at most `width` characters. Lines but the first are
/// set in by `indent`; lines but the last end with `goes_on`. Words are not broken.
fn set(begin: &str, text: &str, indent: usize, width: usize, goes_on: &str) -> String {
    let (mut lines, mut line) = (String::new(), begin.to_owned());
    let mut has_words = false;
    for word in text.split_whitespace() {
        let room = width.saturating_sub(goes_on.len());
        let long = line.chars().count() + usize::from(has_words) + word.chars().count();
        if has_words && long > room {
            lines.push_str(&format!("{line}{goes_on}\n"));
            line = " ".repeat(indent);
            has_words = false;
        }
        if has_words {
            line.push(' ');
        }
        line.push_str(word);
        has_words = true;
    }
    lines.push_str(line.trim_end());
    lines.push('\n');
    lines
}

#[cfg(test)]
#[path = "help_test.rs"]
mod help_test;
