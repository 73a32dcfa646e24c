//! Lines that go to the host.

use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};
use std::os::fd::AsFd;

/// The outcome of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, and what was verified is right.
    Ok,
    /// Done, and what was verified is wrong.
    Bad,
}

/// The answer to a command: `key=value` words and, last, perhaps some text.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// The outcome.
    pub outcome: Outcome,
    words: String,
}

impl Answer {
    /// An answer without words yet; `Bad` unless `right`.
    pub fn judged(right: bool) -> Answer {
        Answer {
            outcome: if right { Outcome::Ok } else { Outcome::Bad },
            words: String::new(),
        }
    }

    /// An `Ok` answer without words yet.
    pub fn ok() -> Answer {
        Answer::judged(true)
    }

    /// Adds a word. `value` must not contain spaces.
    pub fn with(mut self, key: &str, value: impl Display) -> Answer {
        // Writing to a String cannot fail.
        let _ = write!(self.words, " {key}={value}");
        self
    }

    /// Adds words that name a value for each of several things, such as CPUs: `key=value,value`.
    pub fn with_list<T: Display>(self, key: &str, values: impl IntoIterator<Item = T>) -> Answer {
        let values: Vec<String> = values.into_iter().map(|value| value.to_string()).collect();
        self.with(key, values.join(","))
    }

    /// Adds free text, which must come last.
    pub fn with_text(mut self, text: Option<&str>) -> Answer {
        if let Some(text) = text {
            let _ = write!(self.words, " -- {}", one_line(text));
        }
        self
    }
}

fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).collect::<Vec<_>>().join(" ")
}

/// The line for a command's end.
pub fn answer_line(tag: Option<&str>, command: &str, result: &Result<Answer, String>) -> String {
    let tag = tag.map(|tag| format!(" {tag}")).unwrap_or_default();
    match result {
        Ok(Answer {
            outcome: Outcome::Ok,
            words,
        }) => format!("@ {command} ok{tag}{words}"),
        Ok(Answer {
            outcome: Outcome::Bad,
            words,
        }) => format!("@ {command} bad{tag}{words}"),
        Err(reason) => format!("@ {command} err{tag} -- {}", one_line(reason)),
    }
}

/// Sends one line, whole, to the console.
pub fn send(line: &str) {
    let mut out = io::stdout().lock();
    // If the host does not listen, that is no reason to end.
    let _ = out
        .write_all(format!("{line}\n").as_bytes())
        .and_then(|()| out.flush());
}

/// Waits until everything has been sent.
pub fn drain() {
    crate::sys::drain(io::stdout().as_fd());
}

#[cfg(test)]
#[path = "answer_test.rs"]
mod answer_test;
