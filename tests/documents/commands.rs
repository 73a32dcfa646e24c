//! Checks that the program and the scripts take the command lines in documents.

use std::fs;

use clap::{Parser as _, error::ErrorKind};
use nvvmm_cli::args::Arguments;

use crate::{
    markdown::{Document, Marker, root},
    shell::simple_commands,
};

/// Placeholders in documents, each with an example.
const PLACEHOLDERS: [(&str, &str); 15] = [
    ("PID", "1"),
    ("$PID", "1"),
    ("N", "1"),
    ("K", "1"),
    ("COUNT", "1"),
    ("SIZE", "1G"),
    ("TIME", "1s"),
    ("P", "1s"),
    ("PERIOD", "1s"),
    ("ADDRESS", "127.0.0.1:9180"),
    ("SHELL", "bash"),
    ("COMMAND", "ps"),
    ("URL", "s3://bucket/team"),
    ("URL/NAME", "s3://bucket/team/name"),
    ("ID", "00112233445566778899aabbccddeeff"),
];

/// A simple command and its place.
struct Found {
    place: String,
    words: Vec<String>,
    /// Stands in a sentence, where arguments may be left out.
    is_mention: bool,
}

fn found() -> Vec<Found> {
    let mut all = Vec::new();
    for document in Document::all() {
        for block in document.blocks() {
            for step in block.steps {
                let place = format!("{}:{}", document.path, step.line);
                push(&mut all, place, &step.command, false);
            }
        }
        for (line, text) in document.paragraphs() {
            take_paragraph(&mut all, &document.path, line, &text);
        }
    }
    all
}

/// Commands in a paragraph that begins at that line: lines of indented code, and code between
/// backticks, which may be broken into lines.
fn take_paragraph(all: &mut Vec<Found>, document: &str, line: usize, text: &str) {
    let place =
        |offset: usize| format!("{document}:{}", line + text[..offset].matches('\n').count());
    let mut at = 0;
    for (number, code) in text.split('`').enumerate() {
        if number % 2 == 1 && is_command(code) {
            push(all, place(at), &code.replace('\n', " "), true);
        }
        at += code.len() + 1;
    }
    for (number, code) in text.lines().enumerate() {
        if let Some(code) = code.strip_prefix("    ").filter(|code| is_command(code)) {
            push(all, format!("{document}:{}", line + number), code, false);
        }
    }
}

fn is_command(code: &str) -> bool {
    ["nvvmm ", "scripts/", ".ci/run"]
        .iter()
        .any(|start| code.starts_with(start))
}

fn push(all: &mut Vec<Found>, place: String, line: &str, is_mention: bool) {
    for words in simple_commands(line) {
        all.push(Found {
            place: place.clone(),
            words,
            is_mention,
        });
    }
}

/// True for a command of nvvmm, and not for a string that begins with its name and a date.
fn is_nvvmm(words: &[String]) -> bool {
    let is_date = |word: &String| word.starts_with(|c: char| c.is_ascii_digit());
    words[0] == "nvvmm" && !words.get(1).is_some_and(is_date)
}

/// Replaces a placeholder by its example, and a variable of the shell by a name.
fn argument(word: &str) -> String {
    let word = word.trim_matches(['[', ']']);
    let example = PLACEHOLDERS.iter().find(|(name, _)| *name == word);
    match (example, word.strip_prefix('$')) {
        (Some((_, example)), _) => (*example).to_owned(),
        (None, Some(variable)) => variable.to_owned(),
        (None, None) => word.replace("$PWD", "/directory"),
    }
}

/// True for what a sentence may say of a command: without some arguments, or without the value of
/// an option.
fn is_incomplete(error: &clap::Error) -> bool {
    match error.kind() {
        ErrorKind::MissingRequiredArgument
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => true,
        ErrorKind::InvalidValue => error.to_string().contains("none was supplied"),
        _ => false,
    }
}

#[test]
fn every_nvvmm_command_is_one_that_the_program_takes() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for found in found().iter().filter(|found| is_nvvmm(&found.words)) {
        let arguments = found.words.iter().filter(|word| *word != "...");
        count += 1;
        let Err(error) = Arguments::try_parse_from(arguments.map(|word| argument(word))) else {
            continue;
        };
        let is_help = matches!(
            error.kind(),
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
        );
        let is_allowed = is_help || found.is_mention && is_incomplete(&error);
        if !is_allowed {
            wrong.push(format!(
                "{}: {}\n{error}",
                found.place,
                found.words.join(" ")
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {count} commands:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(count > 100, "only {count} commands were found");
}

#[test]
fn every_script_and_option_of_one_exists() {
    let mut wrong = Vec::new();
    for found in found() {
        let script = found.words[0].trim_start_matches("./");
        if !script.starts_with("scripts/") && script != ".ci/run" {
            continue;
        }
        let Ok(text) = fs::read_to_string(root().join(script)) else {
            if !root().join(script).is_dir() {
                wrong.push(format!("{}: there is no {script}", found.place));
            }
            continue;
        };
        let options = found
            .words
            .iter()
            .take_while(|word| *word != "--")
            .map(|word| argument(word));
        for option in options.filter(|word| word.starts_with("--")) {
            if !text.contains(&option) {
                wrong.push(format!("{}: {script} has no option {option}", found.place));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_block_says_how_it_is_run() {
    let mut wrong = Vec::new();
    for document in Document::all() {
        for block in document.blocks() {
            if let Marker::Unknown(info) = block.marker {
                wrong.push(format!("{}:{}: {info}", document.path, block.line));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "these say none of console,bare-metal, console,linux, console,install, console,quickstart, \
         and console,not-run with a reason:\n{}",
        wrong.join("\n")
    );
}
