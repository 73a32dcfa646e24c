//! Bytes of an object store: manifests, indexes of packs, lists of condemned packs, pieces.
//!
//! The first byte chooses what the rest is. Digests are made right. What is taken for good is
//! written again, and must be read as the same.

use nvvmm_remote::fuzzing::{read_anything, read_condemned, read_index, read_manifest};

use crate::script::Script;

/// Runs one input.
pub fn run(input: &[u8]) {
    let mut script = Script::new(input);
    match script.u8() % 4 {
        0 => {
            let head_bytes = script.u16();
            let head = script.bytes(usize::from(head_bytes));
            read_manifest(head, script.bytes(usize::MAX));
        }
        1 => {
            let pack_bytes = script.u64();
            read_index(script.bytes(usize::MAX), pack_bytes);
        }
        2 => {
            read_condemned(script.bytes(usize::MAX));
        }
        _ => read_anything(script.bytes(usize::MAX)),
    }
}
