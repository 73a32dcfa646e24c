//! Restarts of captured processes.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use nvvmm_process::{Image, RestartOptions, WindowPages};
use nvvmm_protocol::{FromAgent, Restart, Restarted, ToAgent, receive, send};

use super::answers::{count, failure, refused};
use super::exclusive::one_at_a_time;
use super::frames::HostPages;
use super::reserve;
use super::window::Window;
use crate::attached::{self, Stdio};
use crate::stream::{Failure, Stream};
use crate::sys;

/// Restarts what the host sends.
pub fn run(request: &Restart, stream: &mut impl Stream) -> Result<(), Failure> {
    let image = take_image(request.bytes, stream)?;
    let failed = |error: io::Error| Failure::io("cannot make standard streams", &error);
    let (theirs, ours) = if request.attach {
        let Stdio { theirs, ours } = Stdio::new(request.terminal).map_err(failed)?;
        (theirs, Some(ours))
    } else {
        (nothing().map_err(failed)?, None)
    };
    let another = stream.another().map_err(failed)?;
    let is_attached = request.attach;
    let mut window = request.window.map(Window::open).transpose()?;
    let (said, heard) = mpsc::channel();
    // This thread makes the processes, which are its children. It lives as long as the first of
    // them, because the kernel takes the end of the thread that made a process for the end of its
    // parent (PR_SET_PDEATHSIG).
    thread::spawn(move || {
        let outcome = restart(&image, theirs, window.as_ref(), another);
        // Before the host learns of it: then the window is not in use any more.
        window = match window.take() {
            Some(window) if outcome.is_ok() => window.release_unless_used(),
            Some(window) => {
                window.release();
                None
            }
            None => None,
        };
        let pid = outcome.as_ref().ok().map(|restarted| restarted.pid as u32);
        let _ = said.send(outcome);
        if let Some(pid) = pid {
            sys::wait_for_exit(pid);
            if !is_attached {
                let _ = sys::reap(pid);
            }
        }
        if let Some(window) = window {
            window.release();
        }
    });
    let restarted = heard.recv().map_err(|_| Failure::Broken)??;
    let told = send(&mut *stream, &FromAgent::Restarted(restarted));
    match ours {
        // If the stream broke, this notices it and hangs up.
        Some(ours) => attached::carry(restarted.pid as u32, ours, stream),
        None => Ok(told?),
    }
}

fn restart(
    image: &Image,
    stdio: [OwnedFd; 3],
    window: Option<&Window>,
    mut stream: impl Stream,
) -> Result<Restarted, Failure> {
    let _alone = one_at_a_time();
    let began = Instant::now();
    let options = RestartOptions {
        stdio: stdio.each_ref().map(|end| Some(end.as_fd())),
    };
    let (done, pages) = match window {
        Some(window) => {
            let mut pages = WindowPages::new(window.pages()?);
            let done = nvvmm_process::restart(image, &options, None, &mut pages)
                .map_err(|error| failure(&error))?;
            (done, pages.copied())
        }
        None => {
            let mut pages = HostPages::new(&mut stream);
            let reserve = reserve::take(image.pages);
            let done = nvvmm_process::restart(image, &options, reserve, &mut pages);
            (pages.outcome(done)?, pages.sent)
        }
    };
    Ok(Restarted {
        pid: image.processes[0].pid,
        processes: count(image.processes.len()),
        threads: count(image.threads()),
        pages,
        elapsed_us: began.elapsed().as_micros() as u64,
        populate_us: done.populate.as_micros() as u64,
        place_us: done.place.as_micros() as u64,
        pages_reserved: done.pages_reserved,
    })
}

/// Standard streams that lead nowhere.
fn nothing() -> io::Result<[OwnedFd; 3]> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    Ok([
        null.try_clone()?.into(),
        null.try_clone()?.into(),
        null.into(),
    ])
}

fn take_image(len_bytes: u64, stream: &mut impl Stream) -> Result<Image, Failure> {
    if len_bytes > Image::BYTES_MAX as u64 {
        return Err(refused("the image is larger than any"));
    }
    let mut bytes = Vec::new();
    loop {
        match receive(&mut *stream)? {
            ToAgent::Data(part) if bytes.len() + part.len() <= len_bytes as usize => {
                bytes.extend(part)
            }
            ToAgent::End if bytes.len() as u64 == len_bytes => break,
            ToAgent::Data(_) | ToAgent::End => {
                return Err(refused("the image has another length than was said"));
            }
            _ => return Err(refused("that is no part of an image")),
        }
    }
    Image::decode(&bytes).map_err(|error| failure(&error))
}

#[cfg(test)]
#[path = "restart_test.rs"]
mod restart_test;
