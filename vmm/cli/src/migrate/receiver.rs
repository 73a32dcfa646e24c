//! `nvvmm arrive --receiver`: receives the snapshots of a migration, one after the other.
//!
//! It parses what comes from the other host, so it is confined to the pool. It remembers the
//! digests of chunks ([`nvvmm_snapshot::Pool::receive`]), and of a difference reads only what
//! differs.

use std::io::{self, BufReader, Write, stdin, stdout};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use nvvmm::VmError;
use nvvmm_snapshot::ReceiveOptions;

use super::message::{
    DATA_BYTES_MAX, DataReader, Frame, FromSource, FromTarget, message, out_of_turn, say,
};
use super::names::Names;
use crate::args::ArriveArguments;
use crate::pool_path;

/// Receives until its input ends. Errors are answers.
pub(super) fn run(arguments: &ArriveArguments) -> Result<ExitCode, VmError> {
    let path = pool_path::found_or_made(&arguments.pool)?;
    let mut output = stdout();
    match receive_all(&path, &mut output) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            let code = error.kind.exit_code();
            say(&mut output, &FromTarget::Failed { error }).map_err(|e| broken(&e))?;
            Ok(code.into())
        }
    }
}

fn receive_all(path: &Path, output: &mut impl Write) -> Result<(), VmError> {
    let mut input = BufReader::with_capacity(DATA_BYTES_MAX, stdin());
    let pool = pool_path::open_confined(path)?;
    let mut names = None;
    while let Some(frame) = Frame::read(&mut input).map_err(|e| broken(&e))? {
        match (message(&frame).map_err(|e| broken(&e))?, &names) {
            (FromSource::Hello { vm, id, .. }, None) => names = Some(Names::new(&vm, &id)?),
            (FromSource::Receive { snapshot }, Some(names)) => {
                let mut data = DataReader::begin(&mut input);
                let options = ReceiveOptions {
                    name: Some(&snapshot),
                    ..ReceiveOptions::default()
                };
                let received =
                    pool.receive(&options, &mut data, &mut |_| ControlFlow::Continue(()));
                data.end().map_err(|e| broken(&e))?;
                received?;
                names.remove_snapshots(&pool, Some(&snapshot))?;
                say(output, &FromTarget::Received).map_err(|e| broken(&e))?;
            }
            _ => return Err(out_of_turn()),
        }
    }
    Ok(())
}

fn broken(error: &io::Error) -> VmError {
    VmError::io("speak to the process that started this one", error)
}
