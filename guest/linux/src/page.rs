//! The pattern of one page of checkable memory.
//!
//! Every word of a page follows from (seed, page index, epoch), so a page that is torn, too old,
//! ahead of its time or another page's is told from the right one wherever the damage is. The first
//! words name the page in clear, so that a foreign page also says where it belongs.

/// Bytes of a page.
pub const PAGE_SIZE_BYTES: usize = 4096;
const WORDS: usize = PAGE_SIZE_BYTES / 8;
/// "nvvmwit1": the first word of every page that was written by us.
const MAGIC: u64 = u64::from_le_bytes(*b"nvvmwit1");
const HEADER_WORDS: usize = 4;

/// One page of memory, where the kernel cannot split it.
#[repr(C, align(4096))]
pub struct Page([u64; WORDS]);

/// The expected content of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Seed of the fill, chosen by the host.
    pub seed: u64,
    /// Position of the page in its memory.
    pub index: u64,
    /// Number of times that the page has been rewritten.
    pub epoch: u64,
}

/// Content of a page that is not what its label says.
#[derive(Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The page was never written.
    Empty,
    /// A complete page with another label.
    Foreign(Label),
    /// Neither: the position of the first word that is wrong for the expected label, and how many
    /// are.
    Torn {
        /// First wrong word.
        word: usize,
        /// Number of wrong words.
        wrong: usize,
    },
}

impl std::fmt::Display for Mismatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Mismatch::Empty => write!(f, "empty"),
            Mismatch::Foreign(label) => {
                write!(
                    f,
                    "foreign seed={} index={} epoch={}",
                    label.seed, label.index, label.epoch
                )
            }
            Mismatch::Torn { word, wrong } => write!(f, "torn word={word} wrong={wrong}"),
        }
    }
}

impl Label {
    fn header(self) -> [u64; HEADER_WORDS] {
        [MAGIC, self.seed, self.index, self.epoch]
    }

    fn base(self) -> u64 {
        mix(mix(mix(self.seed) ^ self.index) ^ self.epoch)
    }

    fn words(self) -> impl Iterator<Item = u64> {
        let base = self.base();
        let body = (HEADER_WORDS as u64..WORDS as u64).map(move |word| mix_word(base, word));
        self.header().into_iter().chain(body)
    }
}

/// The finaliser of splitmix64.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Cheaper than [`mix`], which matters on an emulated CPU: distinct per word, dependent on every
/// bit of `base`.
fn mix_word(base: u64, word: u64) -> u64 {
    base.wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .rotate_left(17)
        ^ base
}

impl Page {
    /// A page that was never written.
    pub const EMPTY: Page = Page([0; WORDS]);

    /// Writes the whole page.
    pub fn write(&mut self, label: Label) {
        for (slot, word) in self.0.iter_mut().zip(label.words()) {
            *slot = word;
        }
        // The compiler must not keep the words for a later check, which has to read memory.
        std::hint::black_box(&mut self.0);
    }

    /// Compares the whole page with what `label` says.
    pub fn check(&self, label: Label) -> Result<(), Mismatch> {
        let words = std::hint::black_box(&self.0);
        if words
            .iter()
            .zip(label.words())
            .all(|(have, want)| *have == want)
        {
            return Ok(());
        }
        Err(self.diagnose(label))
    }

    fn diagnose(&self, label: Label) -> Mismatch {
        if self.0.iter().all(|word| *word == 0) {
            return Mismatch::Empty;
        }
        let other = Label {
            seed: self.0[1],
            index: self.0[2],
            epoch: self.0[3],
        };
        if self
            .0
            .iter()
            .zip(other.words())
            .all(|(have, want)| *have == want)
        {
            return Mismatch::Foreign(other);
        }
        let wrong = self
            .0
            .iter()
            .zip(label.words())
            .enumerate()
            .filter(|(_, (have, want))| *have != want);
        let positions: Vec<usize> = wrong.map(|(position, _)| position).collect();
        Mismatch::Torn {
            word: positions.first().copied().unwrap_or(0),
            wrong: positions.len(),
        }
    }
}

#[cfg(test)]
#[path = "page_test.rs"]
mod page_test;
