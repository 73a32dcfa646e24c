//! Exit codes, and how an error looks. The codes are promised to scripts and stand in `nvvmm
//! --help`.

use std::io::{self, Write};

use nvvmm::{ErrorKind, VmError};

use super::message::{MessageKind, say};
use super::terminal::tell;

/// Exit code 1: failed, for a reason that has no code of its own.
pub const EXIT_FAILED: u8 = 1;
/// Exit code 2: the command makes no sense as given (the code that clap uses).
pub const EXIT_USAGE: u8 = 2;
/// Exit code 3: there is no such VM, snapshot, pool or file.
pub const EXIT_NOT_FOUND: u8 = 3;
/// Exit code 4: refused: name taken, busy, or not in this state.
pub const EXIT_REFUSED: u8 = 4;
/// Exit code 5: the pool or the medium behind it is full.
pub const EXIT_POOL_FULL: u8 = 5;
/// Exit code 6: the pool is damaged, is none, or `pool check` found something.
pub const EXIT_POOL_DAMAGED: u8 = 6;
/// Exit code 7: the host lacks something.
pub const EXIT_HOST_LACKS: u8 = 7;

/// The exit code for errors of `kind`.
pub fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Usage => EXIT_USAGE,
        ErrorKind::NotFound => EXIT_NOT_FOUND,
        ErrorKind::Refused => EXIT_REFUSED,
        ErrorKind::PoolFull => EXIT_POOL_FULL,
        ErrorKind::PoolDamaged => EXIT_POOL_DAMAGED,
        ErrorKind::HostLacks => EXIT_HOST_LACKS,
        // `Failed`, and kinds that a newer library may have.
        _ => EXIT_FAILED,
    }
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

/// Prints an error to stderr.
pub fn print(error: &VmError) {
    say(MessageKind::Error, &text(error));
}

/// Prints what clap says about arguments, with the prefix of all errors. Help and version go to
/// stdout as they are. Returns the exit code.
pub fn print_usage(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        return match error.print().and_then(|()| io::stdout().flush()) {
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
                print(&VmError::io("write to stdout", &e));
                EXIT_FAILED
            }
            _ => 0,
        };
    }
    let text = error.render().to_string();
    match text.strip_prefix("error: ") {
        Some(cause) => say(MessageKind::Error, cause),
        // No command was given: this is the help.
        None => tell(&text),
    }
    EXIT_USAGE
}

#[cfg(test)]
#[path = "error_test.rs"]
mod error_test;
