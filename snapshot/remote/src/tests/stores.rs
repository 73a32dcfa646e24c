//! Stores in memory, and a store that does what a test wants before each request.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use nvvmm_snapshot::stream::sealed::Key;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};

use crate::{Store, Use};

/// A new store in memory, with the memory.
pub(crate) fn in_memory(key: Option<&Key>) -> (Arc<InMemory>, Store) {
    let memory = Arc::new(InMemory::new());
    let store = Store::on(memory.clone(), Path::default(), "memory", key, Use::Made);
    (memory, store.unwrap())
}

/// The paths and bytes of all objects.
pub(crate) fn all_objects(memory: &Arc<InMemory>) -> Vec<(String, Bytes)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let listed: Vec<ObjectMeta> = memory.list(None).try_collect().await.unwrap();
        let mut all = Vec::new();
        for meta in listed {
            let bytes = memory.get(&meta.location).await.unwrap();
            let bytes = bytes.bytes().await.unwrap();
            all.push((meta.location.to_string(), bytes));
        }
        all
    })
}

/// Puts an object in its place as it is.
pub(crate) fn overwrite(memory: &Arc<InMemory>, path: &str, bytes: Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let path = Path::from(path);
    let put = memory.put(&path, bytes.into());
    runtime.block_on(put).unwrap();
}

/// A request to a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Put,
    PutIfAbsent,
    Get,
    List,
    Delete,
}

/// The fate of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Carried out.
    Done,
    /// Carried out, and the answer is lost.
    DoneUnheard,
    /// Not carried out.
    Lost,
    /// The end of what is read is missing.
    Truncated,
    /// A bit of what is read is another one.
    Flipped,
    /// The condition of a write is ignored.
    Unconditional,
    /// The store does not know such a request.
    Unknown,
}

/// Called before each request, with its path.
pub(crate) type Hook = dyn Fn(Request, &str) -> Fate + Send + Sync;

/// A store in memory, with a hook before each request.
pub(crate) struct Hooked {
    memory: Arc<InMemory>,
    hook: Box<Hook>,
}

impl Hooked {
    pub(crate) fn new(
        memory: &Arc<InMemory>,
        hook: impl Fn(Request, &str) -> Fate + Send + Sync + 'static,
    ) -> Arc<Hooked> {
        Arc::new(Hooked {
            memory: Arc::clone(memory),
            hook: Box::new(hook),
        })
    }

    fn fate(&self, request: Request, path: Option<&Path>) -> Fate {
        let path = path.map(Path::to_string).unwrap_or_default();
        (self.hook)(request, &path)
    }
}

fn lost() -> Error {
    Error::Generic {
        store: "test",
        source: "the connection was reset".into(),
    }
}

#[async_trait]
impl ObjectStore for Hooked {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        mut options: PutOptions,
    ) -> Result<PutResult> {
        let request = match options.mode {
            PutMode::Create => Request::PutIfAbsent,
            _ => Request::Put,
        };
        let fate = self.fate(request, Some(location));
        match fate {
            Fate::Lost => return Err(lost()),
            Fate::Unknown => {
                return Err(Error::NotImplemented {
                    operation: "put if absent".to_owned(),
                    implementer: "test".to_owned(),
                });
            }
            Fate::Unconditional => options.mode = PutMode::Overwrite,
            _ => {}
        }
        let put = self.memory.put_opts(location, payload, options).await;
        match fate {
            Fate::DoneUnheard => Err(lost()),
            _ => put,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.memory.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let fate = self.fate(Request::Get, Some(location));
        if fate == Fate::Lost {
            return Err(lost());
        }
        let got = self.memory.get_opts(location, options).await?;
        if !matches!(fate, Fate::Truncated | Fate::Flipped) {
            return Ok(got);
        }
        let (meta, range) = (got.meta.clone(), got.range.clone());
        let (attributes, extensions) = (got.attributes.clone(), got.extensions.clone());
        let mut bytes = got.bytes().await?.to_vec();
        match fate {
            Fate::Truncated => bytes.truncate(bytes.len() / 2),
            _ if bytes.is_empty() => {}
            _ => {
                let at = bytes.len() / 3;
                bytes[at] ^= 4;
            }
        }
        let one = futures_util::stream::once(async move { Ok(Bytes::from(bytes)) });
        Ok(GetResult {
            payload: GetResultPayload::Stream(one.boxed()),
            meta,
            range,
            attributes,
            extensions,
        })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.memory.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let fate = self.fate(Request::Delete, None);
        match fate {
            Fate::Lost => futures_util::stream::once(async { Err(lost()) }).boxed(),
            _ => self.memory.delete_stream(locations),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.fate(Request::List, prefix) {
            Fate::Lost => futures_util::stream::once(async { Err(lost()) }).boxed(),
            _ => self.memory.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.memory.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.memory.copy_opts(from, to, options).await
    }
}

impl fmt::Display for Hooked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Hooked")
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Hooked")
    }
}
