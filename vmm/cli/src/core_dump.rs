//! Core dumps of this process: they hold no memory, neither a guest's nor a key.

use std::fs;

/// Leaves all memory out of a core dump of this process (`coredump_filter`, core(5)). To be called
/// before a pool is mapped or a key is read.
///
/// The filter is the process's and not a mapping's: it holds for mappings that a copy-on-write
/// engine makes later, and costs nothing at a write fault. `MADV_DONTDUMP` would be lost with each
/// of them.
pub fn leave_memory_out() {
    // Without /proc, or in a kernel that dumps no core, there is nothing to set.
    if let Err(error) = fs::write("/proc/self/coredump_filter", "0") {
        tracing::debug!(%error, "cannot leave memory out of core dumps");
    }
}
