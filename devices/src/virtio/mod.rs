//! Virtio 1.2 devices behind the MMIO transport.
//!
//! A device is a [`VirtioDevice`], and its settings are a [`DeviceSpec`], which makes it. The list
//! of all kinds, and the steps to add one, are in `vmm/src/spec/mod.rs`.

mod balloon;
mod block;
mod chain;
mod dax;
mod declared;
mod device;
mod lifecycle;
mod mmio;
mod net;
mod pmem;
mod queue;
mod rate;
mod rng;
mod state;
mod vsock;
mod worker;

pub use balloon::{
    Balloon, BalloonHost, BalloonSpec, BalloonStateV1, BalloonStatus, FreePages, FreeRange,
    GuestMemoryStatistics,
};
pub use block::{
    Block, BlockError, BlockOptions, BlockStateV1, ContentStamp, DiskBackend, DiskError,
    DiskLimits, DiskSource, DiskSpec, RawDisk, SECTOR_BYTES, Since,
};
pub use chain::{Buffers, Chain, ChainError};
pub use dax::{DaxDisk, DaxDiskStateV1};
pub use declared::{DeviceError, DeviceHost, DeviceId, DeviceSpec};
pub use device::{Served, VirtioDevice};
pub use mmio::{MMIO_LEN, MmioTransport, QUEUE_NOTIFY_OFFSET, TransportError};
pub use net::{
    FRAME_BYTES_MAX, HEADER_BYTES, LastWords, Mac, Net, NetBackend, NetCounters, NetOptions,
    NetPolicy, NetPort, NetRate, NetSource, NetSpec, NetStateV1, NoNetwork, Offloads,
    PACKET_BYTES_MAX, PAIRS_MAX, Protocol, Published, StreamBackend, TapBackend, given_descriptor,
};
pub use pmem::{Pmem, PmemBacking, PmemRange, PmemSpec, PmemStateV1};
pub use rate::DiskRate;
pub use rng::{Rng, RngSpec, RngStateV1};
pub use state::{QueueStateV1, VirtioMmioStateV1};
pub use vsock::{GUEST_CID, Vsock, VsockSpec, VsockStateV1};
pub use worker::QueueSubscriber;

#[cfg(test)]
mod test_driver;
