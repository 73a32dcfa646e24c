//! The link of a card, as its driver sees it.
//!
//! A driver that was restored is to see the link go down and up again: its address may be another
//! by now, and the network is to hear of it. The link is down until the driver has looked, and for
//! a moment more, or for two seconds if it does not look.

use std::cell::Cell;
use std::time::Duration;

use virtio_bindings::virtio_net::{VIRTIO_NET_S_ANNOUNCE, VIRTIO_NET_S_LINK_UP};

/// Time between two looks at a link that is down for a moment.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// Ticks that the link stays down after the driver has looked.
const TICKS_SEEN: u32 = 2;
/// Ticks that the link stays down at most.
const TICKS_MAX: u32 = 20;

/// The link.
#[derive(Debug, Default)]
pub(super) struct Link {
    /// The network is gone, or there is none.
    lost: bool,
    /// The link is down for so many ticks by now; `None`: it is up.
    down: Option<Down>,
    /// The driver is asked to announce its address.
    announce: bool,
    /// The driver is to hear of a change.
    changed: bool,
}

#[derive(Debug, Default)]
struct Down {
    ticks: u32,
    ticks_seen: u32,
    seen: Cell<bool>,
}

impl Link {
    /// A link that is up, or down for good.
    pub(super) fn new(lost: bool) -> Self {
        Self {
            lost,
            ..Self::default()
        }
    }

    pub(super) fn is_up(&self) -> bool {
        !self.lost && self.down.is_none()
    }

    /// The status field.
    pub(super) fn status(&self) -> u16 {
        let announce = if self.announce {
            VIRTIO_NET_S_ANNOUNCE
        } else {
            0
        };
        match self.is_up() {
            true => (VIRTIO_NET_S_LINK_UP | announce) as u16,
            false => 0,
        }
    }

    /// The driver reads the status.
    pub(super) fn note_seen(&self) {
        if let Some(down) = &self.down {
            down.seen.set(true);
        }
    }

    /// The network is gone. True when it was not before.
    pub(super) fn lose(&mut self) -> bool {
        let is_new = !std::mem::replace(&mut self.lost, true);
        self.changed |= is_new;
        is_new
    }

    /// Takes the link down for a moment. Needs ticks.
    pub(super) fn bounce(&mut self) {
        self.down = Some(Down::default());
        self.changed = true;
    }

    /// A tick has passed. True when more are needed.
    pub(super) fn tick(&mut self, is_driver_ready: bool, announces: bool) -> bool {
        let Some(down) = &mut self.down else {
            return false;
        };
        down.ticks += 1;
        down.ticks_seen += u32::from(down.seen.get());
        if is_driver_ready && down.ticks_seen < TICKS_SEEN && down.ticks < TICKS_MAX {
            return true;
        }
        self.down = None;
        self.announce = is_driver_ready && announces;
        self.changed = true;
        false
    }

    /// The driver has announced its address.
    pub(super) fn note_announced(&mut self) {
        self.announce = false;
    }

    /// Forgets what the driver was told.
    pub(super) fn reset(&mut self) {
        self.down = None;
        self.announce = false;
        self.changed = false;
    }

    pub(super) fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}
