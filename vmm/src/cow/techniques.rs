//! What the engine does to be fast and could do without.

/// Does without what it names, with commas: for tests, which must pass with each of them on and off.
const WITHOUT_VARIABLE: &str = "NVVMM_TEST_WITHOUT";

/// Which of them are used: all, but where a test or a measurement of what one is worth does without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Techniques {
    /// Frames are armed ahead of a snapshot's pause.
    pub arm_ahead: bool,
    /// Frames that are written in epoch after epoch are copied ahead of the guest.
    pub copy_hot: bool,
    /// The frames of one write fault become more as writes go on where the last ones ended.
    pub grow_clusters: bool,
}

impl Default for Techniques {
    fn default() -> Self {
        Self {
            arm_ahead: true,
            copy_hot: true,
            grow_clusters: true,
        }
    }
}

impl Techniques {
    /// All but those that the environment names.
    ///
    /// # Errors
    /// The name that is none.
    pub fn from_environment() -> Result<Self, String> {
        match std::env::var(WITHOUT_VARIABLE) {
            Ok(names) => Self::without(&names),
            Err(_) => Ok(Self::default()),
        }
    }

    fn without(names: &str) -> Result<Self, String> {
        let mut left = Self::default();
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            match name {
                "arm-ahead" => left.arm_ahead = false,
                "copy-hot" => left.copy_hot = false,
                "grow-clusters" => left.grow_clusters = false,
                other => {
                    return Err(format!(
                        "{WITHOUT_VARIABLE} names '{other}', which is none of arm-ahead, copy-hot and grow-clusters"
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
