//! Names and patterns of names, for commands that do one thing to several VMs or snapshots:
//! `stop web db`, `rm 'web@*'`, `pause --all`.
//!
//! The user quotes a pattern, or the shell would look for files that match it. The program finds
//! the names: `*` stands for any text, `?` for one character, `[a-d]` for one of these.
//!
//! To give a command several VMs, flatten [`VmNames`](crate::args::VmNames) into its arguments, and
//! call its action for each name:
//!
//! ```text
//! let there = names::running(&dir)?;
//! let chosen = Chosen::of(&arguments.names.choice(arguments.force), Kind::Vm, &there);
//! Ok(chosen.each(|name| pause(&dir, name)))
//! ```
//!
//! `there` has the names that a pattern is held against; a command about ended VMs passes theirs. A
//! name without a pattern reaches the action in any case, and the action says that there is none.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::thread;

use glob::Pattern;
use nvvmm::control::RuntimeDir;
use nvvmm::{ErrorKind, VmError};

use super::error;

/// A name, or a pattern of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamePattern {
    /// A name, as it is.
    Name(String),
    /// All names that match.
    Pattern(Pattern),
}

/// Tells if `text` has a character that only patterns have.
pub fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', ']'])
}

/// Kind of the things that have the names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// VMs that run.
    Vm,
    /// VMs that have ended.
    PastVm,
    /// Snapshots of a pool.
    Snapshot,
    /// Disks of a pool.
    Disk,
}

impl Kind {
    fn no_match(self, pattern: &Pattern) -> VmError {
        let (noun, list) = match self {
            Self::Vm => ("VM", "'nvvmm ps' lists the VMs"),
            Self::PastVm => (
                "VM that has ended",
                "'nvvmm ps --all' lists VMs that have ended, too",
            ),
            Self::Snapshot => ("snapshot", "'nvvmm snapshots' lists the snapshots"),
            Self::Disk => ("disk", "'nvvmm disk ls' lists the disks"),
        };
        VmError::new(
            ErrorKind::NotFound,
            format!("no {noun} matches '{pattern}'"),
        )
        .with_remedy(list)
    }
}

/// Names and patterns that a user gave.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// Names and patterns, in the user's order.
    pub given: &'a [NamePattern],
    /// All that there are.
    pub all: bool,
    /// A pattern that matches nothing is no error.
    pub force: bool,
}

impl Choice<'_> {
    /// Tells if it takes the list of all names to know which are meant.
    pub fn needs_list(&self) -> bool {
        let is_pattern = |given: &NamePattern| matches!(given, NamePattern::Pattern(_));
        self.all || self.given.iter().any(is_pattern)
    }
}

/// Names to act on, each once, in the user's order; and errors in the place of patterns that match
/// nothing.
#[derive(Debug)]
pub struct Chosen(Vec<Result<String, VmError>>);

impl Chosen {
    /// Finds the names that `choice` means. `there` has all names that a pattern can match.
    pub fn of(choice: &Choice<'_>, kind: Kind, there: &[String]) -> Self {
        if choice.all {
            return Self(there.iter().cloned().map(Ok).collect());
        }
        let mut chosen = Vec::new();
        let mut seen = BTreeSet::new();
        for given in choice.given {
            let names: Vec<&String> = match given {
                NamePattern::Name(name) => vec![name],
                NamePattern::Pattern(pattern) => {
                    let matching = there.iter().filter(|name| pattern.matches(name));
                    matching.collect()
                }
            };
            if let (NamePattern::Pattern(pattern), true, false) =
                (given, names.is_empty(), choice.force)
            {
                chosen.push(Err(kind.no_match(pattern)));
            }
            for name in names {
                if seen.insert(name.clone()) {
                    chosen.push(Ok(name.clone()));
                }
            }
        }
        Self(chosen)
    }

    /// All names.
    ///
    /// # Errors
    /// That of the first pattern which matches nothing.
    pub fn names(self) -> Result<Vec<String>, VmError> {
        self.0.into_iter().collect()
    }

    /// Calls `act` for one name after the other, also after one has failed. Prints each error; the
    /// exit code is that of the first.
    pub fn each(self, mut act: impl FnMut(&str) -> Result<(), VmError>) -> ExitCode {
        let several = self.0.len() > 1;
        let mut first = None;
        for chosen in self.0 {
            let done = chosen.and_then(|name| act(&name).map_err(|e| named(e, &name, several)));
            note(done, &mut first);
        }
        ended(first)
    }

    /// Does the same for all names at once, for actions that wait.
    pub fn each_at_once(self, act: impl Fn(&str) -> Result<(), VmError> + Sync) -> ExitCode {
        let several = self.0.len() > 1;
        let act = &act;
        let mut first = None;
        thread::scope(|scope| {
            let acting: Vec<_> = self
                .0
                .into_iter()
                .map(|chosen| {
                    scope.spawn(move || {
                        chosen.and_then(|name| act(&name).map_err(|e| named(e, &name, several)))
                    })
                })
                .collect();
            for done in acting {
                let failed = |_| Err(VmError::failed("the command failed for one of the names"));
                note(done.join().unwrap_or_else(failed), &mut first);
            }
        });
        ended(first)
    }
}

/// Prints an error; the first is kept.
fn note(done: Result<(), VmError>, first: &mut Option<ErrorKind>) {
    if let Err(failure) = done {
        error::print(&failure);
        first.get_or_insert(failure.kind);
    }
}

fn ended(first: Option<ErrorKind>) -> ExitCode {
    first.map_or(ExitCode::SUCCESS, |kind| error::exit_code(kind).into())
}

/// An error that names what it is about, where there are several.
fn named(error: VmError, name: &str, several: bool) -> VmError {
    if !several || error.message.contains(name) {
        return error;
    }
    VmError {
        message: format!("{name}: {}", error.message),
        ..error
    }
}

/// Names of the VMs that run, in their order.
pub fn running(dir: &RuntimeDir) -> Result<Vec<String>, VmError> {
    let entries = dir.entries()?.into_iter();
    Ok(entries.map(|entry| entry.paths.name).collect())
}

#[cfg(test)]
#[path = "names_test.rs"]
mod names_test;
