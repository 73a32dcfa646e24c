//! Requests to an object store, for callers that wait for each.
//!
//! `object_store` repeats what fails for a moment, and gives up in the end. It needs an `async`
//! runtime, which is hidden here.

use std::fmt::Display;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future, stream};
use object_store::path::Path;
use object_store::{
    Error as StoreError, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::error::{Error, Result};

/// Requests at once, unless somebody asks for another number.
pub(crate) const PARALLEL: usize = 16;
/// The same for small parts, of which latency is the cost, and their size.
const PARALLEL_SMALL: usize = 64;
const SMALL_BYTES: u64 = 64 << 10;
/// Interval of looks at whether the caller still wants an answer.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Longest time that tidying up takes after an interruption.
const TIDYING_MAX: Duration = Duration::from_secs(10);
/// Objects that are listed at most, so that a store that never ends ends.
const LISTED_MAX: usize = 16 << 20;

/// Requests to a store, and bytes that went there and came back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Requests, not counting those that were repeated.
    pub requests: u64,
    /// Bytes of objects that were sent.
    pub sent_bytes: u64,
    /// Bytes of objects that were received.
    pub received_bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    requests: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

/// An object, as it is listed.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// Its name below the directory that was listed, with `/` in it.
    pub(crate) name: String,
    pub(crate) bytes: u64,
    /// Time since it was written, by the store's clock and this one's.
    pub(crate) age: Duration,
}

/// Requests to a store, as futures. They do not own the threads that carry them out.
#[derive(Clone)]
struct Requests {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    counters: Arc<Counters>,
    /// Permits of requests that nobody waits for yet.
    permits: Arc<Semaphore>,
}

/// A store, and the threads that wait for it.
#[derive(Clone)]
pub(crate) struct Objects {
    requests: Requests,
    runtime: Arc<Runtime>,
    parallel: usize,
    parallel_small: usize,
    /// Set when the caller wants no more answers.
    stopped: Arc<AtomicBool>,
}

/// A request that is under way.
pub(crate) struct UnderWay<T>(JoinHandle<Result<T>>);

impl Objects {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, prefix: Path) -> Result<Objects> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("remote")
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| failed("start threads", error))?;
        Ok(Objects {
            requests: Requests {
                store,
                prefix,
                counters: Arc::default(),
                permits: Arc::new(Semaphore::new(PARALLEL)),
            },
            runtime: Arc::new(runtime),
            parallel: PARALLEL,
            parallel_small: PARALLEL_SMALL,
            stopped: Arc::default(),
        })
    }

    /// Has at most so many requests at once.
    #[cfg(test)]
    pub(crate) fn with_parallel(mut self, parallel: usize) -> Objects {
        (self.parallel, self.parallel_small) = (parallel, parallel);
        self.requests.permits = Arc::new(Semaphore::new(parallel));
        self
    }

    /// Ends all requests once the flag is set.
    pub(crate) fn end_on(&mut self, stopped: &Arc<AtomicBool>) {
        self.stopped = Arc::clone(stopped);
    }

    /// Waits for an answer, or until the caller wants none any more.
    fn run<T>(&self, request: impl Future<Output = Result<T>>) -> Result<T> {
        let stopped = async {
            while !self.stopped.load(Ordering::Relaxed) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Err(nvvmm_snapshot::Error::Interrupted.into())
        };
        self.runtime.block_on(async {
            let both = future::select(Box::pin(request), Box::pin(stopped)).await;
            both.factor_first().0
        })
    }

    pub(crate) fn parallel(&self) -> usize {
        self.parallel
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            requests: of(&self.requests.counters.requests),
            sent_bytes: of(&self.requests.counters.sent_bytes),
            received_bytes: of(&self.requests.counters.received_bytes),
        }
    }

    /// The whole object; none if it is not there. One of more than `bytes_max` is refused.
    pub(crate) fn get(&self, name: &str, bytes_max: u64) -> Result<Option<Bytes>> {
        self.run(self.requests.got(name, None, bytes_max))
    }

    /// These bytes of an object; none if it is not there. Fewer come if it ends before.
    pub(crate) fn get_range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>> {
        let bytes_max = range.end - range.start;
        self.run(self.requests.got(name, Some(range), bytes_max))
    }

    /// Reads parts of objects, a few at once. The results are in the order of the requests.
    pub(crate) fn get_ranges(
        &self,
        wanted: Vec<(String, Range<u64>)>,
    ) -> Result<Vec<Option<Bytes>>> {
        let one = |(name, range): (String, Range<u64>)| async move {
            let bytes_max = range.end - range.start;
            self.requests.got(&name, Some(range), bytes_max).await
        };
        let are_small = wanted
            .iter()
            .all(|(_, range)| range.end - range.start <= SMALL_BYTES);
        let parallel = match are_small {
            true => self.parallel_small,
            false => self.parallel,
        };
        let all = stream::iter(wanted).map(one).buffered(parallel);
        self.run(all.try_collect())
    }

    /// Begins to read a part of an object.
    pub(crate) fn begin_get(&self, name: String, range: Range<u64>) -> UnderWay<Option<Bytes>> {
        let requests = self.requests.clone();
        let bytes_max = range.end - range.start;
        UnderWay(self.runtime.spawn(async move {
            let _permit = requests.permits.acquire().await;
            requests.got(&name, Some(range), bytes_max).await
        }))
    }

    /// Reads a part of an object, and calls `then` with it, in another thread. No answer within
    /// `limit` is an error.
    pub(crate) fn get_then(
        &self,
        name: String,
        range: Range<u64>,
        limit: Duration,
        then: impl FnOnce(Result<Option<Bytes>>) + Send + 'static,
    ) {
        let requests = self.requests.clone();
        let bytes_max = range.end - range.start;
        self.runtime.spawn(async move {
            let got = requests.got(&name, Some(range), bytes_max);
            let got = tokio::time::timeout(limit, got).await;
            then(got.unwrap_or_else(|_| Err(failed(&format!("read {name}"), "no answer came"))));
        });
    }

    /// Begins to write an object.
    pub(crate) fn begin_put(&self, name: String, bytes: Vec<u8>) -> UnderWay<()> {
        let requests = self.requests.clone();
        UnderWay(self.runtime.spawn(async move {
            let put = requests.put_as(&name, bytes.into(), PutMode::Overwrite);
            put.await.map(drop)
        }))
    }

    /// Waits for a request.
    pub(crate) fn wait<T>(&self, request: UnderWay<T>) -> Result<T> {
        self.run(async {
            let done = request.0.await;
            done.map_err(|error| failed("wait for a request", error))?
        })
    }

    /// Writes an object, also over one that is there.
    pub(crate) fn put(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let put = self.requests.put_as(name, bytes.into(), PutMode::Overwrite);
        self.run(put).map(drop)
    }

    /// Writes an object if none is there. False if one is.
    ///
    /// # Errors
    /// [`Error::NoConditionalWrites`].
    pub(crate) fn put_if_absent(&self, name: &str, bytes: Vec<u8>) -> Result<bool> {
        let put = self.requests.put_as(name, bytes.into(), PutMode::Create);
        self.run(put)
    }

    /// Removes an object, if it is there. Who was told to stop still tidies up, for a while.
    pub(crate) fn delete(&self, name: &str) -> Result<()> {
        let path = self.requests.path(name)?;
        self.requests.count_request();
        let op = format!("remove {name}");
        let request = async {
            match self.requests.store.delete(&path).await {
                Err(StoreError::NotFound { .. }) => Ok(()),
                other => other,
            }
        };
        if !self.stopped.load(Ordering::Relaxed) {
            return self.bounded(&op, request);
        }
        let request = async { tokio::time::timeout(TIDYING_MAX, request).await };
        match self.runtime.block_on(request) {
            Ok(done) => done.map_err(|error| told(&op, error)),
            Err(elapsed) => Err(failed(&op, elapsed)),
        }
    }

    /// True if the object is there.
    pub(crate) fn has(&self, name: &str) -> Result<bool> {
        let path = self.requests.path(name)?;
        self.requests.count_request();
        let op = format!("look for {name}");
        self.bounded(&op, async {
            match self.requests.store.head(&path).await {
                Ok(_) => Ok(true),
                Err(StoreError::NotFound { .. }) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    /// All objects of a directory, in the order of their names.
    pub(crate) fn list(&self, directory: &str) -> Result<Vec<Listed>> {
        let path = self.requests.path(directory)?;
        let now = SystemTime::now();
        let op = format!("list {directory}");
        let listed = self.bounded(&op, async {
            let all = self.requests.store.list(Some(&path));
            let all = all.take(LISTED_MAX).map_ok(|meta| {
                let parts = meta.location.prefix_match(&path);
                let parts: Vec<String> = parts
                    .into_iter()
                    .flatten()
                    .map(|part| part.as_ref().to_owned())
                    .collect();
                Listed {
                    name: parts.join("/"),
                    bytes: meta.size,
                    age: now
                        .duration_since(SystemTime::from(meta.last_modified))
                        .unwrap_or_default(),
                }
            });
            all.try_collect::<Vec<Listed>>().await
        });
        let mut listed = listed?;
        // A request of S3 lists 1,000.
        let requests = 1 + listed.len() as u64 / 1000;
        self.requests
            .counters
            .requests
            .fetch_add(requests, Ordering::Relaxed);
        listed.sort_by(|left, right| left.name.cmp(&right.name));
        Ok(listed)
    }

    fn bounded<T>(
        &self,
        op: &str,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T> {
        self.run(async { request.await.map_err(|error| told(op, error)) })
    }
}

impl Requests {
    async fn got(
        &self,
        name: &str,
        range: Option<Range<u64>>,
        bytes_max: u64,
    ) -> Result<Option<Bytes>> {
        let path = self.path(name)?;
        self.count_request();
        let options = GetOptions {
            range: range.map(GetRange::Bounded),
            ..GetOptions::default()
        };
        let told = |error| told(&format!("read {name}"), error);
        let found = match self.store.get_opts(&path, options).await {
            Ok(found) => found,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(told(error)),
        };
        let coming = found.range.end.saturating_sub(found.range.start);
        if coming > bytes_max {
            return Err(Error::damaged(
                name,
                "it is larger than such an object can be",
            ));
        }
        let bytes = found.bytes().await.map_err(told)?;
        self.counters
            .received_bytes
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(Some(bytes))
    }

    async fn put_as(&self, name: &str, bytes: Bytes, mode: PutMode) -> Result<bool> {
        let path = self.path(name)?;
        self.count_request();
        self.counters
            .sent_bytes
            .fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let has_condition = mode == PutMode::Create;
        let options = PutOptions {
            mode,
            ..PutOptions::default()
        };
        match self.store.put_opts(&path, bytes.into(), options).await {
            Ok(_) => Ok(true),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => Ok(false),
            Err(StoreError::NotImplemented { .. } | StoreError::NotSupported { .. }) => {
                Err(Error::NoConditionalWrites)
            }
            // The library has no kind for this answer of servers.
            Err(StoreError::Generic { source, .. })
                if has_condition && source.to_string().contains("501 Not Implemented") =>
            {
                Err(Error::NoConditionalWrites)
            }
            Err(error) => Err(told(&format!("write {name}"), error)),
        }
    }

    fn path(&self, name: &str) -> Result<Path> {
        let parts = name.split('/').map(Into::into);
        Ok(self.prefix.parts().chain(parts).collect())
    }

    fn count_request(&self) {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
    }
}

fn failed(op: &str, error: impl Display) -> Error {
    Error::Failed {
        op: op.to_owned(),
        what: without_secrets(&error.to_string()),
    }
}

/// An error of a store as one of ours.
fn told(op: &str, error: StoreError) -> Error {
    match error {
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => Error::Denied {
            what: without_secrets(&error.to_string()),
        },
        StoreError::Generic { source, .. } => failed(op, source),
        error => failed(op, error),
    }
}

/// A text of a library without the queries of URLs, which may have signatures, on one line.
pub(crate) fn without_secrets(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut in_url = false;
    let mut in_query = false;
    for (at, character) in text.char_indices() {
        if text[at..].starts_with("://") {
            in_url = true;
        }
        if character.is_whitespace() || "\"'()<>".contains(character) {
            (in_url, in_query) = (false, false);
        }
        if in_url && character == '?' {
            in_query = true;
            plain.push_str("?...");
        }
        match character {
            _ if in_query => {}
            character if character.is_control() => plain.push(' '),
            character => plain.push(character),
        }
    }
    plain
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Objects")
            .field("prefix", &self.requests.prefix)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "objects_test.rs"]
mod objects_test;
