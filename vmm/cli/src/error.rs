//! Exit codes, and how an error looks. The codes are promised to scripts and stand in `nvvmm
//! --help`.

use nvvmm::{ErrorKind, VmError};

use super::message::{MessageKind, say};
use super::terminal::tell;

/// Exit code of a command that failed for a reason that has no code of its own.
pub const EXIT_FAILED: u8 = ErrorKind::Failed.exit_code();
/// Exit code of a wrong usage.
pub const EXIT_USAGE: u8 = ErrorKind::Usage.exit_code();
/// Exit code of a check or a scrub that found something.
pub const EXIT_POOL_DAMAGED: u8 = ErrorKind::PoolDamaged.exit_code();
/// Exit code of a doctor who finds something missing.
pub const EXIT_HOST_LACKS: u8 = ErrorKind::HostLacks.exit_code();

/// Exit code of a process that signal 0 would end.
pub const SIGNALLED: i32 = 128;

/// All exit codes and their meanings: `nvvmm --help`, the man page and
/// docs/using/operations.md have this table.
pub const EXIT_CODES: [(&str, &str); 10] = [
    ("0", "the command succeeded"),
    (
        "1",
        "the command failed, for a reason that is not in this list",
    ),
    (
        "2",
        "wrong usage: an option, a value or a file that was given is not valid",
    ),
    ("3", "there is no such VM, snapshot, pool or file"),
    (
        "4",
        "refused: the name is taken, something is busy, or the state or kind does not allow it",
    ),
    ("5", "the pool is full, or the medium that it is on"),
    (
        "6",
        "the pool is damaged, the file is not a pool, or 'pool check', 'pool scrub' or 'remote \
         verify' found an error",
    ),
    (
        "7",
        "the host lacks something: /dev/kvm, permission for userfaultfd, a newer kernel, or CPU \
         features that the snapshot needs",
    ),
    (
        "8",
        "permission denied: this user may not use the pool, the file, the directory or the process",
    ),
    (
        "128+N",
        "signal N ended the command: 130 is Ctrl-C (SIGINT), 143 is SIGTERM",
    ),
];

/// Columns of the table in the help.
const HELP_COLUMNS: usize = 78;

/// The table of exit codes for the help, its lines filled.
pub fn exit_codes_help() -> String {
    let mut text = String::from("Exit codes:\n");
    for (code, meaning) in EXIT_CODES {
        let mut line = format!("  {code:<6}");
        for word in meaning.split(' ') {
            if line.chars().count() + 1 + word.chars().count() > HELP_COLUMNS {
                text.push_str(&line);
                text.push('\n');
                line = " ".repeat(8);
            }
            line.push(' ');
            line.push_str(word);
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

/// The exit code for errors of `kind`.
pub fn exit_code(kind: ErrorKind) -> u8 {
    kind.exit_code()
}

/// The text of an error without its prefix: its cause on one line and its remedy on the next.
/// Further lines of either are set in, so that none of them looks like a line of this program.
pub fn text(error: &VmError) -> String {
    let set_in = |text: &str| text.trim_end().replace('\n', "\n      ");
    let message = set_in(&error.message);
    match &error.remedy {
        Some(remedy) => format!("{message}\n  try: {}\n", set_in(remedy)),
        None => format!("{message}\n"),
    }
}

/// Prints a warning to stderr, in the form of an error.
pub fn warn(warning: &VmError) {
    say(MessageKind::Warning, &text(warning));
}

/// Prints an error to stderr.
pub fn print(error: &VmError) {
    say(MessageKind::Error, &text(error));
}

/// Prints what the parser of arguments says to stderr, an error with the prefix of all errors.
pub fn print_usage(error: &clap::Error) {
    let text = error.render().to_string();
    match text.strip_prefix("error: ") {
        Some(cause) => say(MessageKind::Error, cause),
        // No command was given: this is the help.
        None => tell(&text),
    }
}

#[cfg(test)]
#[path = "error_test.rs"]
mod error_test;
