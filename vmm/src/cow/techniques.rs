//! Techniques that make the engine fast, and that it could do without.

use super::CopyPolicy;

/// Switches off the techniques that it names, with commas. Only builds with debug assertions read
/// it: tests must pass with each technique on and off.
const WITHOUT_VARIABLE: &str = "NVVMM_TEST_WITHOUT";

/// Techniques in use: all, except in tests and in measurements of the worth of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Techniques {
    /// Arms frames ahead of a snapshot's pause.
    pub arm_ahead: bool,
    /// Copies frames ahead of the guest that are written in epoch after epoch.
    pub copy_hot: bool,
    /// Leaves writes to memory that is mapped privately to the kernel's copy-on-write, until the
    /// next snapshot.
    pub leave_unarmed: bool,
    /// Leaves a chunk to the kernel's copy-on-write at its first write after a snapshot, where the
    /// guest writes here and there.
    pub leave_again: bool,
    /// Copies whole chunks of a snapshot for a guest that writes one chunk after the other, before
    /// it touches them.
    pub prepare_whole: bool,
    /// Copies a chunk as a whole of which the guest is likely to write most.
    pub dense_chunks: bool,
    /// Copies the chunks behind those that the guest has written one after the other.
    pub next_chunks: bool,
    /// Takes whole chunks as huge pages of a tmpfs.
    pub huge_pages: bool,
    /// Number of frames that are copied for one write.
    pub copy_policy: CopyPolicy,
    /// Rewinds a VM in the machine that it has.
    pub rewind_in_place: bool,
}

impl Default for Techniques {
    fn default() -> Self {
        Self {
            arm_ahead: true,
            copy_hot: true,
            leave_unarmed: true,
            leave_again: true,
            prepare_whole: true,
            dense_chunks: true,
            next_chunks: true,
            huge_pages: true,
            copy_policy: CopyPolicy::default(),
            rewind_in_place: true,
        }
    }
}

impl Techniques {
    /// All techniques, but in a build with debug assertions those that the environment names.
    ///
    /// # Errors
    /// A message with the unknown name.
    pub fn from_environment() -> Result<Self, String> {
        if cfg!(debug_assertions)
            && let Ok(names) = std::env::var(WITHOUT_VARIABLE)
        {
            return Self::without(&names);
        }
        Ok(Self::default())
    }

    fn without(names: &str) -> Result<Self, String> {
        let mut left = Self::default();
        for name in names
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            match name {
                "arm-ahead" => left.arm_ahead = false,
                "copy-hot" => left.copy_hot = false,
                "leave-unarmed" => left.leave_unarmed = false,
                "leave-again" => left.leave_again = false,
                "prepare-whole" => left.prepare_whole = false,
                "dense-chunks" => left.dense_chunks = false,
                "next-chunks" => left.next_chunks = false,
                "huge-pages" => left.huge_pages = false,
                "grow-clusters" => left.copy_policy.clusters_grow = false,
                "lone-frames" => left.copy_policy.single_frames = false,
                "rewind-in-place" => left.rewind_in_place = false,
                other => {
                    return Err(format!(
                        "{WITHOUT_VARIABLE} names '{other}', which is none of arm-ahead, copy-hot, \
                         leave-unarmed, leave-again, prepare-whole, dense-chunks, next-chunks, \
                         huge-pages, grow-clusters, lone-frames and rewind-in-place"
                    ));
                }
            }
        }
        Ok(left)
    }
}

#[cfg(test)]
#[path = "techniques_test.rs"]
mod techniques_test;
