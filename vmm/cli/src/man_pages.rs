//! Man pages, one for each command. clap_mangen sets most sections. The synopsis is set here, with
//! values, and so are operands (in a section of their own) and the text behind the options.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory};
use clap_mangen::Man;

use super::args::Arguments;
use super::help::{self, Block};

/// Possible values that a synopsis shows in place of a name for them.
const VALUES_SHOWN_MAX: usize = 4;

/// Writes the pages of all commands that are not hidden to `dir`.
///
/// # Errors
/// A page cannot be written.
pub fn write_all(dir: &Path) -> io::Result<()> {
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    write_pages(&command, dir, None)
}

fn write_pages(command: &Command, dir: &Path, parent: Option<&str>) -> io::Result<()> {
    let name = page_name(command);
    let mut text = Vec::new();
    page(command, parent, &mut text)?;
    fs::write(dir.join(format!("{name}.1")), with_one_preamble(&text))?;
    let mut shown = command
        .get_subcommands()
        .filter(|below| !below.is_hide_set());
    shown.try_for_each(|below| write_pages(below, dir, Some(&name)))
}

/// The page without the definitions that clap_mangen sets before each section, but those at its
/// beginning.
fn with_one_preamble(page: &[u8]) -> String {
    let page = String::from_utf8_lossy(page);
    let is_definition =
        |line: &&str| line.starts_with(".ie \\n(.g ") || line.starts_with(".el .ds ");
    let begin = page.lines().take_while(is_definition);
    let rest = page.lines().skip(begin.clone().count());
    begin
        .chain(rest.filter(|line| !is_definition(line)))
        .map(|line| format!("{line}\n"))
        .collect()
}

fn page_name(command: &Command) -> String {
    let name = command.get_display_name();
    name.unwrap_or_else(|| command.get_name()).to_owned()
}

/// Sets one page in the macros of man(7).
fn page(command: &Command, parent: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
    let program = format!("nvvmm {}", env!("CARGO_PKG_VERSION"));
    let man = Man::new(command.clone()).source(program).manual("nvvmm");
    man.render_title(out)?;
    // Options and paths are not broken at hyphens, and lines have no gaps.
    writeln!(out, ".nh\n.ad l")?;
    man.render_name_section(out)?;
    synopsis(command, out)?;
    man.render_description_section(out)?;
    let below = command.get_after_long_help().map(ToString::to_string);
    let blocks = help::blocks(&below.unwrap_or_default());
    let headed = blocks
        .iter()
        .position(|block| matches!(block, Block::Heading(_)));
    let (described, headed) = blocks.split_at(headed.unwrap_or(blocks.len()));
    if !described.is_empty() {
        writeln!(out, ".PP")?;
        set(described, out)?;
    }
    let operands = |arg: Arg| match arg.is_positional() {
        true => arg.help_heading("Arguments"),
        false => arg.hide(true),
    };
    let has = |positional: bool| {
        let mut shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        shown.any(|arg| arg.is_positional() == positional)
    };
    if has(true) {
        Man::new(command.clone().mut_args(operands)).render_options_section(out)?;
    }
    if has(false) {
        let options = command.clone().mut_args(|arg| {
            let hidden = arg.is_hide_set() || arg.is_positional();
            arg.hide(hidden)
        });
        Man::new(options).render_options_section(out)?;
    }
    if command.has_subcommands() {
        let commands = command.clone().subcommand_help_heading("COMMANDS");
        Man::new(commands).render_subcommands_section(out)?;
    }
    set(headed, out)?;
    if let Some(parent) = parent {
        writeln!(out, ".SH SEE ALSO\n\\fB{}\\fR(1)", escaped(parent))?;
    }
    Ok(())
}

/// `nvvmm run --kernel FILE [--memory SIZE] ...`. Options that must be given come first.
fn synopsis(command: &Command, out: &mut dyn Write) -> io::Result<()> {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    writeln!(out, ".SH SYNOPSIS\n.HP 4\n\\fB{}\\fR", escaped(name))?;
    let shown = |arg: &&Arg| !arg.is_hide_set() && !is_for_every_command(arg);
    let options = command.get_arguments().filter(shown);
    let mut options: Vec<&Arg> = options.filter(|arg| !arg.is_positional()).collect();
    options.sort_by_key(|arg| !arg.is_required_set());
    for arg in options.into_iter().chain(command.get_positionals()) {
        writeln!(out, "{}", synopsis_of(arg))?;
    }
    if command.has_subcommands() {
        writeln!(out, "\\fICOMMAND\\fR ...")?;
    }
    Ok(())
}

fn is_for_every_command(arg: &Arg) -> bool {
    let is_help = matches!(
        arg.get_action(),
        ArgAction::Help | ArgAction::HelpShort | ArgAction::HelpLong | ArgAction::Version
    );
    is_help || arg.is_global_set()
}

/// One argument, in brackets if it can be left out, with its value. A line is not broken in it.
fn synopsis_of(arg: &Arg) -> String {
    let value = value_of(arg).map(|value| format!("\\fI{}\\fR", escaped(&value)));
    let option = match (arg.get_short(), arg.get_long()) {
        (_, Some(long)) => Some(format!("--{long}")),
        (Some(short), None) => Some(format!("-{short}")),
        (None, None) => None,
    };
    let option = option.map(|name| format!("\\fB{}\\fR", escaped(&name)));
    let parts: Vec<String> = option.into_iter().chain(value).collect();
    let text = parts.join("\\ ");
    let text = match arg.is_required_set() {
        true => text,
        false => format!("[{text}]"),
    };
    let several = arg
        .get_num_args()
        .is_some_and(|count| count.max_values() > 1)
        || matches!(arg.get_action(), ArgAction::Append | ArgAction::Count);
    match several {
        true => format!("{text}..."),
        false => text,
    }
}

fn value_of(arg: &Arg) -> Option<String> {
    if !arg.get_num_args()?.takes_values() {
        return None;
    }
    let possible = arg.get_possible_values();
    let shown: Vec<&str> = possible
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| value.get_name())
        .collect();
    if (1..=VALUES_SHOWN_MAX).contains(&shown.len()) {
        return Some(shown.join("|"));
    }
    let names = arg.get_value_names()?;
    Some(
        names
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" "),
    )
}

/// Sets what stands behind the options: a section for each heading.
fn set(blocks: &[Block], out: &mut dyn Write) -> io::Result<()> {
    let mut before: Option<&Block> = None;
    for block in blocks {
        match block {
            Block::Gap => {}
            Block::Heading(text) => writeln!(out, ".SH {}", escaped(&section(text)))?,
            Block::Paragraph(text) => writeln!(out, ".PP\n{}", escaped(text))?,
            Block::Meaning { term, meaning, .. } => {
                writeln!(out, ".TP\n\\fB{}\\fR\n{}", escaped(term), escaped(meaning))?;
            }
            Block::Command { line, below } if below.is_empty() => {
                // Commands that follow each other are lines of one paragraph.
                let is_next = before.is_some_and(is_alone);
                writeln!(out, "{}", if is_next { ".br" } else { ".PP" })?;
                writeln!(out, "\\fB{}\\fR", escaped(line))?;
            }
            Block::Command { line, below } => {
                let below: Vec<String> = below.iter().map(|line| escaped(line)).collect();
                let below = below.join("\n.br\n");
                writeln!(out, ".TP\n\\fB{}\\fR\n{below}", escaped(line))?;
            }
        }
        before = Some(block);
    }
    Ok(())
}

/// Tells if a block is a command without an explanation.
fn is_alone(block: &Block) -> bool {
    matches!(block, Block::Command { below, .. } if below.is_empty())
}

/// Name of a section, as other pages have it.
fn section(heading: &str) -> String {
    match heading.trim_end_matches(':') {
        "Example" => "EXAMPLES".to_owned(),
        "Exit codes" => "EXIT STATUS".to_owned(),
        other => other.to_uppercase(),
    }
}

/// Text that roff takes as text: no requests, no escapes, and hyphens that can be copied.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

#[cfg(test)]
#[path = "man_pages_test.rs"]
mod man_pages_test;
