//! Modes of a terminal (termios(3)), and changes of them.

use std::io;
use std::os::fd::BorrowedFd;

use super::unreadable;
use crate::sys::{self, ModeBytes};

/// Places of the words of flags in `struct termios2`.
pub const INPUT: usize = 0;
pub const OUTPUT: usize = 4;
pub const LOCAL: usize = 12;
const DISCIPLINE: usize = 16;
const CHARACTERS: usize = 17;
const CHARACTERS_END: usize = 36;

/// All modes of a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Modes(pub ModeBytes);

impl Modes {
    /// Those of a record.
    pub fn of(bytes: &[u8]) -> io::Result<Self> {
        bytes.try_into().map(Self).map_err(|_| unreadable())
    }

    /// Gives a terminal these modes.
    pub fn set(&self, terminal: BorrowedFd) -> io::Result<()> {
        sys::set_all_modes(terminal, &self.0)
    }

    /// True if a flag of a word is set.
    pub fn has(&self, at: usize, flag: u32) -> bool {
        let word = [self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]];
        u32::from_ne_bytes(word) & flag != 0
    }

    /// The same with other flags in a word.
    pub fn with_word(mut self, at: usize, value: u32) -> Self {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    /// The same with another special character.
    pub fn with_character(mut self, which: usize, byte: u8) -> Self {
        self.0[CHARACTERS + which] = byte;
        self
    }

    /// A special character; 0: none.
    pub fn character(&self, which: usize) -> u8 {
        self.0[CHARACTERS + which]
    }

    /// The number of the line discipline.
    pub fn discipline(&self) -> u8 {
        self.0[DISCIPLINE]
    }

    /// True if the terminal gives its readers lines.
    pub fn reads_lines(&self) -> bool {
        self.has(LOCAL, libc::ICANON)
    }

    /// The same for bytes that nothing happens to: none is special, and none is echoed.
    pub fn plain(mut self, by_lines: bool) -> Self {
        self.0[CHARACTERS..CHARACTERS_END].fill(0);
        let plain = self.with_word(INPUT, 0).with_word(OUTPUT, 0);
        match by_lines {
            true => plain.with_word(LOCAL, libc::ICANON | libc::IEXTEN),
            false => plain.with_word(LOCAL, 0).with_character(libc::VMIN, 1),
        }
    }
}
