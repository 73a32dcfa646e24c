//! `nvvmm push` and `nvvmm pull`.

use std::path::Path;

use nvvmm::VmError;
use nvvmm_remote::{PullOptions, PullReport, PushOptions, PushReport, Store, StoreUrl, Use};
use nvvmm_snapshot::MoveProgress;

use super::args::{PullArguments, PushArguments};
use super::confine::{self, Reach};
use super::interruption::{ends_on_signal, unless};
use super::json::remote::{Pulled, Pushed};
use super::progress::Progress;
use super::remote_error::told;
use super::{fetch, message, output, pool_path, stream_key};

/// `nvvmm push`.
pub fn push(arguments: &PushArguments) -> Result<(), VmError> {
    let key = key_in(arguments.key.as_deref())?;
    let path = pool_path::found(&arguments.pool)?;
    let interrupted = ends_on_signal()?;
    let mut shown = Progress::of_bytes("push")?;
    arguments.url.make_directory().map_err(told)?;
    confine::to_store(&reach(&arguments.url, true), Some(&path))?;
    let pool = pool_path::open(&path)?;
    // Before a store is made for a snapshot that is not there.
    pool.find(&arguments.snapshot)?;
    let mut store = Store::open(&arguments.url, key.as_ref(), Use::Made).map_err(told)?;
    store.end_on(&interrupted);
    if !store.is_encrypted() {
        message::note(&format!(
            "the store {} is not encrypted: whoever can read it has the memory of its guests",
            arguments.url
        ));
    }
    let options = PushOptions {
        level: arguments.level,
    };
    let mut on_progress = |now: MoveProgress| {
        shown.show(now.bytes_done, Some(now.bytes_total));
        unless(&interrupted)
    };
    let report = store.push(&pool, &arguments.snapshot, &options, &mut on_progress);
    let report = report.map_err(told)?;
    drop(shown);
    match arguments.json.json {
        true => output::print_json(&Pushed::of(&report, store.is_encrypted())),
        false => output::print(&pushed_text(&report)),
    }
}

/// `nvvmm pull`.
pub fn pull(arguments: &PullArguments) -> Result<(), VmError> {
    if let Some(vm) = &arguments.for_vm {
        return fetch::run(arguments, vm);
    }
    let (url, name) = &arguments.from;
    let key = key_in(arguments.key.as_deref())?;
    let path = pool_path::found_or_made(&arguments.pool)?;
    let interrupted = ends_on_signal()?;
    let mut shown = Progress::of_bytes("pull")?;
    confine::to_store(&reach(url, false), Some(&path))?;
    let pool = pool_path::open(&path)?;
    let mut store = Store::open(url, key.as_ref(), Use::Existing).map_err(told)?;
    store.end_on(&interrupted);
    let options = PullOptions {
        name: arguments.name.as_deref(),
        onto: None,
        like: arguments.like.as_deref(),
        limit_bytes: arguments.limit,
        beside: None,
    };
    let mut on_progress = |now: MoveProgress| {
        shown.show(now.bytes_done, Some(now.bytes_total));
        unless(&interrupted)
    };
    let report = store.pull(&pool, name, &options, &mut on_progress);
    let report = report.map_err(told)?;
    drop(shown);
    tell_pulled(&report, arguments.json.json)
}

/// Prints the report of a pull.
pub(super) fn tell_pulled(report: &PullReport, json: bool) -> Result<(), VmError> {
    match json {
        true => output::print_json(&Pulled::of(report)),
        false => output::print(&pulled_text(report)),
    }
}

/// The key of a store, if there is one.
pub(super) fn key_in(
    path: Option<&Path>,
) -> Result<Option<nvvmm_snapshot::stream::sealed::Key>, VmError> {
    path.map(stream_key::read).transpose()
}

/// The things that a command needs of the store's place.
pub(super) fn reach(url: &StoreUrl, writes: bool) -> Reach {
    match url.directory() {
        Some(path) => Reach::Directory {
            path: path.to_owned(),
            writes,
            makes: None,
        },
        None => Reach::Network,
    }
}

fn pushed_text(report: &PushReport) -> String {
    if report.was_there {
        return format!("{} is in the store already\n", report.name);
    }
    format!(
        "pushed {}: {} of its memory, {} of them new to the store; {} were sent\n",
        report.name,
        output::size(report.content_bytes),
        output::size(report.new_content_bytes),
        output::size(report.traffic.sent_bytes)
    )
}

fn pulled_text(report: &PullReport) -> String {
    let received = &report.received;
    let size = |frames| output::frames_size(frames);
    let found = match (received.frames_found, received.resumed) {
        (0, _) => String::new(),
        (found, true) => format!(", {} had been pulled before", size(found)),
        (found, false) => format!(", {} were in the pool already", size(found)),
    };
    format!(
        "pulled {}: {} of its memory, {} stored{found}; {} were fetched\n",
        received.name,
        size(received.frames_received),
        size(received.frames_stored),
        output::size(report.traffic.received_bytes)
    )
}

#[cfg(test)]
#[path = "push_command_test.rs"]
mod push_command_test;
