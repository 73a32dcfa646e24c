//! `nvvmm pull URL/NAME --for VM`: fetches the memory of a VM that runs on it.
//!
//! `nvvmm restore URL/NAME` starts this command in the background (`lazy_restore`). It is confined
//! as a pull is. A helper, made before, gives the VM its end of a stream.

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use nvvmm::control::arriving::{ALIVE_EVERY, FetcherWord, GuestWord, LINE_BYTES_MAX};
use nvvmm::control::{ControlClient, RuntimeDir, VmOrigin, VmStatus};
use nvvmm::{ErrorKind, VmError};
use nvvmm_remote::{
    Arrival, ArrivalNews, Begun, PullOptions, PullReport, Store, StoreUrl, TOUCHES, Use, Wants,
};
use nvvmm_snapshot::{ChunkIndex, MoveProgress};
use serde::{Deserialize, Serialize};

use super::args::PullArguments;
use super::confine::{self, Helper, Reach};
use super::interruption::{ends_on_signal, unless};
use super::progress::Progress;
use super::push_command::{key_in, tell_pulled};
use super::remote_error::told;
use super::{message, pool_path};

/// Time within which a VM that is being started takes its memory.
const ATTACH_PATIENCE: Duration = Duration::from_secs(60);
/// Interval of tries, in milliseconds.
const ATTACH_EVERY: u16 = 10;

/// Line that the command in the background prints, before the VM is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Beginning {
    /// A VM can be built, and all of the snapshot is there.
    There,
    /// A VM can be built, and the rest arrives.
    Arriving,
}

/// The VM that memory is fetched for.
struct Target {
    vm: String,
    /// True for a VM that is not there yet.
    is_to_come: bool,
    /// The status of one that runs, and the name of its snapshot.
    running: Option<(VmStatus, String)>,
}

impl Target {
    fn find(vm: &str, is_to_come: bool) -> Result<Self, VmError> {
        let running = match is_to_come {
            true => None,
            false => Some(arriving_vm(vm)?),
        };
        Ok(Self {
            vm: vm.to_owned(),
            is_to_come,
            running,
        })
    }
}

/// The status of a VM whose memory arrives, and the snapshot that it is of.
fn arriving_vm(vm: &str) -> Result<(VmStatus, String), VmError> {
    let status = client(vm)?.status()?;
    match (&status.origin, &status.arriving) {
        (VmOrigin::Snapshot { name }, Some(_)) => {
            let name = name.clone();
            Ok((status, name))
        }
        _ => Err(VmError::new(
            ErrorKind::Refused,
            format!("all memory of the VM '{vm}' is here"),
        )),
    }
}

fn client(vm: &str) -> Result<ControlClient, VmError> {
    let entry = RuntimeDir::of_user()?.find(vm)?;
    ControlClient::connect(&entry.paths.control)
}

/// Fetches what the VM lacks, until it has all.
pub fn run(arguments: &PullArguments, vm: &str) -> Result<(), VmError> {
    let (url, name) = &arguments.from;
    let key = key_in(arguments.key.as_deref())?;
    let target = Target::find(vm, arguments.ahead)?;
    let path = match &target.running {
        Some((status, _)) => status.pool.clone(),
        None => pool_path::found_or_made(&arguments.pool)?,
    };
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(|e| VmError::io("open /dev/null", &e))?;
    if target.is_to_come {
        // The command that waits may be interrupted without this one.
        setsid().map_err(|e| VmError::io("start a session", &e.into()))?;
    }
    let (ours, theirs) =
        UnixStream::pair().map_err(|e| VmError::io("make a stream to the VM", &e))?;
    let (called, is_to_come) = (target.vm.clone(), target.is_to_come);
    let helper = Helper::new(move || attach(&called, &theirs, is_to_come), || ())
        .map_err(|e| VmError::io("make a helper", &e))?;
    let interrupted = ends_on_signal()?;
    let mut shown = Progress::of_bytes("pull")?;
    confine::to_store(&reach(url), Some(&path))?;
    let pool = pool_path::open(&path)?;
    let mut store = Store::open(url, key.as_ref(), Use::Arriving).map_err(told)?;
    store.end_on(&interrupted);
    let own_name = target.running.as_ref().map(|(_, name)| name.as_str());
    let options = PullOptions {
        name: own_name.or(arguments.name.as_deref()),
        onto: None,
        like: arguments.like.as_deref(),
        limit_bytes: arguments.limit,
        beside: target.running.as_ref().map(|(status, _)| status.pid),
    };
    let prefetch = arguments.prefetch.unwrap_or_default().into();
    let begun = store.begin_arrival(&pool, name, &options, prefetch);
    let report = match begun.map_err(told)? {
        Begun::There(_) => {
            if target.is_to_come {
                tell_command(Beginning::There)?;
            }
            return Ok(());
        }
        Begun::WholeOnly(why) => {
            message::note(&format!(
                "all of '{name}' is pulled before it runs, as {why}"
            ));
            let mut on_progress = |now: MoveProgress| {
                shown.show(now.bytes_done, Some(now.bytes_total));
                unless(&interrupted)
            };
            let pulled = store.pull(&pool, name, &options, &mut on_progress);
            let pulled = pulled.map_err(told)?;
            if target.is_to_come {
                return tell_command(Beginning::There);
            }
            pulled
        }
        Begun::Arriving(mut arrival) => {
            arrival.record_anew(arguments.record);
            if target.is_to_come {
                tell_command(Beginning::Arriving)?;
                let streams = [dup2_stdin(&null), dup2_stdout(&null), dup2_stderr(&null)];
                // Without it, it writes to where the command wrote.
                streams
                    .into_iter()
                    .filter_map(Result::err)
                    .for_each(|errno| {
                        tracing::warn!(%errno, "the streams of the command stay open");
                    });
            }
            arrive(*arrival, ours, helper, &interrupted, &mut shown)?
        }
    };
    drop(shown);
    match target.is_to_come {
        true => Ok(()),
        false => tell_pulled(&report, arguments.json.json),
    }
}

/// The store; in a directory, files are made only where touches are recorded.
fn reach(url: &StoreUrl) -> Reach {
    let Some(path) = url.directory() else {
        return Reach::Network;
    };
    let touches: PathBuf = path.join(TOUCHES);
    // Whoever may not do that does without a record.
    let _ = fs::create_dir(&touches);
    Reach::Directory {
        path: path.to_owned(),
        writes: false,
        makes: Some(touches),
    }
}

fn tell_command(beginning: Beginning) -> Result<(), VmError> {
    let failed = |e: io::Error| VmError::io("tell that the VM can be built", &e);
    let mut line = serde_json::to_vec(&beginning).map_err(|e| failed(e.into()))?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)
        .and_then(|()| out.flush())
        .map_err(failed)
}

/// Gives the VM its end of the stream. Waits for a VM that is to come as long as the command does
/// which starts it.
fn attach(vm: &str, theirs: &UnixStream, is_to_come: bool) -> io::Result<u8> {
    let until = Instant::now() + ATTACH_PATIENCE;
    let input = io::stdin();
    loop {
        let attached = client(vm).and_then(|mut client| client.arrive(theirs.as_fd()));
        match attached {
            Ok(()) => return Ok(1),
            Err(error) if is_to_come && Instant::now() < until => {
                tracing::debug!(%error, "the VM does not take its memory yet");
                let mut command = [PollFd::new(input.as_fd(), PollFlags::empty())];
                if poll(&mut command, ATTACH_EVERY)? > 0 {
                    return Err(io::Error::from_raw_os_error(libc::ECANCELED));
                }
            }
            Err(_) => return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED)),
        }
    }
}

/// Fetches, and tells the VM.
fn arrive(
    arrival: Arrival<'_>,
    ours: UnixStream,
    helper: Helper,
    interrupted: &AtomicBool,
    shown: &mut Progress,
) -> Result<PullReport, VmError> {
    let failed = |e: io::Error| VmError::io("talk to the VM", &e);
    let hears = ours.try_clone().map_err(failed)?;
    let (wants, lost) = (arrival.wants(), arrival.wants());
    let spawned = thread::Builder::new()
        .name("guest".into())
        .spawn(move || hear(hears, &wants));
    spawned.map_err(failed)?;
    let attaching = thread::Builder::new().name("attach".into()).spawn(move || {
        if let Err(error) = helper.carry_out() {
            tracing::warn!(%error, "the VM does not take its memory");
            lost.lost();
        }
    });
    attaching.map_err(failed)?;
    let header = arrival.header();
    let total = header.memory_bytes;
    let vm = Arc::new(Mutex::new(ours));
    tell(
        &vm,
        &FetcherWord::Begin {
            identity: header.identity.to_string(),
            frames_mapped: header.frames_mapped,
        },
    )
    .map_err(failed)?;
    let lives = Arc::clone(&vm);
    let alive = move || {
        while tell(&lives, &FetcherWord::Alive).is_ok() {
            thread::sleep(ALIVE_EVERY);
        }
    };
    let spawned = thread::Builder::new().name("alive".into()).spawn(alive);
    spawned.map_err(failed)?;
    let mut news = |news| {
        if let ArrivalNews::Landed { lacking, .. } = &news {
            let lacking = u64::from(*lacking) * nvvmm_snapshot::CHUNK_SIZE_BYTES;
            shown.show(total.saturating_sub(lacking), Some(total));
        }
        let told = tell(&vm, &word_of(news));
        match told.is_err() || interrupted.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    };
    let arrived = arrival.run(&mut news).map_err(told);
    arrived.inspect_err(|error| {
        // The VM may be gone.
        let why = error.message.clone();
        let _ = tell(&vm, &FetcherWord::Away { why });
    })
}

fn word_of(news: ArrivalNews) -> FetcherWord {
    match news {
        ArrivalNews::Landed { chunks, lacking } => FetcherWord::Landed { chunks, lacking },
        ArrivalNews::Away { why } => FetcherWord::Away { why },
        ArrivalNews::Back => FetcherWord::Back,
        ArrivalNews::Whole => FetcherWord::Whole,
    }
}

fn tell(vm: &Mutex<UnixStream>, word: &FetcherWord) -> io::Result<()> {
    let mut line = serde_json::to_vec(word)?;
    line.push(b'\n');
    // A line is written as a whole, or the stream is of no more use.
    let mut vm = vm.lock().unwrap_or_else(PoisonError::into_inner);
    vm.write_all(&line)
}

/// Hears what the guest needs, until the VM is gone.
fn hear(vm: UnixStream, wants: &Wants) {
    let mut lines = BufReader::new(vm);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = io::Read::take(&mut lines, LINE_BYTES_MAX as u64);
        match limited.read_until(b'\n', &mut line) {
            Ok(count) if count > 0 => {}
            _ => break,
        }
        match serde_json::from_slice(&line) {
            Ok(GuestWord::Touched(chunks)) => {
                wants.touched(chunks.into_iter().map(ChunkIndex::new).collect());
            }
            Ok(GuestWord::All) => wants.all(),
            Err(error) => {
                tracing::warn!(%error, "the VM makes no sense");
                break;
            }
        }
    }
    wants.lost();
}
