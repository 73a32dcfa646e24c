//! Messages of this program on stderr: `nvvmm: error: ...`, `nvvmm: warning: ...`, `nvvmm: ...` for
//! notes. On a terminal the word has a colour, unless NO_COLOR is set (<https://no-color.org>).

use std::io::{IsTerminal, stderr};
use std::sync::OnceLock;

use super::terminal;

/// Kind of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// The command, or a part of it, failed.
    Error,
    /// Something that may do harm later.
    Warning,
    /// News, or something that the user can do now.
    Note,
}

impl MessageKind {
    fn word(self) -> Option<&'static str> {
        match self {
            Self::Error => Some("error: "),
            Self::Warning => Some("warning: "),
            Self::Note => None,
        }
    }

    /// Selects the colour of the word, by ECMA-48: bold red, bold yellow.
    fn colour(self) -> &'static str {
        match self {
            Self::Error => "\x1b[1;31m",
            Self::Warning => "\x1b[1;33m",
            Self::Note => "",
        }
    }
}

/// Beginning of every message.
pub const PREFIX: &str = "nvvmm: ";
const COLOUR_END: &str = "\x1b[0m";

/// The beginning of a message.
pub fn prefix(kind: MessageKind, coloured: bool) -> String {
    match kind.word() {
        None => PREFIX.to_owned(),
        Some(word) if coloured => format!("{PREFIX}{}{word}{COLOUR_END}", kind.colour()),
        Some(word) => format!("{PREFIX}{word}"),
    }
}

/// Tells if messages have colours; decided before a VM process is confined, which then cannot ask.
static COLOURED: OnceLock<bool> = OnceLock::new();

/// Decides if messages have colours: stderr is a terminal that knows them, and the user did not ask
/// for none.
pub fn look_at_terminal() {
    COLOURED.get_or_init(has_colours);
}

fn has_colours() -> bool {
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|terminal| terminal == "dumb");
    stderr().is_terminal() && !is_dumb && !is_set("NO_COLOR")
}

/// Prints a message to stderr. `text` is a line or several, escaped at the output.
pub fn say(kind: MessageKind, text: &str) {
    let coloured = COLOURED.get().copied().unwrap_or(false);
    let prefix = prefix(kind, coloured);
    terminal::tell_after(&prefix, &format!("{}\n", text.trim_end_matches('\n')));
}

/// Prints a line that has its prefix already, as log lines do.
pub fn say_line(line: &str) {
    let kinds = [MessageKind::Error, MessageKind::Warning, MessageKind::Note];
    let found = kinds
        .into_iter()
        .find_map(|kind| Some((kind, line.strip_prefix(&prefix(kind, false))?)));
    match found {
        Some((kind, text)) => say(kind, text),
        None => terminal::tell(line),
    }
}

/// Prints a note.
pub fn note(text: &str) {
    say(MessageKind::Note, text);
}

/// Prints a warning.
pub fn warn(text: &str) {
    say(MessageKind::Warning, text);
}

#[cfg(test)]
#[path = "message_test.rs"]
mod message_test;
