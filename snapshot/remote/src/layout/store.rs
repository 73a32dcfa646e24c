//! The first object of a store: what the store is.

use nvvmm_snapshot::fill_random;
use nvvmm_snapshot::stream::sealed::Key;
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::PIECE_BYTES;
use crate::boxes::{Form, SALT_BYTES, VERSION};
use crate::error::{Error, Result};
use crate::keys::StoreKeys;

pub(crate) const MAGIC: [u8; 8] = *b"NVVMSTOR";

/// The first object of a store.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct StoreV1 {
    pub(crate) magic: [u8; 8],
    pub(crate) version: U32,
    pub(crate) form: U32,
    pub(crate) piece_bytes: U32,
    pub(crate) reserved: [u8; 12],
    pub(crate) salt: [u8; SALT_BYTES],
    pub(crate) check: [u8; 32],
}

pub(crate) const STORE_BYTES: usize = size_of::<StoreV1>();
const _: () = assert!(STORE_BYTES == 96);

impl StoreV1 {
    /// A new store, encrypted if there is a key.
    pub(crate) fn make(key: Option<&Key>) -> Result<(StoreV1, StoreKeys)> {
        let mut salt = [0; SALT_BYTES];
        fill_random(&mut salt)?;
        Ok(StoreV1::with_salt(salt, key))
    }

    pub(crate) fn with_salt(salt: [u8; SALT_BYTES], key: Option<&Key>) -> (StoreV1, StoreKeys) {
        let keys = StoreKeys::of(&salt, key);
        let store = StoreV1 {
            magic: MAGIC,
            version: VERSION.into(),
            form: (keys.form() as u32).into(),
            piece_bytes: (PIECE_BYTES as u32).into(),
            reserved: [0; 12],
            salt,
            check: keys.check(),
        };
        (store, keys)
    }

    /// The keys of the store that these bytes are the first object of.
    ///
    /// # Errors
    /// [`Error::Version`], [`Error::NeedsKey`], [`Error::NotEncrypted`], [`Error::WrongKey`],
    /// [`Error::Damaged`].
    pub(crate) fn open(bytes: &[u8], key: Option<&Key>) -> Result<StoreKeys> {
        let damaged = |what: &str| Error::damaged("the first object", what);
        let (store, rest) = StoreV1::read_from_prefix(bytes)
            .ok()
            .filter(|(store, _)| store.magic == MAGIC)
            .ok_or_else(|| damaged("it is not that of a store"))?;
        if store.version.get() != VERSION {
            return Err(Error::Version {
                found: store.version.get(),
                expected: VERSION,
            });
        }
        if store.piece_bytes.get() as u64 != PIECE_BYTES {
            return Err(damaged("the store has pieces of another size"));
        }
        if store.reserved != [0; 12] || !rest.is_empty() {
            return Err(damaged("it has something that this program does not know"));
        }
        let keys = match (Form::from_raw(store.form.get()), key) {
            (Some(Form::Plain), None) => StoreKeys::of(&store.salt, None),
            (Some(Form::Sealed), Some(key)) => StoreKeys::of(&store.salt, Some(key)),
            (Some(Form::Plain), Some(_)) => return Err(Error::NotEncrypted),
            (Some(Form::Sealed), None) => return Err(Error::NeedsKey),
            (None, _) => return Err(damaged("its form is unknown")),
        };
        match (keys.check() == store.check, key) {
            (true, _) => Ok(keys),
            (false, Some(_)) => Err(Error::WrongKey),
            (false, None) => Err(damaged("its check does not fit")),
        }
    }
}
