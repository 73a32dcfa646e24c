//! What the engine does to be fast and could do without.

use super::CopyPolicy;

/// Switches off the techniques that it names, with commas. Only builds with debug assertions read
/// it: tests must pass with each technique on and off.
const WITHOUT_VARIABLE: &str = "NVVMM_TEST_WITHOUT";

/// Which of them are used: all, but where a test or a measurement of what one is worth does
/// without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Techniques {
    /// Frames are armed ahead of a snapshot's pause.
    pub arm_ahead: bool,
    /// Frames that are written in epoch after epoch are copied ahead of the guest.
    pub copy_hot: bool,
    /// How much is copied for one write.
    pub copy_policy: CopyPolicy,
}

impl Default for Techniques {
    fn default() -> Self {
        Self {
            arm_ahead: true,
            copy_hot: true,
            copy_policy: CopyPolicy::default(),
        }
    }
}

impl Techniques {
    /// All techniques, but in a build with debug assertions those that the environment names.
    ///
    /// # Errors
    /// A name that is no technique's.
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
                "grow-clusters" => left.copy_policy.clusters_grow = false,
                "lone-frames" => left.copy_policy.lone_frames = false,
                other => {
                    return Err(format!(
                        "{WITHOUT_VARIABLE} names '{other}', which is none of arm-ahead, copy-hot, grow-clusters and lone-frames"
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
