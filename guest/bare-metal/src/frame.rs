//! The content of one frame: a header that names its owner, a body derived from it, and a seal.
//!
//! | word | content |
//! |---|---|
//! | 0 | magic |
//! | 1 | frame number (GFN) |
//! | 2 | writer vCPU, kind of write `<< 8`, number of vCPUs `<< 16` |
//! | 3 | token of the write: sequence number `<< 24`, nonce |
//! | 4 | seed |
//! | 5 | link: the token that another vCPU had published when this write began |
//! | 6 | hash of link and body base |
//! | 7..=510 | body: base `^ index * SPREAD` |
//! | 511 | seal over token, seed and GFN |
//!
//! Words are written in ascending order, so a write that is under way is a prefix.

use crate::FRAME_WORDS;
use crate::mix::{SPREAD, mix};

/// Word 0 of every written frame, "nvvmfram".
pub const MAGIC: u64 = u64::from_le_bytes(*b"nvvmfram");
/// Index of the word that holds the token.
pub const TOKEN_WORD: usize = 3;
const NONCE_BITS: u32 = 24;

/// One write's number and a nonce that no second execution of the same write repeats: a vCPU that
/// was restored and writes its write `n` again leaves another token than the one that another
/// timeline has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token(pub u64);

impl Token {
    /// The token of sequence number `seq` (below 2^40) with the low bits of `entropy` as nonce.
    pub const fn new(seq: u64, entropy: u64) -> Self {
        Self((seq << NONCE_BITS) | (entropy & ((1 << NONCE_BITS) - 1)))
    }

    /// The sequence number.
    pub const fn seq(self) -> u64 {
        self.0 >> NONCE_BITS
    }
}

/// The command that wrote a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `fill`: sequence number 0.
    Fill,
    /// `churn`: sequence number is the vCPU's write number plus 1.
    Churn,
    /// `write`: sequence number is the command's number, from 1.
    Write,
}

/// The last write to a frame, as far as it can be known from outside: all but nonce and link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The frame's number.
    pub gfn: u64,
    /// The vCPU that wrote it.
    pub writer: u64,
    /// Number of vCPUs.
    pub vcpus: u64,
    /// The kind of write.
    pub kind: Kind,
    /// The write's sequence number.
    pub seq: u64,
    /// The seed of the write.
    pub seed: u64,
}

impl Stamp {
    const fn identity(&self) -> u64 {
        self.writer | ((self.kind as u64) << 8) | (self.vcpus << 16)
    }

    const fn base(&self, token: Token) -> u64 {
        mix(mix(self.seed ^ mix(self.gfn)) ^ mix(token.0 ^ (self.identity() << 40)))
    }

    const fn seal(&self, token: Token) -> u64 {
        !token.0 ^ mix(self.seed ^ self.gfn.wrapping_mul(SPREAD))
    }
}

/// Everything that one write puts into a frame.
#[derive(Debug, Clone, Copy)]
pub struct Content {
    stamp: Stamp,
    token: Token,
    link: Token,
    base: u64,
}

impl Content {
    /// The content of the write `stamp` with this token and link. `fill` and `write` use nonce and
    /// link 0.
    pub const fn new(stamp: Stamp, token: Token, link: Token) -> Self {
        Self {
            stamp,
            token,
            link,
            base: stamp.base(token),
        }
    }

    /// The frame's word number `index`.
    #[inline]
    pub const fn word(&self, index: usize) -> u64 {
        match index {
            0 => MAGIC,
            1 => self.stamp.gfn,
            2 => self.stamp.identity(),
            TOKEN_WORD => self.token.0,
            4 => self.stamp.seed,
            5 => self.link.0,
            6 => mix(self.base ^ self.link.0),
            511 => self.stamp.seal(self.token),
            _ => self.base ^ (index as u64).wrapping_mul(SPREAD),
        }
    }
}

/// A kind of mismatch in a frame or in the order of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum What {
    /// Should have been written and reads as zero.
    Zero = 1,
    /// The frame is not one of this program at all.
    Magic,
    /// The content of another frame.
    Foreign,
    /// Written by another vCPU than its owner.
    Writer,
    /// An earlier write: the last one was lost.
    Stale,
    /// A write that had not happened yet.
    Future,
    /// Another seed: a frame of an earlier fill.
    Seed,
    /// Parts of different writes.
    Torn,
    /// Has seen another vCPU do what that vCPU has not done.
    Causal,
    /// The journal contradicts itself.
    Journal,
    /// Should never have been written and is not zero.
    NotZero,
    /// A vCPU's own registers changed under it.
    Registers,
}

impl What {
    /// The name on the console.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Magic => "magic",
            Self::Foreign => "foreign",
            Self::Writer => "writer",
            Self::Stale => "stale",
            Self::Future => "future",
            Self::Seed => "seed",
            Self::Torn => "torn",
            Self::Causal => "causal",
            Self::Journal => "journal",
            Self::NotZero => "not-zero",
            Self::Registers => "registers",
        }
    }

    /// The kind of mismatch with this number in the journal.
    pub fn from_code(code: u64) -> Option<Self> {
        const ALL: [What; 12] = [
            What::Zero,
            What::Magic,
            What::Foreign,
            What::Writer,
            What::Stale,
            What::Future,
            What::Seed,
            What::Torn,
            What::Causal,
            What::Journal,
            What::NotZero,
            What::Registers,
        ];
        ALL.into_iter().find(|what| *what as u64 == code)
    }
}

/// Checks the words of one frame, in ascending order, against the write that it must hold.
#[derive(Debug, Clone, Copy)]
pub struct FrameChecker {
    stamp: Stamp,
    content: Content,
}

impl FrameChecker {
    /// A checker of a frame whose last write was `stamp`.
    pub const fn new(stamp: Stamp) -> Self {
        let token = Token::new(stamp.seq, 0);
        Self {
            stamp,
            content: Content::new(stamp, token, Token(0)),
        }
    }

    /// Checks that `word` is the right one at `index`. Learns the token from word 3 and the link
    /// from word 5.
    #[inline]
    pub fn word(&mut self, index: usize, word: u64) -> Result<(), What> {
        if index >= 6 {
            return if word == self.content.word(index) {
                Ok(())
            } else {
                Err(What::Torn)
            };
        }
        self.header(index, word)
    }

    /// The token that was found (valid after word 3).
    pub const fn token(&self) -> Token {
        self.content.token
    }

    /// The link that was found (valid after word 5).
    pub const fn link(&self) -> Token {
        self.content.link
    }

    fn header(&mut self, index: usize, word: u64) -> Result<(), What> {
        let churn = matches!(self.stamp.kind, Kind::Churn);
        match index {
            0 if word == 0 => return Err(What::Zero),
            0 if word != MAGIC => return Err(What::Magic),
            1 if word != self.stamp.gfn => return Err(What::Foreign),
            2 if word != self.stamp.identity() => return Err(self.wrong_identity(word)),
            TOKEN_WORD => {
                let token = Token(word);
                if token.seq() != self.stamp.seq {
                    return Err(if token.seq() < self.stamp.seq {
                        What::Stale
                    } else {
                        What::Future
                    });
                }
                if !churn && token.0 != self.content.token.0 {
                    return Err(What::Torn);
                }
                self.content = Content::new(self.stamp, token, Token(0));
            }
            4 if word != self.stamp.seed => return Err(What::Seed),
            5 if !churn && word != 0 => return Err(What::Torn),
            5 => self.content.link = Token(word),
            _ => {}
        }
        Ok(())
    }

    /// The frame was written last by another vCPU, or by another kind of command, than it must have
    /// been.
    fn wrong_identity(&self, word: u64) -> What {
        let same_writer = (word ^ self.stamp.identity()) & !0xff00 == 0;
        if !same_writer {
            What::Writer
        } else if word & 0xff00 == (Kind::Fill as u64) << 8 {
            What::Stale
        } else if matches!(self.stamp.kind, Kind::Fill) {
            What::Future
        } else {
            What::Writer
        }
    }
}

/// Checks a frame that a write was under way to: a prefix of `new`, the rest of the write `old`.
///
/// Returns how many words of `new` are there. `read` gives the frame's words.
pub fn check_under_way(
    read: impl Fn(usize) -> u64,
    old: Stamp,
    new: &Content,
) -> Result<usize, What> {
    let done = (0..FRAME_WORDS)
        .find(|&i| read(i) != new.word(i))
        .unwrap_or(FRAME_WORDS);
    // The words that both writes have in common belong to either, so only tell the old write's own
    // words apart.
    let mut checker = FrameChecker::new(old);
    if done > TOKEN_WORD {
        // The old token is overwritten. Its seal, the last word to go, still has it.
        let token = Token(!(read(FRAME_WORDS - 1) ^ mix(old.seed ^ old.gfn.wrapping_mul(SPREAD))));
        if done == FRAME_WORDS {
            return Ok(done);
        }
        if token.seq() != old.seq
            || (!matches!(old.kind, Kind::Churn) && token.0 != checker.token().0)
        {
            return Err(What::Torn);
        }
        checker.content = Content::new(old, token, Token(0));
    }
    for index in done..FRAME_WORDS {
        let link_is_lost = index == 6 && done == 6 && matches!(old.kind, Kind::Churn);
        if !link_is_lost {
            checker.word(index, read(index))?;
        }
    }
    Ok(done)
}

#[cfg(test)]
#[path = "frame_test.rs"]
mod frame_test;
