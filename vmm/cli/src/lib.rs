//! The `nvvmm` command line: arguments in, library calls and control requests out, text or JSON
//! back.
//!
//! [`args`] says what can be asked; `launch` starts VM processes; `vm_commands`,
//! `snapshot_commands` and `pool_commands` do the rest; [`error`] has the exit codes.

mod adopt_command;
pub mod args;
mod arrival_progress;
mod attended;
mod bench;
mod bench_command;
mod completion;
mod confine;
mod console;
mod copies;
mod core_dump;
mod cp;
mod cp_tree;
mod detach;
mod diff_command;
mod disk;
mod disk_choice;
mod disk_command;
mod doctor;
mod documents;
mod error;
mod exec;
mod export_command;
mod fetch;
mod file_size;
mod freed_memory;
#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod fuzzing;
mod given_path;
mod help;
mod human_units;
mod inspect_command;
mod interruption;
mod json;
mod keys;
mod launch;
mod lazy_restore;
mod log;
mod man_pages;
mod memory_command;
mod message;
mod migrate;
mod mount;
mod mount_command;
mod names;
mod net_values;
mod output;
mod outside_disks;
mod partial;
mod past_commands;
mod pool_commands;
mod pool_map;
mod pool_path;
mod port_command;
mod privileges;
mod process_commands;
mod progress;
mod ps_table;
mod push_command;
mod receive_command;
mod remote_commands;
mod remote_error;
mod replicate;
mod restore_notes;
mod ring_commands;
mod sandbox;
mod scrub_command;
mod send_command;
mod shutdown_command;
mod snapshot_commands;
mod snapshot_hooks;
mod snapshot_tree;
mod spare_command;
mod spares;
mod start_checks;
mod start_command;
mod start_warnings;
mod stats_command;
mod stream_key;
mod sys;
mod terminal;
#[cfg(debug_assertions)]
mod test_command;
mod values;
mod vm_commands;
mod vm_process;
mod whole_file;
mod whole_number;

use std::process::ExitCode;
use std::time::Instant;

use nvvmm::VmError;
use nvvmm::sys::limits;
use nvvmm_snapshot::TimeText;

use self::args::{Command, PoolCommand};

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    limits::ignore_file_size_signal();
    message::look_at_terminal();
    #[cfg(debug_assertions)]
    if let Some(code) = test_command::run_if_asked(std::env::args_os().skip(1)) {
        return code;
    }
    if let Some(code) = completion::answer_if_asked() {
        return code;
    }
    let arguments = match help::arguments() {
        Ok(arguments) => arguments,
        Err(ended) => return output::print_usage(&ended),
    };
    let runs_vm = matches!(
        arguments.command,
        Command::Run(_) | Command::Restore(_) | Command::Start(_) | Command::Spare(_)
    );
    if runs_vm {
        sys::keep_one_heap();
    }
    // Before anything is opened. A VM process needs nothing else of its caller's.
    let closed = match runs_vm {
        true => detach::close_inherited(),
        false => Ok(()),
    };
    let began = Instant::now();
    output::set_verbose(arguments.verbose > 0);
    let done = closed
        .and_then(|()| log::start(arguments.verbose, runs_vm))
        .and_then(|()| {
            core_dump::leave_memory_out();
            carry_out(arguments.command)
        });
    match done {
        Ok(code) => {
            tracing::info!("done after {}", TimeText(began.elapsed()));
            code
        }
        Err(error) => {
            tracing::info!("failed after {}", TimeText(began.elapsed()));
            error::print(&error);
            interruption::end_by_signal();
            error::exit_code(error.kind).into()
        }
    }
}

fn carry_out(command: Command) -> Result<ExitCode, VmError> {
    match command {
        Command::Run(run) => return launch::run(run, &launch::Given::to_this_process()),
        Command::Restore(restore) => {
            return launch::restore(restore, &launch::Given::to_this_process());
        }
        Command::Spare(spare) => {
            return spare_command::run(spare, &launch::Given::to_this_process());
        }
        Command::Start(start) => return start_command::run(&start),
        Command::Ps(ps) => vm_commands::ps(ps)?,
        Command::Logs(logs) => past_commands::logs(&logs)?,
        Command::Wait(wait) => return past_commands::wait(&wait),
        Command::RmVm(remove) => return past_commands::remove(&remove),
        Command::Stats(stats) => stats_command::stats(&stats)?,
        Command::Port(port) => port_command::run(&port)?,
        Command::Memory(memory) => memory_command::run(&memory)?,
        Command::Pause(pause) => return vm_commands::pause(&pause),
        Command::Resume(resume) => return vm_commands::resume(&resume),
        Command::Stop(stop) => return vm_commands::stop(&stop),
        Command::Kill(kill) => return vm_commands::kill(&kill),
        Command::Shutdown(shutdown) => return shutdown_command::run(&shutdown),
        Command::Console { vm } => console::attach(&vm)?,
        Command::Exec(arguments) => return Ok(exec::run(arguments)),
        Command::Cp(cp) => cp::run(&cp)?,
        Command::Snapshot(snapshot) => vm_commands::snapshot(snapshot)?,
        Command::Checkpoint(checkpoint) => ring_commands::checkpoint(checkpoint)?,
        Command::Rewind(rewind) => ring_commands::rewind(rewind)?,
        Command::Snapshots { quiet, pool, json } => {
            snapshot_commands::list(&pool, quiet, json.json)?;
        }
        Command::Inspect {
            snapshot,
            pool,
            json,
        } => {
            inspect_command::run(snapshot.as_deref(), &pool, json.json)?;
        }
        Command::Diff {
            from,
            to,
            pool,
            json,
        } => diff_command::run([&from, &to], &pool, json.json)?,
        Command::Send(send) => send_command::run(&send)?,
        Command::Receive(receive) => receive_command::run(&receive)?,
        Command::Migrate(migrate) => migrate::run(&migrate)?,
        Command::Arrive(arrive) => return migrate::arrive(&arrive),
        Command::Push(push) => push_command::push(&push)?,
        Command::Pull(pull) => push_command::pull(&pull)?,
        Command::Replicate(replicate) => replicate::run(&replicate)?,
        Command::Remote(remote) => return remote_commands::run(remote),
        Command::Adopt(arguments) => adopt_command::run(&arguments)?,
        Command::Export(arguments) => export_command::run(&arguments)?,
        Command::Doctor { pool, json } => return doctor::run(&pool, json.json),
        Command::Completions { shell } => documents::completions(shell)?,
        Command::Man { dir, force } => documents::man(&dir, force)?,
        Command::Rm(rm) => return snapshot_commands::remove(&rm),
        Command::Bench(bench) => bench_command::run(bench)?,
        Command::Disk(disk) => return disk_command::run(disk),
        Command::Pool(pool) => return carry_out_on_pool(pool),
    }
    Ok(ExitCode::SUCCESS)
}

fn carry_out_on_pool(command: PoolCommand) -> Result<ExitCode, VmError> {
    match command {
        PoolCommand::Create {
            path,
            size,
            overcommit,
        } => {
            pool_commands::create(&path, size, overcommit)?;
        }
        PoolCommand::Grow {
            pool,
            size,
            overcommit,
            json,
        } => pool_commands::grow(&pool.option(), size, overcommit, json.json)?,
        PoolCommand::Delete { path } => pool_commands::delete(&path)?,
        PoolCommand::Upgrade { pool } => pool_commands::upgrade(&pool.option())?,
        PoolCommand::Status { pool, json } => pool_commands::status(&pool.option(), json.json)?,
        PoolCommand::Map {
            pool,
            svg,
            force,
            json,
        } => pool_map::run(&pool.option(), svg.as_deref(), force, json.json)?,
        PoolCommand::Mount { dir, pool } => mount_command::run(&dir, &pool)?,
        PoolCommand::Scrub { pool, json } => {
            return scrub_command::scrub(&pool.option(), json.json);
        }
        PoolCommand::Check { pool, json } => {
            return pool_commands::check(&pool.option(), json.json);
        }
    }
    Ok(ExitCode::SUCCESS)
}
