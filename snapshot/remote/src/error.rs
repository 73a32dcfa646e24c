//! Errors of stores. The texts name the cause. The program that shows them adds the remedy.

/// The result of an operation on a store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of an operation on a store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no URL of a store.
    #[error("this is no URL of a store: {what}")]
    Url {
        /// The fault. The URL is not in it: it may have secrets.
        what: String,
    },
    /// Nothing is there yet.
    #[error("there is no store at {url}")]
    NoStore {
        /// The place.
        url: String,
    },
    /// The store has a format that this program does not know.
    #[error("the store has format version {found}, this program knows version {expected}")]
    Version {
        /// Version read from the store.
        found: u32,
        /// The version that this program reads and writes.
        expected: u32,
    },
    /// The store is encrypted, and no key was given.
    #[error("the store is encrypted")]
    NeedsKey,
    /// A key was given, and the store is not encrypted.
    #[error("the store is not encrypted, and was made without a key")]
    NotEncrypted,
    /// The key is not that of the store.
    #[error("the key is not the one that the store was made with")]
    WrongKey,
    /// A snapshot of that name is in the store, with other content.
    #[error("the store has another snapshot '{name}'")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No snapshot of that name is in the store.
    #[error("no snapshot '{name}' in the store {url}")]
    NotFound {
        /// The name.
        name: String,
        /// The store.
        url: String,
        /// Names that look alike.
        near: Vec<String>,
    },
    /// The store cannot put an object only if none is there.
    #[error(
        "the store does not support conditional writes (put if absent), without which two pushes \
         could overwrite each other"
    )]
    NoConditionalWrites,
    /// Somebody has ended this push.
    #[error(
        "push {push} was ended by somebody else ('nvvmm remote gc --end-push'), so what it counts \
         on may be gone: nothing was made of it"
    )]
    PushEnded {
        /// The push.
        push: String,
    },
    /// There is no push of that id.
    #[error("no push {push} is under way")]
    NoSuchPush {
        /// The push.
        push: String,
    },
    /// Something in the store is not what was written.
    #[error("{object} of the store is damaged: {what}")]
    Damaged {
        /// The object.
        object: String,
        /// The finding.
        what: String,
    },
    /// Something that a snapshot needs is not in the store.
    #[error("{object} is not in the store, and a snapshot needs it")]
    Missing {
        /// The object.
        object: String,
    },
    /// The snapshot is too large for a manifest.
    #[error("the snapshot is too large for a store: it has more than {limit} pieces of 512 KiB")]
    TooLarge {
        /// Pieces that a manifest can have.
        limit: u32,
    },
    /// The store refused the user.
    #[error("the store refuses access: {what}")]
    Denied {
        /// The store's words.
        what: String,
    },
    /// A request failed, after all attempts.
    #[error("cannot {op}: {what}")]
    Failed {
        /// The request.
        op: String,
        /// The cause.
        what: String,
    },
    /// An error of the pool, or of what arrived in it.
    #[error(transparent)]
    Pool(#[from] nvvmm_snapshot::Error),
}

impl Error {
    pub(crate) fn damaged(object: impl std::fmt::Display, what: impl Into<String>) -> Error {
        Error::Damaged {
            object: object.to_string(),
            what: what.into(),
        }
    }

    /// True if the same may succeed later, with what is there by then.
    pub(crate) fn is_interruption(&self) -> bool {
        match self {
            Error::Failed { .. } | Error::Denied { .. } => true,
            Error::Pool(error) => matches!(error, nvvmm_snapshot::Error::Interrupted),
            _ => false,
        }
    }
}
