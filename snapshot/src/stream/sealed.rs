//! Sealed streams: encrypted and authenticated with a key that sender and receiver have.
//!
//! ChaCha20-Poly1305 in the STREAM construction (crate `aead-stream`): pieces of 64 KiB that cannot
//! be changed, left out, repeated or put in another order, the last of which is known to be the
//! last. Each stream has a key of its own, derived from the key file's and a random salt, so
//! that no nonce is ever used twice.

use std::io::{Error as IoError, ErrorKind, Read, Write};

use aead_stream::{DecryptorBE32, EncryptorBE32, Nonce, StreamBE32};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};

use super::record::{not_written, read_exact};
use crate::error::{Error, Result};
use crate::random::fill_random;

/// The first bytes of every sealed stream.
pub(crate) const MAGIC: [u8; 8] = *b"NVVMSEAL";
/// Version of their format.
pub(crate) const VERSION: u32 = 1;
/// Plain bytes of a piece; the last one may have fewer.
pub(crate) const PIECE_BYTES: usize = 64 << 10;
const TAG_BYTES: usize = 16;
/// Set in the length of the last piece.
const LAST: u32 = 1 << 31;
/// Contexts of key derivation: for the keys of streams, and for the checks of keys.
pub(crate) const KEY_CONTEXT: &str = "nvvmm 2026-11-28 key of one sealed snapshot stream";
pub(crate) const CHECK_CONTEXT: &str =
    "nvvmm 2026-11-28 check of the key of a sealed snapshot stream";

/// The key that sender and receiver have.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// From the text of a key file: 64 hexadecimal digits, with white space around them.
    pub fn from_text(text: &str) -> Option<Key> {
        let digits = text.trim().as_bytes();
        let value = |digit: u8| char::from(digit).to_digit(16);
        if digits.len() != 64 {
            return None;
        }
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (value(pair[0])? << 4 | value(pair[1])?) as u8;
        }
        Some(Key(key))
    }

    /// A key for one purpose: of this one, the purpose's context and a salt.
    pub fn derived(&self, context: &str, salt: &[u8; 32]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key(context);
        hasher.update(&self.0);
        hasher.update(salt);
        *hasher.finalize().as_bytes()
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Key(..)")
    }
}

fn stream_nonce() -> Nonce<ChaCha20Poly1305, StreamBE32<ChaCha20Poly1305>> {
    Nonce::<ChaCha20Poly1305, StreamBE32<ChaCha20Poly1305>>::default()
}

/// Seals what is written to it.
pub struct Sealing<W: Write> {
    out: W,
    encryptor: Option<EncryptorBE32<ChaCha20Poly1305>>,
    piece: Vec<u8>,
    bytes: u64,
}

impl<W: Write> Sealing<W> {
    /// Begins a sealed stream.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn begin(mut out: W, key: &Key) -> Result<Sealing<W>> {
        let mut salt = [0; 32];
        fill_random(&mut salt)?;
        let mut start = Vec::with_capacity(80);
        start.extend_from_slice(&MAGIC);
        start.extend_from_slice(&VERSION.to_le_bytes());
        start.extend_from_slice(&0u32.to_le_bytes());
        start.extend_from_slice(&salt);
        start.extend_from_slice(&key.derived(CHECK_CONTEXT, &salt));
        out.write_all(&start).map_err(not_written)?;
        let cipher = ChaCha20Poly1305::new(&key.derived(KEY_CONTEXT, &salt).into());
        Ok(Sealing {
            out,
            encryptor: Some(EncryptorBE32::from_aead(cipher, &stream_nonce())),
            piece: Vec::with_capacity(PIECE_BYTES),
            bytes: start.len() as u64,
        })
    }

    /// Writes the last piece; how many bytes there are in all.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self) -> Result<u64> {
        self.put(true)
            .and_then(|()| self.out.flush())
            .map_err(not_written)?;
        Ok(self.bytes)
    }

    fn put(&mut self, last: bool) -> std::io::Result<()> {
        let failed = |_| IoError::other("the stream is too long to be sealed");
        let sealed = if last {
            let encryptor = self.encryptor.take();
            let encryptor =
                encryptor.ok_or_else(|| IoError::other("the sealed stream has ended"))?;
            encryptor.encrypt_last(&self.piece[..]).map_err(failed)?
        } else {
            let encryptor = self.encryptor.as_mut();
            let encryptor =
                encryptor.ok_or_else(|| IoError::other("the sealed stream has ended"))?;
            encryptor.encrypt_next(&self.piece[..]).map_err(failed)?
        };
        self.piece.clear();
        let length = sealed.len() as u32 | if last { LAST } else { 0 };
        self.out.write_all(&length.to_le_bytes())?;
        self.out.write_all(&sealed)?;
        self.bytes += 4 + sealed.len() as u64;
        Ok(())
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // A full piece waits until it is known not to be the last.
        if self.piece.len() == PIECE_BYTES {
            self.put(false)?;
        }
        let count = bytes.len().min(PIECE_BYTES - self.piece.len());
        self.piece.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Opens a sealed stream. Gives out no byte that was not written with the key.
pub struct Opening<R: Read> {
    input: R,
    decryptor: Option<DecryptorBE32<ChaCha20Poly1305>>,
    piece: Vec<u8>,
    /// Bytes of the piece that were given out.
    given: usize,
    bytes: u64,
}

impl<R: Read> Opening<R> {
    /// Reads the beginning of a sealed stream.
    ///
    /// # Errors
    /// [`Error::StreamNotSealed`], [`Error::NotAStream`], [`Error::WrongKey`],
    /// [`Error::StreamVersion`], [`Error::StreamCut`], [`Error::Io`].
    pub fn begin(mut input: R, key: &Key) -> Result<Opening<R>> {
        let mut start = [0; 16];
        read_exact(&mut input, &mut start)?;
        match start[..8].try_into() {
            Ok(MAGIC) => {}
            Ok(super::record::MAGIC) => return Err(Error::StreamNotSealed),
            _ => return Err(Error::NotAStream),
        }
        let word = |at: usize| {
            u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]])
        };
        if word(8) != VERSION {
            return Err(Error::StreamVersion {
                found: word(8),
                expected: VERSION,
            });
        }
        if word(12) != 0 {
            return Err(Error::stream_damaged("its first bytes are damaged"));
        }
        let (mut salt, mut check) = ([0; 32], [0; 32]);
        read_exact(&mut input, &mut salt)?;
        read_exact(&mut input, &mut check)?;
        if key.derived(CHECK_CONTEXT, &salt) != check {
            return Err(Error::WrongKey);
        }
        let cipher = ChaCha20Poly1305::new(&key.derived(KEY_CONTEXT, &salt).into());
        Ok(Opening {
            input,
            decryptor: Some(DecryptorBE32::from_aead(cipher, &stream_nonce())),
            piece: Vec::new(),
            given: 0,
            bytes: 80,
        })
    }

    /// Bytes read so far, those of the seal included.
    pub fn bytes_read(&self) -> u64 {
        self.bytes
    }

    /// Opens one piece more. After the last one nothing may follow.
    fn next_piece(&mut self) -> std::io::Result<()> {
        let forged = || {
            IoError::new(
                ErrorKind::InvalidData,
                "the seal is broken: somebody without the key has changed it",
            )
        };
        let mut length = [0; 4];
        self.input.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length);
        let (last, length) = (length & LAST != 0, (length & !LAST) as usize);
        if !(TAG_BYTES..=PIECE_BYTES + TAG_BYTES).contains(&length) {
            return Err(forged());
        }
        let mut sealed = vec![0; length];
        self.input.read_exact(&mut sealed)?;
        self.bytes += 4 + length as u64;
        let opened = match (last, self.decryptor.as_mut()) {
            (false, Some(decryptor)) => decryptor.decrypt_next(&sealed[..]),
            _ => match self.decryptor.take() {
                Some(decryptor) => decryptor.decrypt_last(&sealed[..]),
                None => return Err(forged()),
            },
        };
        self.piece = opened.map_err(|_| forged())?;
        self.given = 0;
        if last && self.input.read(&mut [0])? != 0 {
            return Err(IoError::new(
                ErrorKind::InvalidData,
                "something follows the end of its seal",
            ));
        }
        Ok(())
    }
}

impl<R: Read> Read for Opening<R> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        while self.given == self.piece.len() {
            if self.decryptor.is_none() {
                return Ok(0);
            }
            self.next_piece()?;
        }
        let left = &self.piece[self.given..];
        let count = left.len().min(into.len());
        into[..count].copy_from_slice(&left[..count]);
        self.given += count;
        Ok(count)
    }
}

impl<W: Write> std::fmt::Debug for Sealing<W> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Sealing")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl<R: Read> std::fmt::Debug for Opening<R> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Opening")
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
