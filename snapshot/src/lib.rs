//! placeholder until the pool branch is merged

/// Size of a chunk in bytes.
pub const CHUNK_SIZE_BYTES: u64 = 2 << 20;
