//! The process that speaks to the store, and parses what is there: confined as a push is.

use std::io::{self, BufReader, Stdout, stdin, stdout};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use nvvmm::VmError;
use nvvmm_remote::{Error, GcOptions, PushOptions, Pusher, Store, Traffic, Use};
use nvvmm_snapshot::Pool;

use super::message::{Answer, Failure, Order, Replica, Sums, hear, say};
use super::names::Names;
use crate::args::ReplicateArguments;
use crate::confine;
use crate::interruption::{ends_on_signal, unless};
use crate::pool_path;
use crate::push_command::{key_in, reach};
use crate::remote_error::told;

/// Carries out orders until its input ends.
pub(super) fn run(arguments: &ReplicateArguments, pool: &Path) -> Result<(), VmError> {
    let mut out = stdout();
    match push_all(arguments, pool, &mut out) {
        Ok(()) => Ok(()),
        Err(Ended::Heard) => Ok(()),
        Err(Ended::Failed(error)) => {
            let failed = Answer::Failed {
                error,
                kind: Failure::Passing,
            };
            say(&mut out, &failed).map_err(|e| broken(&e))
        }
        Err(Ended::Store(error)) => say(&mut out, &failed(error)).map_err(|e| broken(&e)),
    }
}

/// Reasons to end.
enum Ended {
    /// Nobody hears any more.
    Heard,
    Failed(VmError),
    Store(Error),
}

impl From<VmError> for Ended {
    fn from(error: VmError) -> Self {
        Self::Failed(error)
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self::Heard
    }
}

fn push_all(arguments: &ReplicateArguments, path: &Path, out: &mut Stdout) -> Result<(), Ended> {
    let key = key_in(arguments.key.as_deref())?;
    let names = Names::new(&arguments.vm)?;
    let interrupted = ends_on_signal()?;
    arguments.url.make_directory()?;
    confine::to_store(&reach(&arguments.url, true), Some(path))?;
    // From now on the end of this process's input ends what it does.
    let orders = orders(&interrupted)?;
    let pool = pool_path::open(path)?;
    let mut store = Store::open(&arguments.url, key.as_ref(), Use::Repeated)?;
    store.end_on(&interrupted);
    let (snapshots, faults) = store.snapshots()?;
    for fault in faults {
        tracing::warn!(%fault, "a snapshot of the store cannot be read");
    }
    let headers = snapshots.into_iter().map(|snapshot| snapshot.header);
    let replicas = headers.filter(|header| names.number_of(&header.name).is_some());
    let opened = Answer::Opened {
        encrypted: store.is_encrypted(),
        replicas: replicas
            .map(|header| Replica {
                identity: header.identity.to_string(),
                name: header.name,
            })
            .collect(),
    };
    say(out, &opened)?;
    let mut pusher = Pusher::of_series(store, &arguments.vm);
    for order in orders {
        let done = carry_out(&order, &mut pusher, &pool, arguments.level, &interrupted);
        say(out, &done.unwrap_or_else(failed))?;
    }
    Ok(())
}

/// The orders, in a thread that interrupts a push when nobody gives any more.
fn orders(interrupted: &Arc<AtomicBool>) -> Result<Receiver<Order>, VmError> {
    let (give, orders) = channel();
    let interrupted = Arc::clone(interrupted);
    let hears = move || {
        let mut lines = BufReader::new(stdin());
        while let Ok(Some(order)) = hear(&mut lines) {
            if give.send(order).is_err() {
                return;
            }
        }
        interrupted.store(true, Ordering::Relaxed);
    };
    let spawned = thread::Builder::new().name("orders".into()).spawn(hears);
    spawned.map_err(|e| VmError::io("hear orders", &e))?;
    Ok(orders)
}

fn carry_out(
    order: &Order,
    pusher: &mut Pusher,
    pool: &Arc<Pool>,
    level: i32,
    interrupted: &AtomicBool,
) -> Result<Answer, Error> {
    match order {
        Order::Push { snapshot } => {
            let before = pusher.store().traffic();
            let options = PushOptions { level };
            let mut on_progress = |_| unless(interrupted);
            let report = pusher.push(pool, snapshot, &options, &mut on_progress)?;
            let Traffic {
                requests,
                sent_bytes,
                ..
            } = pusher.store().traffic();
            Ok(Answer::Pushed(Sums {
                read_bytes: report.read_bytes,
                new_bytes: report.new_content_bytes,
                sent_bytes: sent_bytes - before.sent_bytes,
                requests: requests - before.requests,
            }))
        }
        Order::Remove { snapshots } => {
            for name in snapshots {
                match pusher.store().remove(name) {
                    Ok(_) | Err(Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(Answer::Done)
        }
        Order::Collect => {
            let report = pusher.store().gc(&GcOptions::default())?;
            for push in &report.pushes {
                tracing::info!(
                    push = %push.id, age = ?push.age,
                    "a push is under way, or dead: what it may count on is kept"
                );
            }
            Ok(Answer::Done)
        }
    }
}

fn failed(error: Error) -> Answer {
    let kind = match &error {
        Error::NameTaken { .. } => Failure::NameTaken,
        Error::Url { .. }
        | Error::Version { .. }
        | Error::NeedsKey
        | Error::NotEncrypted
        | Error::WrongKey
        | Error::NoConditionalWrites
        | Error::TooLarge { .. } => Failure::Final,
        _ => Failure::Passing,
    };
    Answer::Failed {
        error: told(error),
        kind,
    }
}

fn broken(error: &io::Error) -> VmError {
    VmError::io("speak to the process that started this one", error)
}
