//! `nvvmm checkpoint` and `nvvmm rewind`.

use std::{
    thread,
    time::{Duration, Instant},
};

use nvvmm::{
    VmError,
    control::{ControlClient, RewindRequest, RingRequest, RuntimeDir},
    ring::{RewindReport, RingStatus},
};

use super::{
    args::{CheckpointArguments, ClockChoice, RewindArguments},
    json::ring::{Rewind, Ring},
    output, outside_disks, restore_notes,
    vm_commands::connect,
};

/// Interval at which `--watch` prints a line.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// `nvvmm checkpoint`.
pub fn checkpoint(arguments: CheckpointArguments) -> Result<(), VmError> {
    let CheckpointArguments {
        vm,
        every,
        keep,
        replace,
        durability,
        stop,
        watch,
        json,
    } = arguments;
    let mut client = connect(&RuntimeDir::of_user()?.find(&vm)?)?;
    let status = if stop {
        client.stop_ring()?
    } else {
        client.start_ring(RingRequest {
            every_us: every.as_micros() as u64,
            keep,
            replace,
            durability,
        })?
    };
    if !stop {
        outside_disks::tell_of_running(&client.status()?);
    }
    match (json.json, watch) {
        (true, true) => output::print_json_line(&Ring::of(&vm, &status))?,
        (true, false) => output::print_json(&Ring::of(&vm, &status))?,
        (false, _) => output::print(&match stop {
            true => ended_text(&vm, &status),
            false => begun_text(&vm, &status),
        })?,
    }
    match watch {
        true => watch_ring(&vm, &mut client, status, json.json),
        false => Ok(()),
    }
}

/// Prints what the ring does until it ends.
fn watch_ring(
    vm: &str,
    client: &mut ControlClient,
    mut before: RingStatus,
    json: bool,
) -> Result<(), VmError> {
    let mut asked = Instant::now();
    loop {
        thread::sleep(WATCH_EVERY);
        let Some(now) = client.status()?.ring else {
            return Ok(());
        };
        let rate = now.taken.saturating_sub(before.taken) as f64 / asked.elapsed().as_secs_f64();
        asked = Instant::now();
        let line = match (json, now.running) {
            (true, _) => output::json_line(&Ring::of(vm, &now))?,
            (false, false) => ended_text(vm, &now),
            (false, true) => format!("{rate:.1} checkpoints a second; {}\n", counts(&now)),
        };
        let reader = output::print_on(&line)?;
        if !now.running {
            return now.failure.map_or(Ok(()), Err);
        }
        // Nobody reads what would be printed from now on.
        if reader.is_break() {
            return Ok(());
        }
        before = now;
    }
}

/// `nvvmm rewind`.
pub fn rewind(arguments: RewindArguments) -> Result<(), VmError> {
    let RewindArguments {
        vm,
        checkpoints,
        to,
        stale_disks,
        clock,
        keep_connections,
        json,
    } = arguments;
    let keep_clock = clock == ClockChoice::Keep;
    let request = match to {
        Some(name) => RewindRequest::To {
            name,
            stale_disks,
            keep_clock,
            keep_connections,
        },
        None => RewindRequest::Back {
            checkpoints,
            stale_disks,
            keep_clock,
            keep_connections,
        },
    };
    let mut client = connect(&RuntimeDir::of_user()?.find(&vm)?)?;
    let report = client.rewind(request)?;
    if keep_connections {
        let status = client.status()?;
        restore_notes::tell_of_connections(&restore_notes::wait_for_agent(&mut client, status)?);
    }
    if json.json {
        return output::print_json(&Rewind::of(&report));
    }
    output::print(&rewind_text(&report))
}

fn rhythm(status: &RingStatus) -> String {
    match status.every_us {
        0 => "continuously".to_owned(),
        us => format!(
            "every {}",
            humantime::format_duration(Duration::from_micros(us))
        ),
    }
}

fn begun_text(vm: &str, status: &RingStatus) -> String {
    let kept = match status.keep {
        1 => "the newest is kept".to_owned(),
        keep => format!("the newest {keep} are kept"),
    };
    format!(
        "{vm} is checkpointed {}, {kept}\n  go back:  nvvmm rewind {vm} -n 1\n  end:      nvvmm \
         checkpoint {vm} --stop\n",
        rhythm(status)
    )
}

fn ended_text(vm: &str, status: &RingStatus) -> String {
    let line = format!("the ring of {vm} has ended; {}", counts(status));
    output::report(&line, &output::phases(&status.phases_mean))
}

/// Line of `nvvmm ps` about a VM's ring; none about one that was ended.
pub fn ps_line(vm: &str, status: &RingStatus) -> String {
    match &status.failure {
        Some(failure) => format!("{vm}: the ring of checkpoints has ended: {failure}\n"),
        None if !status.running => String::new(),
        None => format!(
            "{vm}: checkpointed {}; {}\n",
            rhythm(status),
            counts(status)
        ),
    }
}

fn counts(status: &RingStatus) -> String {
    let mut text = format!("{} taken", status.taken);
    if status.missed > 0 {
        text.push_str(&format!(" ({} missed)", status.missed));
    }
    if let Some(newest) = &status.newest {
        text.push_str(&format!(", {} kept, the newest is {newest}", status.kept));
    }
    if status.taken > 0 {
        let (mean, max) = (status.pause_us_mean, status.pause_us_max);
        text.push_str(&format!(
            "; paused for {} (at most {})",
            output::time_us(mean),
            output::time_us(max)
        ));
    }
    text
}

fn rewind_text(report: &RewindReport) -> String {
    let paused = if report.paused { ", and is paused" } else { "" };
    format!(
        "{} is at {} again{paused}: stopped for {}, {} in all\n",
        report.vm,
        report.snapshot,
        output::time_us(report.stopped_us),
        output::time_us(report.total_us)
    )
}

#[cfg(test)]
#[path = "ring_commands_test.rs"]
mod ring_commands_test;
