//! Guest RAM as host address space.
//!
//! RAM is one reservation of host virtual addresses, linear in *RAM offset* (guest physical
//! addresses without the hole below 4 GiB). What is mapped at each 2 MiB chunk of it changes under
//! the guest's feet (module [`crate::cow`]); the addresses never do, so KVM's memslots and the
//! devices keep them for the VM's life.

mod layout;
mod ram;
mod region;
mod written;

pub use layout::{HIGH_RAM_START, LOW_RAM_END, RamRange, gpa_of, ram_offset_of, ram_ranges};
pub use ram::{GuestRam, MemoryError, RamSlot};
pub use region::PoolRegion;
pub use written::{WriteLog, WrittenFrames};

/// Guest memory as vm-memory and the devices see it.
pub type GuestMemory = vm_memory::GuestRegionCollection<PoolRegion>;

#[cfg(test)]
mod memory_test;
#[cfg(test)]
mod written_test;
