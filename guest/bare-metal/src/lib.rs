//! The pure part of nvvmm's bare-metal test guest: what every frame of guest memory must hold at
//! one instant.
//!
//! Every vCPU owns every n-th frame and writes its frames in an order that is a pure function of a
//! seed, and it journals (in guest memory) which write it has begun and which it has finished. So
//! the memory of *one instant* can be recomputed from the journal alone: writes before the
//! journaled one are there in full, the one under way may be there up to a word, later ones are not
//! there at all. Anything else is a [`verify::Mismatch`].
//!
//! The guest program checks itself with this; a host test can do the same with the frames of a
//! snapshot, by implementing [`Memory`] for them and calling [`verify::instant`].
#![no_std]

pub mod boot;
pub mod command;
pub mod frame;
pub mod journal;
pub mod mix;
pub mod order;
pub mod pace;
pub mod plan;
pub mod verify;

/// Bytes of a frame.
pub const FRAME_BYTES: u64 = 4096;
/// 64-bit words of a frame.
pub const FRAME_WORDS: usize = 512;
/// The most vCPUs that the guest program runs on.
pub const VCPUS_MAX: usize = 8;

/// Guest physical memory, read a word at a time.
pub trait Memory {
    /// The little-endian word at `gpa`, a multiple of 8. Beyond the end of RAM everything reads as
    /// 0.
    fn word(&self, gpa: u64) -> u64;
}
