//! `nvvmm receive`.

use std::fs::File;
use std::io::{BufReader, IsTerminal, stdin};
use std::os::fd::AsFd;
use std::path::Path;

use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::stream::sealed::Opening;
use nvvmm_snapshot::{MoveProgress, ReceiveOptions, ReceiveReport};

use super::args::ReceiveArguments;
use super::interruption::{Interruptible, ends_on_signal, unless};
use super::json::moving::Received;
use super::progress::Progress;
use super::{output, pool_path, stream_key};

/// Bytes that are read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// `nvvmm receive`.
pub fn run(arguments: &ReceiveArguments) -> Result<(), VmError> {
    let key = arguments
        .decrypt
        .as_deref()
        .map(stream_key::read)
        .transpose()?;
    let input = open(&arguments.input)?;
    let path = pool_path::found_or_made(&arguments.pool)?;
    let interrupted = ends_on_signal()?;
    let input = Interruptible::input(input, &interrupted);
    let mut input = BufReader::with_capacity(BUFFER_BYTES, input);
    let mut shown = Progress::of_bytes("receive")?;
    let pool = pool_path::open_confined(&path)?;
    let mut on_progress = |now: MoveProgress| {
        shown.show(now.bytes_done, Some(now.bytes_total));
        unless(&interrupted)
    };
    let options = ReceiveOptions {
        name: arguments.name.as_deref(),
        onto: arguments.onto.as_deref(),
        like: None,
        limit_bytes: arguments.limit,
        beside: None,
    };
    let report = match key {
        None => pool.receive(&options, &mut input, &mut on_progress)?,
        Some(key) => {
            let mut opening = Opening::begin(input, &key)?;
            let mut report = pool.receive(&options, &mut opening, &mut on_progress)?;
            report.bytes_stream = opening.bytes_read();
            report
        }
    };
    drop(shown);
    if arguments.json.json {
        output::print_json(&Received::of(&report))
    } else {
        output::print(&text(&report))
    }
}

fn open(path: &Path) -> Result<File, VmError> {
    if path != Path::new("-") {
        return File::open(path)
            .map_err(|e| VmError::io(format_args!("open the stream {}", path.display()), &e));
    }
    if stdin().is_terminal() {
        let why = "no stream comes from a terminal";
        return Err(VmError::new(ErrorKind::Usage, why)
            .with_remedy("pipe 'nvvmm send' to it, or name the file that it wrote"));
    }
    let input = stdin().as_fd().try_clone_to_owned();
    input
        .map(File::from)
        .map_err(|e| VmError::io("read standard input", &e))
}

fn text(report: &ReceiveReport) -> String {
    let size = |frames| output::frames_size(frames);
    let since = report.since.as_ref().map_or_else(String::new, |since| {
        format!(", {} shared with {since}", size(report.frames_shared))
    });
    let found = match (report.frames_found, report.resumed) {
        (0, _) => String::new(),
        (found, true) => format!(", {} had been received before", size(found)),
        (found, false) => format!(", {} were in the pool already", size(found)),
    };
    format!(
        "received {}: {} of its memory, {} stored{found}{since}; the stream had {}\n",
        report.name,
        size(report.frames_received),
        size(report.frames_stored),
        output::size(report.bytes_stream)
    )
}

#[cfg(test)]
#[path = "receive_command_test.rs"]
mod receive_command_test;
