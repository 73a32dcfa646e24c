//! `nvvmm export`.

use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use nvvmm::inspect::core::{Core, Target};
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::SnapshotReader;

use super::args::ExportArguments;
use super::interruption::{Interruptible, set_on_signal, unless};
use super::json::snapshot::Exported;
use super::partial::{ConfinedPartial, check_free};
use super::progress::Progress;
use super::terminal::tell;
use super::{output, pool_path};

/// Bytes that are written to a pipe at once.
const BUFFER_BYTES: usize = 256 << 10;

/// `nvvmm export`.
pub fn run(arguments: &ExportArguments) -> Result<(), VmError> {
    let pool = pool_path::found(&arguments.pool)?;
    let path = arguments.core.as_path();
    let interrupted = Arc::new(AtomicBool::new(false));
    let out = Out::open(path, arguments.force, &interrupted)?;
    let core = look_through(pool_path::open_confined(&pool)?.reader(&arguments.snapshot)?)?;
    set_on_signal(&interrupted)?;
    let failed = |e: io::Error| VmError::io(format_args!("write {}", path.display()), &e);
    match out {
        Out::Stream(out) => {
            let out = Box::new(BufWriter::with_capacity(BUFFER_BYTES, out));
            write(&core, &mut Target::Stream(out), &interrupted)?;
        }
        Out::File(partial) => {
            let file = partial.file.try_clone().map_err(failed)?;
            write(&core, &mut Target::File(file), &interrupted)?;
            partial.become_whole().map_err(failed)?;
            report(&core, &arguments.snapshot, path, arguments.json.json)?;
        }
    }
    if core.is_cut_off() {
        tell(
            "nvvmm: the guest's page tables map more than a core can say: some of it is by \
             physical address alone\n",
        );
    }
    Ok(())
}

/// The place of the core, open.
enum Out {
    Stream(Interruptible),
    File(ConfinedPartial),
}

impl Out {
    fn open(path: &Path, force: bool, interrupted: &Arc<AtomicBool>) -> Result<Self, VmError> {
        let failed = |e: io::Error| VmError::io(format_args!("write {}", path.display()), &e);
        if path == Path::new("-") {
            output::check_stdout()?;
            let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
            let out = Interruptible::output(&File::from(stdout), interrupted);
            return out.map(Out::Stream).map_err(failed);
        }
        if path.exists() && !path.is_file() {
            let why = format!("{} is not a regular file", path.display());
            return Err(
                VmError::new(ErrorKind::Usage, why).with_remedy("write to stdout: --core -")
            );
        }
        check_free(path, force)?;
        ConfinedPartial::beside(path, force)
            .map(Out::File)
            .map_err(failed)
    }
}

/// A signal ends this as it ends any program: nothing was written yet.
fn look_through(reader: SnapshotReader) -> Result<Core, VmError> {
    let mut shown = Progress::of_bytes("look through")?;
    Ok(Core::of(reader, &mut |done| shown.show(done, None))?)
}

fn write(core: &Core, target: &mut Target, interrupted: &AtomicBool) -> Result<(), VmError> {
    let mut shown = Progress::of_bytes("export")?;
    let whole = core.write(target, &mut |done| {
        shown.show(done, Some(core.size_bytes()));
        unless(interrupted)
    })?;
    match whole {
        true => Ok(()),
        false => Err(VmError::failed("interrupted: there is no core")),
    }
}

fn report(core: &Core, snapshot: &str, path: &Path, json: bool) -> Result<(), VmError> {
    let exported = Exported {
        snapshot: snapshot.to_owned(),
        core: path.display().to_string(),
        size_bytes: core.size_bytes(),
        virtual_range_count: core.virtual_ranges() as u64,
        cut_off: core.is_cut_off(),
        linux: core.linux().map(str::to_owned),
    };
    if json {
        return output::print_json(&exported);
    }
    // The guest's words, on the user's terminal.
    let linux = exported
        .linux
        .map(|release| format!("; Linux {}", release.escape_debug()));
    output::print(&format!(
        "{}: {} by physical address, {} ranges of it by virtual address too{}\n",
        path.display(),
        output::size(exported.size_bytes),
        exported.virtual_range_count,
        linux.unwrap_or_default()
    ))
}
