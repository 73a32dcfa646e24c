//! Keys of a store: names of pieces and of manifests, and seals of all that is in it.
//!
//! All keys are derived from one, the master key. That of an encrypted store is derived from the
//! user's key and the store's salt. That of another store is derived from the salt alone, which
//! anybody can read who can read the store.

use std::fmt;

use blake3::Hasher;
use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce};
use nvvmm_snapshot::fill_random;
use nvvmm_snapshot::stream::sealed::Key;

use crate::boxes::{BOX_BYTES, BoxKind, BoxV1, Form, SALT_BYTES};
use crate::error::{Error, Result};

/// Contexts of key derivation.
pub(crate) const MASTER_CONTEXT: &str = "nvvmm 2026-11-30 master key of an encrypted store";
pub(crate) const OPEN_CONTEXT: &str = "nvvmm 2026-11-30 master key of a store without encryption";
pub(crate) const CHECK_CONTEXT: &str = "nvvmm 2026-11-30 check of the master key of a store";
pub(crate) const PIECE_NAME_CONTEXT: &str = "nvvmm 2026-11-30 name of a piece in a store";
pub(crate) const SNAPSHOT_NAME_CONTEXT: &str = "nvvmm 2026-11-30 name of a snapshot in a store";
pub(crate) const PIECE_SEAL_CONTEXT: &str = "nvvmm 2026-11-30 seal of a piece in a store";
pub(crate) const PIECE_NONCE_CONTEXT: &str = "nvvmm 2026-11-30 nonce of a piece in a store";
pub(crate) const BOX_CONTEXT: &str = "nvvmm 2026-11-30 seal of an object of a store";

/// Bytes of a nonce and of a tag of ChaCha20-Poly1305.
const NONCE_BYTES: usize = 12;
pub(crate) const TAG_BYTES: usize = 16;
/// Bytes that a seal adds to a piece.
pub(crate) const PIECE_SEAL_BYTES: usize = NONCE_BYTES + TAG_BYTES;

/// The name of a piece: a keyed hash of its content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PieceName(pub(crate) [u8; 32]);

impl fmt::Debug for PieceName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(&self.0, out)
    }
}

/// Writes bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8], out: &mut impl fmt::Write) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

/// The keys of a store.
#[derive(Clone)]
pub(crate) struct StoreKeys {
    form: Form,
    check: [u8; 32],
    piece_names: [u8; 32],
    snapshot_names: [u8; 32],
    piece_seals: [u8; 32],
    piece_nonces: [u8; 32],
    boxes: [u8; 32],
}

impl StoreKeys {
    /// The keys of a store with this salt. It is encrypted if there is a key.
    pub(crate) fn of(salt: &[u8; SALT_BYTES], key: Option<&Key>) -> StoreKeys {
        let master = match key {
            Some(key) => key.derived(MASTER_CONTEXT, salt),
            None => blake3::derive_key(OPEN_CONTEXT, salt),
        };
        let derived = |context| blake3::derive_key(context, &master);
        StoreKeys {
            form: match key {
                Some(_) => Form::Sealed,
                None => Form::Plain,
            },
            check: derived(CHECK_CONTEXT),
            piece_names: derived(PIECE_NAME_CONTEXT),
            snapshot_names: derived(SNAPSHOT_NAME_CONTEXT),
            piece_seals: derived(PIECE_SEAL_CONTEXT),
            piece_nonces: derived(PIECE_NONCE_CONTEXT),
            boxes: derived(BOX_CONTEXT),
        }
    }

    /// Tells a right key from a wrong one.
    pub(crate) fn check(&self) -> [u8; 32] {
        self.check
    }

    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// The name of a piece with this content.
    pub(crate) fn piece_name(&self, content: &[u8]) -> PieceName {
        PieceName(*blake3::keyed_hash(&self.piece_names, content).as_bytes())
    }

    /// The name of the manifest's object of a snapshot.
    pub(crate) fn snapshot_object(&self, name: &str) -> String {
        let hash = blake3::Hash::from_bytes(self.snapshot_hash(name));
        hash.to_hex().to_string()
    }

    /// The hash of the name of a snapshot, or of a series of them.
    pub(crate) fn snapshot_hash(&self, name: &str) -> [u8; 32] {
        *blake3::keyed_hash(&self.snapshot_names, name.as_bytes()).as_bytes()
    }

    /// Seals a compressed piece, if the store is encrypted. The same bytes give the same again.
    ///
    /// Each piece has a key of its own, of its name. The nonce is of the compressed bytes, as other
    /// versions of zstd may compress the same content to others.
    pub(crate) fn seal_piece(&self, name: &PieceName, compressed: Vec<u8>) -> Result<Vec<u8>> {
        if self.form == Form::Plain {
            return Ok(compressed);
        }
        let hash = blake3::keyed_hash(&self.piece_nonces, &compressed);
        let mut nonce = [0; NONCE_BYTES];
        nonce.copy_from_slice(&hash.as_bytes()[..NONCE_BYTES]);
        let payload = Payload {
            msg: &compressed,
            aad: &name.0,
        };
        let sealed = self
            .piece_cipher(name)
            .encrypt(&Nonce::from(nonce), payload);
        let sealed = sealed.map_err(|_| Error::damaged("a piece", "it cannot be sealed"))?;
        let mut stored = Vec::with_capacity(NONCE_BYTES + sealed.len());
        stored.extend_from_slice(&nonce);
        stored.extend_from_slice(&sealed);
        Ok(stored)
    }

    /// Opens a sealed piece; none if somebody without the key has changed it.
    pub(crate) fn open_piece(&self, name: &PieceName, stored: &[u8]) -> Option<Vec<u8>> {
        if self.form == Form::Plain {
            return Some(stored.to_vec());
        }
        let (nonce, sealed) = stored.split_first_chunk::<NONCE_BYTES>()?;
        let payload = Payload {
            msg: sealed,
            aad: &name.0,
        };
        let cipher = self.piece_cipher(name);
        cipher.decrypt(&Nonce::from(*nonce), payload).ok()
    }

    fn piece_cipher(&self, name: &PieceName) -> ChaCha20Poly1305 {
        let key = blake3::keyed_hash(&self.piece_seals, &name.0);
        ChaCha20Poly1305::new(key.as_bytes().into())
    }

    /// Puts a payload into a box that belongs to one place: `bound` says which.
    pub(crate) fn wrap(&self, kind: BoxKind, bound: &[u8], payload: &[u8]) -> Result<Vec<u8>> {
        let odd = || Error::damaged("an object", "it is too long to be sealed");
        let stored_bytes = match self.form {
            Form::Plain => payload.len(),
            Form::Sealed => payload.len() + TAG_BYTES,
        };
        let stored_bytes = u32::try_from(stored_bytes).map_err(|_| odd())?;
        let mut head = BoxV1::new(kind, self.form, stored_bytes);
        let stored = match self.form {
            Form::Plain => {
                head.salt = self.box_digest(&head, bound, payload);
                payload.to_vec()
            }
            Form::Sealed => {
                fill_random(&mut head.salt)?;
                let payload = Payload {
                    msg: payload,
                    aad: head.fixed(),
                };
                let cipher = self.box_cipher(&head, bound);
                cipher
                    .encrypt(&Nonce::default(), payload)
                    .map_err(|_| odd())?
            }
        };
        let mut bytes = Vec::with_capacity(BOX_BYTES + stored.len());
        bytes.extend_from_slice(head.bytes());
        bytes.extend_from_slice(&stored);
        Ok(bytes)
    }

    /// Takes the payload out of a box, which the bytes begin with; and what is behind it. `object`
    /// is named in errors.
    pub(crate) fn unwrap<'b>(
        &self,
        kind: BoxKind,
        bound: &[u8],
        bytes: &'b [u8],
        object: &dyn fmt::Display,
    ) -> Result<(Vec<u8>, &'b [u8])> {
        let (head, rest) = BoxV1::read(kind, bytes, object)?;
        if head.form() != Some(self.form) {
            return Err(Error::damaged(
                object,
                "it is encrypted and the store is not, or the other way round",
            ));
        }
        let stored = rest.split_at_checked(head.stored_bytes.get() as usize);
        let (stored, behind) = stored.ok_or_else(|| Error::damaged(object, "it is cut off"))?;
        let payload = match self.form {
            Form::Plain => {
                let fits = self.box_digest(&head, bound, stored) == head.salt;
                fits.then(|| stored.to_vec())
            }
            Form::Sealed => {
                let payload = Payload {
                    msg: stored,
                    aad: head.fixed(),
                };
                let cipher = self.box_cipher(&head, bound);
                cipher.decrypt(&Nonce::default(), payload).ok()
            }
        };
        let what = "it has changed, or belongs to another place";
        Ok((payload.ok_or_else(|| Error::damaged(object, what))?, behind))
    }

    /// A box of an encrypted store has a key of its own: so each uses the nonce zero once.
    fn box_cipher(&self, head: &BoxV1, bound: &[u8]) -> ChaCha20Poly1305 {
        let mut hasher = Hasher::new_keyed(&self.boxes);
        hasher.update(&head.salt).update(bound);
        ChaCha20Poly1305::new(hasher.finalize().as_bytes().into())
    }

    fn box_digest(&self, head: &BoxV1, bound: &[u8], payload: &[u8]) -> [u8; SALT_BYTES] {
        let mut hasher = Hasher::new_keyed(&self.boxes);
        hasher.update(head.fixed());
        hasher.update(&(bound.len() as u64).to_le_bytes());
        hasher.update(bound).update(payload);
        *hasher.finalize().as_bytes()
    }
}

impl fmt::Debug for StoreKeys {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("StoreKeys(..)")
    }
}

#[cfg(test)]
#[path = "keys_test.rs"]
mod keys_test;
