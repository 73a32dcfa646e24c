//! `nvvmm send`.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, IsTerminal, Write, stdout};
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nvvmm::checkpoint::blob::SavedVm;
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::stream::sealed::Sealing;
use nvvmm_snapshot::{MoveProgress, Pool, SendOptions, SendReport, SnapshotKind};

use super::args::SendArguments;
use super::interruption::{Interruptible, ends_on_signal, unless};
use super::json::moving::Sent;
use super::partial::{Partial, check_free};
use super::progress::Progress;
use super::terminal::tell;
use super::{output, pool_path, stream_key};

/// Bytes that are written at once.
const BUFFER_BYTES: usize = 256 << 10;

/// `nvvmm send`.
pub fn run(arguments: &SendArguments) -> Result<(), VmError> {
    let key = arguments
        .encrypt
        .as_deref()
        .map(stream_key::read)
        .transpose()?;
    let pool = pool_path::open(&pool_path::found(&arguments.pool)?)?;
    let options = SendOptions {
        since: arguments.since.as_deref(),
        lineage: arguments.with_lineage,
        level: arguments.level,
        spec: spec_of(&pool, &arguments.snapshot)?,
    };
    let interrupted = ends_on_signal()?;
    let mut target = Target::open(&arguments.output, arguments.force)?;
    // Where the report is JSON nothing else is beside it.
    let shown = (!arguments.json.json).then(|| Progress::of_bytes("send"));
    let mut shown = shown.transpose()?;
    let mut on_progress = |now: MoveProgress| {
        if let Some(shown) = &mut shown {
            shown.show(now.bytes_done, Some(now.bytes_total));
        }
        unless(&interrupted)
    };
    let out = Interruptible::output(&target.file, &interrupted)
        .map_err(|e| VmError::io(format_args!("write to {}", arguments.output.display()), &e))?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, out);
    let mut report = match key {
        None => pool.send(&arguments.snapshot, &options, &mut out, &mut on_progress)?,
        Some(key) => {
            let mut sealing = Sealing::begin(&mut out, &key)?;
            let mut report = pool.send(
                &arguments.snapshot,
                &options,
                &mut sealing,
                &mut on_progress,
            )?;
            report.bytes_stream = sealing.finish()?;
            report
        }
    };
    report.name.clone_from(&arguments.snapshot);
    out.flush()
        .map_err(|e| VmError::io("write the stream", &e))?;
    drop(out);
    drop(shown);
    let to_stdout = target.is_stdout();
    target.done()?;
    print(&report, arguments.json.json, to_stdout)
}

/// Spec of the VM, for people who read the stream.
fn spec_of(pool: &Arc<Pool>, name: &str) -> Result<String, VmError> {
    let entry = pool.find(name)?;
    if entry.incomplete || entry.kind != SnapshotKind::Vm {
        return Ok(String::new());
    }
    // A state that this program does not understand can be sent nevertheless.
    let saved = SavedVm::decode(&pool.read_state(entry.id)?);
    Ok(saved.map_or_else(
        |_| String::new(),
        |saved| serde_json::to_string(&saved.spec).unwrap_or_default(),
    ))
}

/// Target of a stream.
struct Target {
    file: File,
    /// A file that does not get its name unless the stream is whole.
    partial: Option<Partial>,
    path: PathBuf,
    force: bool,
}

impl Target {
    fn open(path: &Path, force: bool) -> Result<Self, VmError> {
        let failed =
            |e: &std::io::Error| VmError::io(format_args!("write to {}", path.display()), e);
        let (file, partial) = if path == Path::new("-") {
            if stdout().is_terminal() {
                let why = "the stream is binary data, and standard output is a terminal";
                return Err(VmError::new(ErrorKind::Usage, why).with_remedy(
                    "pipe it to 'nvvmm receive', or write it to a file with --output FILE",
                ));
            }
            output::check_stdout()?;
            let file = stdout()
                .as_fd()
                .try_clone_to_owned()
                .map_err(|e| failed(&e))?;
            (File::from(file), None)
        } else {
            match std::fs::metadata(path) {
                Ok(found) if found.file_type().is_fifo() || found.file_type().is_char_device() => {
                    let file = OpenOptions::new().write(true).open(path);
                    (file.map_err(|e| failed(&e))?, None)
                }
                _ => {
                    check_free(path, force)?;
                    // Guest memory is for its owner alone.
                    let partial = Partial::beside(path).map_err(|e| failed(&e))?;
                    let file = partial.file.try_clone().map_err(|e| failed(&e))?;
                    (file, Some(partial))
                }
            }
        };
        Ok(Self {
            file,
            partial,
            path: path.to_owned(),
            force,
        })
    }

    fn is_stdout(&self) -> bool {
        self.path == Path::new("-")
    }

    /// The stream is whole: its file stays, also when the power fails now.
    fn done(&mut self) -> Result<(), VmError> {
        let Some(partial) = self.partial.take() else {
            return Ok(());
        };
        self.file
            .sync_all()
            .and_then(|()| partial.become_whole(&self.path, self.force))
            .map_err(|e| VmError::io(format_args!("write to {}", self.path.display()), &e))
    }
}

fn print(report: &SendReport, json: bool, to_stdout: bool) -> Result<(), VmError> {
    let text = if json {
        output::json_text(&Sent::of(report))?
    } else {
        text(report)
    };
    if to_stdout {
        tell(&text);
        Ok(())
    } else {
        output::print(&text)
    }
}

fn text(report: &SendReport) -> String {
    let size = |frames| output::frames_size(frames);
    let since = report.since.as_ref().map_or_else(String::new, |since| {
        format!(", {} as in {since}", size(report.frames_shared))
    });
    format!(
        "sent {}: {} of its memory{since}, {} of zeros left out; the stream has {}\n",
        report.name,
        size(report.frames_sent),
        size(report.frames_zero),
        output::size(report.bytes_stream)
    )
}

#[cfg(test)]
#[path = "send_command_test.rs"]
mod send_command_test;
