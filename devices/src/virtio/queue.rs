//! The registers of one queue.

use virtio_queue::{Queue, QueueState, QueueT};

use super::state::QueueStateV1;

/// A 64-bit address register that is written in two halves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Half {
    Low,
    High,
}

impl Half {
    pub(super) fn set(self, register: &mut u64, value: u32) {
        let value = u64::from(value);
        *register = match self {
            Self::Low => (*register & !0xffff_ffff) | value,
            Self::High => (*register & 0xffff_ffff) | (value << 32),
        };
    }
}

/// Registers of one queue, as the driver has written them. The working [`Queue`] is another object,
/// which exists only while the driver is ready. So no write of the driver reaches a queue that is
/// in use.
#[derive(Clone, Debug)]
pub(super) struct QueueRegisters {
    pub(super) max_size: u16,
    pub(super) size: u16,
    pub(super) ready: bool,
    pub(super) desc_table: u64,
    pub(super) avail_ring: u64,
    pub(super) used_ring: u64,
}

impl QueueRegisters {
    pub(super) fn new(max_size: u16) -> Self {
        Self {
            max_size,
            size: max_size,
            ready: false,
            desc_table: 0,
            avail_ring: 0,
            used_ring: 0,
        }
    }

    /// The working queue for these registers, starting at the given ring positions. `None` when the
    /// size or an alignment is not allowed.
    pub(super) fn build(&self, next_avail: u16, next_used: u16, event_idx: bool) -> Option<Queue> {
        let state = QueueState {
            max_size: self.max_size,
            next_avail,
            next_used,
            event_idx_enabled: event_idx,
            size: self.size,
            ready: true,
            desc_table: self.desc_table,
            avail_ring: self.avail_ring,
            used_ring: self.used_ring,
        };
        Queue::try_from(state).ok()
    }

    pub(super) fn save(&self, queue: Option<&Queue>) -> QueueStateV1 {
        QueueStateV1 {
            max_size: self.max_size,
            size: self.size,
            ready: self.ready,
            desc_table: self.desc_table,
            avail_ring: self.avail_ring,
            used_ring: self.used_ring,
            next_avail: queue.map_or(0, QueueT::next_avail),
            next_used: queue.map_or(0, QueueT::next_used),
        }
    }

    pub(super) fn restore(state: &QueueStateV1) -> Self {
        Self {
            max_size: state.max_size,
            size: state.size,
            ready: state.ready,
            desc_table: state.desc_table,
            avail_ring: state.avail_ring,
            used_ring: state.used_ring,
        }
    }
}
