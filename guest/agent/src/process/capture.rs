//! Captures of processes.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nvvmm_process::{CaptureOptions, Frozen, Image, freeze_and_capture};
use nvvmm_protocol::{AfterCapture, Capture, Captured, DATA_BYTES_MAX, FromAgent, send};

use super::answers::{count, failure, wait_until_done};
use super::exclusive::one_at_a_time;
use super::frames::HostPages;
use super::protected;
use crate::stream::{Failure, Stream};

/// Time to wait until killed processes are gone, so that they can be restarted at once. Their
/// parent may not have waited for them.
const GONE_LIMIT: Duration = Duration::from_secs(1);
const GONE_PAUSE: Duration = Duration::from_millis(1);

/// Captures what the host asks for. On a thread that does nothing else meanwhile: it traces the
/// processes.
pub fn run(request: &Capture, stream: &mut impl Stream) -> Result<(), Failure> {
    protected::refuse(request.pid)?;
    let _alone = one_at_a_time();
    let options = CaptureOptions {
        tree: request.tree,
        external_stdio: request.external_stdio,
        frees_numbers: request.afterwards == AfterCapture::Kill,
    };
    let checked = nvvmm_process::check(request.pid, options).map_err(|error| failure(&error))?;
    let mut pages = HostPages::new(stream);
    // The host arms them while the processes still run.
    let frames = checked.frames().map_err(|error| failure(&error))?;
    pages.announce(&frames)?;
    let captured = freeze_and_capture(request.pid, options, &mut pages);
    let (frozen, captured) = pages.outcome(captured)?;
    let report = Captured {
        processes: count(captured.image.processes.len()),
        threads: count(captured.image.threads()),
        frozen_us: frozen.elapsed().as_micros() as u64,
        pages_sent: pages.sent,
        rounds: captured.rounds,
    };
    let afterwards = match request.afterwards {
        AfterCapture::Thaw => {
            end(frozen, nvvmm_process::FreezeEnd::Thaw)?;
            send_image(&captured.image, stream)?;
            return Ok(send(stream, &FromAgent::Captured(report))?);
        }
        AfterCapture::Stop => nvvmm_process::FreezeEnd::Stop,
        AfterCapture::Kill => nvvmm_process::FreezeEnd::Kill,
    };
    send_image(&captured.image, stream)?;
    end(frozen, afterwards)?;
    if request.afterwards == AfterCapture::Kill {
        wait_until_gone(&captured.image);
    }
    Ok(send(stream, &FromAgent::Captured(report))?)
}

fn end(frozen: Frozen, afterwards: nvvmm_process::FreezeEnd) -> Result<(), Failure> {
    frozen.end(afterwards).map_err(|error| failure(&error))
}

/// Sends all but the pages, and waits until it is kept.
fn send_image(image: &Image, stream: &mut impl Stream) -> Result<(), Failure> {
    let encoded = image.encode().map_err(|error| failure(&error))?;
    let announced = FromAgent::Image {
        bytes: encoded.len() as u64,
        pages: image.pages,
    };
    send(&mut *stream, &announced)?;
    for part in encoded.chunks(DATA_BYTES_MAX) {
        send(&mut *stream, &FromAgent::Data(part.to_vec()))?;
    }
    send(&mut *stream, &FromAgent::End)?;
    wait_until_done(stream)
}

fn wait_until_gone(image: &Image) {
    let began = Instant::now();
    let ended = image.ended.iter().map(|child| child.pid);
    let pids = (image.processes.iter().map(|process| process.pid)).chain(ended);
    while pids
        .clone()
        .any(|pid| Path::new(&format!("/proc/{pid}")).exists())
    {
        if began.elapsed() > GONE_LIMIT {
            return;
        }
        thread::sleep(GONE_PAUSE);
    }
}

#[cfg(test)]
#[path = "capture_test.rs"]
mod capture_test;
