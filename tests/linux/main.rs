//! Stock Linux guests: what a snapshot promises to an operating system. Run directly where KVM can boot Linux,
//! otherwise inside the nested harness (scripts/test.sh decides).

mod disk;
mod guest;
mod life;
mod memory;
mod writers;
