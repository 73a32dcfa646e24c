//! Memory that the guest gives back: what it held must be gone, and all else must stay.

use nvvmm_bare_metal::command::Way;
use nvvmm_bare_metal::{FRAME_BYTES, FRAME_WORDS};

use crate::balloon::{Balloon, PIECE_BYTES, PIECES_MAX};
use crate::jobs::Lane;
use crate::sys;

/// One of so many frames is written.
const STEP: usize = 8;
/// Words of a frame that are written and looked at.
const WORDS: [usize; 2] = [0, FRAME_WORDS - 1];

/// Why memory was not given back.
pub enum Trouble {
    /// There is no balloon.
    NoBalloon,
    /// The device does not answer.
    NoAnswer,
    /// A frame holds something after it was given back.
    Left {
        /// Its number.
        gfn: u64,
        /// A word of it.
        found: u64,
    },
}

/// Memory in whole pieces.
pub struct Giver {
    lane: Lane,
    /// The first piece, and the one behind the last.
    first: u64,
    end: u64,
}

impl Giver {
    /// The memory under test from frame `from` of it on.
    pub fn new(lane: Lane, from: u64) -> Self {
        let first = (lane.first_gfn + from) * FRAME_BYTES;
        let end = (lane.first_gfn + lane.frames) * FRAME_BYTES / PIECE_BYTES;
        let first = first.div_ceil(PIECE_BYTES).min(end);
        Self { lane, first, end }
    }

    /// Number of pieces.
    pub fn pieces(&self) -> u64 {
        self.end - self.first
    }

    /// Writes to each piece of it and gives it back, so many times. It is empty at the end.
    pub fn give(&self, way: Way, rounds: u64) -> Result<(), Trouble> {
        let balloon = Balloon::find().ok_or(Trouble::NoBalloon)?;
        for _ in 0..rounds {
            self.write();
            match way {
                Way::Report => self.report(&balloon)?,
                Way::Balloon => {
                    self.all(|piece| balloon.inflate(piece))?;
                    self.all(|piece| balloon.deflate(piece))?;
                }
            }
            self.must_be_empty()?;
        }
        Ok(())
    }

    /// Reports all of it, whatever it holds.
    pub fn lie(&self) -> Result<(), Trouble> {
        let balloon = Balloon::find().ok_or(Trouble::NoBalloon)?;
        self.report(&balloon)
    }

    fn addresses(&self) -> impl Iterator<Item = u64> + use<> {
        (self.first..self.end).map(|piece| piece * PIECE_BYTES)
    }

    fn all(&self, mut act: impl FnMut(u64) -> bool) -> Result<(), Trouble> {
        match self.addresses().all(&mut act) {
            true => Ok(()),
            false => Err(Trouble::NoAnswer),
        }
    }

    fn report(&self, balloon: &Balloon) -> Result<(), Trouble> {
        let firsts = self.addresses().step_by(PIECES_MAX);
        let end = self.end * PIECE_BYTES;
        for first in firsts {
            let pieces = (first..end).step_by(PIECE_BYTES as usize);
            if !balloon.report(pieces.take(PIECES_MAX)) {
                return Err(Trouble::NoAnswer);
            }
        }
        Ok(())
    }

    fn gfns(&self) -> impl Iterator<Item = u64> + use<> {
        let frames = PIECE_BYTES / FRAME_BYTES;
        (self.first * frames..self.end * frames).step_by(STEP)
    }

    fn write(&self) {
        let mark = sys::tsc() | 1;
        for gfn in self.gfns() {
            let frame = self.lane.ram.frame(gfn);
            WORDS
                .iter()
                .for_each(|word| frame.store(*word, mark ^ gfn << 1));
        }
    }

    fn must_be_empty(&self) -> Result<(), Trouble> {
        for gfn in self.gfns() {
            let frame = self.lane.ram.frame(gfn);
            let mut words = WORDS.iter().map(|word| frame.load(*word));
            if let Some(found) = words.find(|word| *word != 0) {
                return Err(Trouble::Left { gfn, found });
            }
        }
        Ok(())
    }
}
