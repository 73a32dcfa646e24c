//! `nvvmm snapshots` and `nvvmm rm`.

use super::args::PoolOption;
use crate::control::ControlError;

/// `nvvmm snapshots`.
pub fn list(pool: &PoolOption, json: bool) -> Result<(), ControlError> {
    let _ = (pool, json);
    Err(ControlError::failed("this build has no pools yet"))
}

/// `nvvmm rm`.
pub fn remove(names: &[String], pool: &PoolOption, json: bool) -> Result<(), ControlError> {
    let _ = (names, pool, json);
    Err(ControlError::failed("this build has no pools yet"))
}
