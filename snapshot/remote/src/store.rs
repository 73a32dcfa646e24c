//! An open store.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use nvvmm_snapshot::stream::sealed::Key;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientConfigKey, ObjectStore, RetryConfig};
use zerocopy::IntoBytes;

use crate::error::{Error, Result};
use crate::keys::StoreKeys;
use crate::layout::PACK_BYTES;
use crate::layout::ids::{ObjectId, PackId};
use crate::layout::manifest::{HEAD_BYTES_MAX, Head, MANIFEST_BYTES_MAX, Manifest};
use crate::layout::store::{STORE_BYTES, StoreV1};
use crate::objects::{Objects, Traffic, without_secrets};
use crate::url::{Place, StoreUrl};

/// The name of the first object.
const STORE_OBJECT: &str = "nvvmm-store";
/// Directories of the other objects.
pub(crate) const SNAPSHOTS: &str = "snapshots";
pub(crate) const PACKS: &str = "packs";
pub(crate) const PUSHES: &str = "pushes";
pub(crate) const CONDEMNED: &str = "condemned";
/// The directory that a host writes to which restores a snapshot while it arrives.
pub const TOUCHES: &str = "touches";

/// Longest request, a pack on a slow line included, and longest time for all attempts.
const REQUEST_MAX: &str = "300 seconds";
const ATTEMPTS_MAX: Duration = Duration::from_secs(600);
/// Attempts after the first one.
const RETRIES: usize = 8;

/// The same for a request that a guest waits for: whoever makes it repeats it.
const ATTEMPTS_MAX_SHORT: Duration = Duration::from_secs(5);
const RETRIES_SHORT: usize = 2;

/// The purpose for which a store is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Use of a store that must be there.
    Existing,
    /// The same for a guest that waits for what is read: a request that fails does so soon.
    Arriving,
    /// Use of a store that is made if nothing is there.
    Made,
    /// The same by who repeats what fails: a request that fails does so soon.
    Repeated,
}

/// An open store: a prefix of a bucket, or a directory.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) objects: Objects,
    pub(crate) keys: StoreKeys,
    /// Its URL, for messages.
    pub(crate) url: String,
    /// Bytes at which a pack is complete.
    pub(crate) pack_bytes: usize,
    made: bool,
}

impl Store {
    /// Opens the store at a URL, with the key that it was made with. Credentials are those of the
    /// environment.
    ///
    /// # Errors
    /// [`Error::NoStore`], [`Error::NeedsKey`], [`Error::NotEncrypted`], [`Error::WrongKey`],
    /// [`Error::Version`], [`Error::Damaged`]; [`Error::NoConditionalWrites`] when it is made;
    /// [`Error::Url`], [`Error::Denied`], [`Error::Failed`].
    pub fn open(url: &StoreUrl, key: Option<&Key>, r#use: Use) -> Result<Store> {
        let (store, prefix) = backend(url, r#use)?;
        Store::on(store, prefix, &url.to_string(), key, r#use)
    }

    pub(crate) fn on(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        url: &str,
        key: Option<&Key>,
        r#use: Use,
    ) -> Result<Store> {
        let objects = Objects::new(store, prefix)?;
        Store::with(objects, url, key, r#use)
    }

    pub(crate) fn with(
        objects: Objects,
        url: &str,
        key: Option<&Key>,
        r#use: Use,
    ) -> Result<Store> {
        let read = || objects.get(STORE_OBJECT, STORE_BYTES as u64);
        let (bytes, made) = match (read()?, r#use) {
            (Some(bytes), _) => (bytes.to_vec(), false),
            (None, Use::Existing | Use::Arriving) => {
                return Err(Error::NoStore {
                    url: url.to_owned(),
                });
            }
            (None, Use::Made | Use::Repeated) => {
                let (first, _) = StoreV1::make(key)?;
                let bytes = first.as_bytes().to_vec();
                match objects.put_if_absent(STORE_OBJECT, bytes.clone())? {
                    true => (bytes, true),
                    // Another push was faster.
                    false => (read()?.unwrap_or_default().to_vec(), false),
                }
            }
        };
        Ok(Store {
            keys: StoreV1::open(&bytes, key)?,
            objects,
            url: url.to_owned(),
            pack_bytes: PACK_BYTES,
            made,
        })
    }

    /// Has a flag end what waits for the store: [`nvvmm_snapshot::Error::Interrupted`] then.
    pub fn end_on(&mut self, stopped: &Arc<AtomicBool>) {
        self.objects.end_on(stopped);
    }

    /// True if opening it has made it.
    pub fn was_made(&self) -> bool {
        self.made
    }

    /// True if what is in it is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.keys.form() == crate::boxes::Form::Sealed
    }

    /// Requests and bytes since it was opened.
    pub fn traffic(&self) -> Traffic {
        self.objects.traffic()
    }

    /// Checks that an object that is there is not overwritten where it must be absent: some stores
    /// take such a request and ignore the condition. The object stays as it is in any case.
    pub(crate) fn check_conditional_writes(&self) -> Result<()> {
        let there = self.objects.get(STORE_OBJECT, STORE_BYTES as u64)?;
        let there = there.ok_or_else(|| Error::NoStore {
            url: self.url.clone(),
        })?;
        match self.objects.put_if_absent(STORE_OBJECT, there.to_vec())? {
            false => Ok(()),
            true => Err(Error::NoConditionalWrites),
        }
    }

    pub(crate) fn snapshot_path(object: &str) -> String {
        format!("{SNAPSHOTS}/{object}")
    }

    pub(crate) fn touches_path(object: &str) -> String {
        format!("{TOUCHES}/{object}")
    }

    pub(crate) fn pack_path(pack: PackId) -> String {
        format!("{PACKS}/{pack}")
    }

    pub(crate) fn push_path(push: ObjectId) -> String {
        format!("{PUSHES}/{push}")
    }

    /// The packs that are there, with their sizes. Other objects are left alone.
    pub(crate) fn packs(&self) -> Result<Vec<(PackId, u64)>> {
        let listed = self.objects.list(PACKS)?;
        let packs = listed.iter();
        let packs = packs.filter_map(|pack| Some((pack.name.parse().ok()?, pack.bytes)));
        Ok(packs.collect())
    }

    /// The head of the manifest of a snapshot; none if there is no such snapshot.
    pub(crate) fn head(&self, name: &str) -> Result<Option<Head>> {
        let object = self.keys.snapshot_object(name);
        let bytes = self
            .objects
            .get_range(&Self::snapshot_path(&object), 0..HEAD_BYTES_MAX)?;
        let head = bytes.map(|bytes| {
            let (head, _) = Head::decode(&self.keys, &object, &bytes)?;
            Ok(head)
        });
        head.transpose()
    }

    /// The manifest in an object; none if it is not there.
    pub(crate) fn manifest_in(&self, object: &str) -> Result<Option<Manifest>> {
        let path = Self::snapshot_path(object);
        let bytes = self.objects.get(&path, MANIFEST_BYTES_MAX)?;
        bytes
            .map(|bytes| Manifest::decode(&self.keys, object, &bytes))
            .transpose()
    }

    /// The objects of all manifests.
    pub(crate) fn manifest_objects(&self) -> Result<Vec<String>> {
        let listed = self.objects.list(SNAPSHOTS)?;
        let is_object = |name: &str| name.len() == 64 && !name.contains('/');
        let objects = listed.into_iter().map(|listed| listed.name);
        Ok(objects.filter(|name| is_object(name)).collect())
    }
}

/// The store of the library, and the place in it where ours begins.
fn backend(url: &StoreUrl, r#use: Use) -> Result<(Arc<dyn ObjectStore>, Path)> {
    let (retries, attempts_max) = match r#use {
        Use::Arriving | Use::Repeated => (RETRIES_SHORT, ATTEMPTS_MAX_SHORT),
        Use::Existing | Use::Made => (RETRIES, ATTEMPTS_MAX),
    };
    let retry = RetryConfig {
        max_retries: retries,
        retry_timeout: attempts_max,
        ..RetryConfig::default()
    };
    let client = ClientConfigKey::Timeout;
    let failed = |error: object_store::Error| Error::Failed {
        op: "use the store".to_owned(),
        what: without_secrets(&error.to_string()),
    };
    let bucket = match &url.place {
        Place::Directory(path) => {
            if matches!(r#use, Use::Made | Use::Repeated) {
                url.make_directory()?;
            }
            let store = LocalFileSystem::new_with_prefix(path).map_err(|_| Error::NoStore {
                url: url.to_string(),
            })?;
            return Ok((Arc::new(store.with_fsync(true)), Path::default()));
        }
        Place::S3(bucket) | Place::Gcs(bucket) | Place::Azure(bucket) => bucket,
    };
    // Only the first call installs one, and any will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let store: Arc<dyn ObjectStore> = match &url.place {
        Place::S3(_) => {
            let builder = AmazonS3Builder::from_env()
                .with_config(AmazonS3ConfigKey::Client(client), REQUEST_MAX)
                .with_bucket_name(&bucket.name)
                .with_retry(retry);
            Arc::new(builder.build().map_err(failed)?)
        }
        Place::Gcs(_) => {
            let builder = GoogleCloudStorageBuilder::from_env()
                .with_config(GoogleConfigKey::Client(client), REQUEST_MAX)
                .with_bucket_name(&bucket.name)
                .with_retry(retry);
            Arc::new(builder.build().map_err(failed)?)
        }
        _ => {
            let builder = MicrosoftAzureBuilder::from_env()
                .with_config(AzureConfigKey::Client(client), REQUEST_MAX)
                .with_container_name(&bucket.name)
                .with_retry(retry);
            Arc::new(builder.build().map_err(failed)?)
        }
    };
    Ok((store, Path::from(bucket.prefix.as_str())))
}
