//! URLs of stores.

use std::fmt;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// The kind of a store, with the place in it where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A bucket of S3, or of what speaks it.
    S3(Bucket),
    /// A bucket of Google Cloud Storage.
    Gcs(Bucket),
    /// A container of Azure.
    Azure(Bucket),
    /// A directory.
    Directory(PathBuf),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bucket {
    pub(crate) name: String,
    /// Names of the prefix, with `/` between them; may be empty.
    pub(crate) prefix: String,
}

/// The URL of a store: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or
/// `file:///directory`. It has no secrets: those that it could have are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreUrl {
    pub(crate) place: Place,
}

/// Longest URL that is looked at.
const URL_BYTES_MAX: usize = 1024;

impl StoreUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`Error::Url`], which does not repeat the text.
    pub fn parse(text: &str) -> Result<StoreUrl> {
        let fault = |what: &str| Error::Url {
            what: what.to_owned(),
        };
        if text.len() > URL_BYTES_MAX {
            return Err(fault("it is too long"));
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| fault("it does not begin with s3://, gs://, az:// or file://"))?;
        if scheme == "file" {
            return directory(rest).map(|place| StoreUrl { place });
        }
        let of: fn(Bucket) -> Place = match scheme {
            "s3" => Place::S3,
            "gs" => Place::Gcs,
            "az" => Place::Azure,
            _ => {
                return Err(fault(
                    "it does not begin with s3://, gs://, az:// or file://",
                ));
            }
        };
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if name.contains('@') {
            return Err(fault(
                "credentials are not in a URL, but in the environment",
            ));
        }
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.is_empty() || !name.bytes().all(good) || name.starts_with('.') {
            return Err(fault(
                "a bucket's name has letters, digits, '.', '_' and '-' only",
            ));
        }
        Ok(StoreUrl {
            place: of(Bucket {
                name: name.to_owned(),
                prefix: prefix_of(prefix)?,
            }),
        })
    }

    /// Reads the URL of a snapshot, whose last name is that of the snapshot.
    ///
    /// # Errors
    /// [`Error::Url`].
    pub fn parse_with_snapshot(text: &str) -> Result<(StoreUrl, String)> {
        let fault = |what: &str| Error::Url {
            what: what.to_owned(),
        };
        let (store, name) = text
            .rsplit_once('/')
            .filter(|(store, _)| !store.ends_with(":/") && !store.ends_with(':'))
            .ok_or_else(|| fault("the snapshot's name is missing behind the store's URL"))?;
        nvvmm_snapshot::check_name(name)
            .map_err(|_| fault("its last name cannot be that of a snapshot"))?;
        Ok((StoreUrl::parse(store)?, name.to_owned()))
    }

    /// Makes the directory of the store, if it is one, for its owner alone: it will have the memory
    /// of guests.
    ///
    /// # Errors
    /// [`Error::Pool`].
    pub fn make_directory(&self) -> Result<()> {
        let Some(path) = self.directory().filter(|path| !path.exists()) else {
            return Ok(());
        };
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                Err(Error::Pool(nvvmm_snapshot::Error::Io {
                    op: format!("making the directory {}", path.display()),
                    source: error,
                }))
            }
            _ => Ok(()),
        }
    }

    /// The directory that the store is in, if it is one.
    pub fn directory(&self) -> Option<&Path> {
        match &self.place {
            Place::Directory(path) => Some(path),
            _ => None,
        }
    }
}

/// A prefix, of names that are taken as they are by every kind of store.
fn prefix_of(text: &str) -> Result<String> {
    let text = text.strip_suffix('/').unwrap_or(text);
    if text.is_empty() {
        return Ok(String::new());
    }
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-=+".contains(&byte);
    let is_name =
        |name: &str| !name.is_empty() && name != "." && name != ".." && name.bytes().all(good);
    match text.split('/').all(is_name) {
        true => Ok(text.to_owned()),
        false => Err(Error::Url {
            what: "its path has names of letters, digits, '.', '_', '-', '=' and '+' only"
                .to_owned(),
        }),
    }
}

fn directory(text: &str) -> Result<Place> {
    let path = Path::new(text);
    let is_plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !is_plain || text.bytes().any(|byte| byte.is_ascii_control()) {
        return Err(Error::Url {
            what: "file:// is followed by the absolute path of a directory, as file:///mnt/store"
                .to_owned(),
        });
    }
    Ok(Place::Directory(path.components().collect()))
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, bucket) = match &self.place {
            Place::S3(bucket) => ("s3", bucket),
            Place::Gcs(bucket) => ("gs", bucket),
            Place::Azure(bucket) => ("az", bucket),
            Place::Directory(path) => return write!(out, "file://{}", path.display()),
        };
        write!(out, "{scheme}://{}", bucket.name)?;
        match bucket.prefix.as_str() {
            "" => Ok(()),
            prefix => write!(out, "/{prefix}"),
        }
    }
}

#[cfg(test)]
#[path = "url_test.rs"]
mod url_test;
