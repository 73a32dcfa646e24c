//! virtio-balloon (Virtio 1.2 section 5.5): memory that the guest does not use goes back to the
//! host.
//!
//! There are two ways. Without being asked, the driver reports blocks of memory that are free, and
//! does not hand them out before the report is acknowledged (free page reporting). And the host can
//! ask for a balloon of some size: the driver takes pages from the guest and names them, until the
//! balloon is that large.
//!
//! The guest may name any memory, also some that it uses: that memory is empty then, and nobody
//! else is harmed.

mod free;
mod held;
mod host;
mod spec;
mod statistics;

use std::os::fd::RawFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use vm_memory::{GuestAddress, GuestMemory, Permissions};

use self::held::HeldPages;
use self::statistics::REPORT_BYTES_MAX;
use super::chain::{Buffers, Chain, ChainError};
use super::device::{Served, VirtioDevice, read_fields};
use crate::lifecycle::{LifecycleError, SavedDevice};

pub use self::free::{FreePages, FreeRange};
pub use self::host::{BalloonHost, BalloonStatus};
pub use self::spec::BalloonSpec;
pub use self::statistics::GuestMemoryStatistics;

const KIND: &str = "virtio-balloon";
const VERSION: u16 = 1;
/// Linux wants room for 32 blocks in the queue of reports.
const QUEUE_SIZES: [u16; 4] = [64; 4];
/// Features of section 5.5.3, which virtio-bindings does not have.
const VIRTIO_BALLOON_F_STATS_VQ: u32 = 1;
const VIRTIO_BALLOON_F_DEFLATE_ON_OOM: u32 = 2;
const VIRTIO_BALLOON_F_REPORTING: u32 = 5;
const FEATURES: u64 = (1 << VIRTIO_BALLOON_F_STATS_VQ)
    | (1 << VIRTIO_BALLOON_F_DEFLATE_ON_OOM)
    | (1 << VIRTIO_BALLOON_F_REPORTING);
/// Size of the pages that a balloon is counted in, whatever those of the guest are.
const PAGE_BYTES: u64 = 4096;
/// Pages of one request to inflate or deflate that are looked at. Linux names 256 at a time.
const REQUEST_PAGES_MAX: usize = 1024;
/// Bytes of one report that are given back. Those of Linux have 32 blocks of up to 4 MiB.
const REPORTED_BYTES_MAX: u64 = 256 << 20;
/// Place of the size that the balloon has, in the configuration space.
const ACTUAL_OFFSET: u64 = 4;

/// Purposes of queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Inflate,
    Deflate,
    Statistics,
    Report,
}

/// A balloon, and the reports of free memory.
pub struct Balloon {
    memory: Arc<dyn FreePages>,
    host: Arc<BalloonHost>,
    held: HeldPages,
    /// Purposes of the queues, in order: those that were not negotiated leave no gap.
    roles: Vec<Role>,
    /// Queues to serve although the driver did not notify them.
    wakes: u64,
}

/// State of [`Balloon`]. It does not say which pages are in the balloon: those that leave it after
/// a restore need no work of the host, and a unit of which some entered it before is not given back
/// again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalloonStateV1 {
    /// Size that the balloon should have, in pages of 4 KiB.
    pub target_pages: u32,
    /// Size that it has, as the driver says, in pages of 4 KiB.
    pub actual_pages: u32,
}

impl Balloon {
    /// A balloon of no size, in front of `memory`.
    pub fn new(memory: Arc<dyn FreePages>, host: Arc<BalloonHost>) -> Self {
        Self {
            held: HeldPages::new(memory.unit_bytes()),
            memory,
            host,
            roles: Vec::new(),
            wakes: 0,
        }
    }

    fn pages(&self) -> BalloonStateV1 {
        let status = self.host.status();
        let pages = |bytes: u64| (bytes / PAGE_BYTES).min(u32::MAX.into()) as u32;
        BalloonStateV1 {
            target_pages: pages(status.target_bytes),
            actual_pages: pages(status.actual_bytes),
        }
    }

    fn set_actual(&self, pages: u32) {
        let bytes = u64::from(pages) * PAGE_BYTES;
        self.host.change(|status| status.actual_bytes = bytes);
    }

    fn release(&self, ranges: &[FreeRange]) {
        if !ranges.is_empty() {
            let bytes = self.memory.release(ranges);
            self.host.change(|status| status.released_bytes += bytes);
        }
    }

    fn inflate<Mem: GuestMemory>(&mut self, pages: &[u32], mem: &Mem) {
        let mut whole = Vec::new();
        for page in pages.iter().copied().map(u64::from) {
            let address = GuestAddress(page * PAGE_BYTES);
            if mem.check_range(address, PAGE_BYTES as usize, Permissions::No) {
                whole.extend(self.held.insert(page));
            }
        }
        self.release(&whole);
    }

    /// The pages are the guest's from here on: a first touch brings their memory back.
    fn deflate(&mut self, pages: &[u32]) {
        pages
            .iter()
            .for_each(|page| self.held.remove((*page).into()));
    }

    fn take_report(&self, reported: &Buffers) {
        let mut left = REPORTED_BYTES_MAX;
        let ranges = reported.ranges().map(|(gpa, len_bytes)| {
            let len_bytes = u64::from(len_bytes).min(left);
            left -= len_bytes;
            FreeRange { gpa, len_bytes }
        });
        let ranges: Vec<_> = ranges.filter(|range| range.len_bytes > 0).collect();
        self.release(&ranges);
    }

    /// Takes a report of statistics, which stays in the ring until the next one is wanted.
    fn take_statistics<Mem: GuestMemory>(
        &self,
        report: &Buffers,
        mem: &Mem,
    ) -> Result<Served, ChainError> {
        if self.host.take_wants_statistics() {
            return Ok(Served::Done(0));
        }
        let bytes = read_some(report, mem, REPORT_BYTES_MAX)?;
        let statistics = GuestMemoryStatistics::read(&bytes);
        self.host.note_statistics(statistics);
        Ok(Served::NotYet)
    }
}

/// Reads the first bytes of a request, at most so many.
fn read_some<Mem: GuestMemory>(
    buffers: &Buffers,
    mem: &Mem,
    len_max: usize,
) -> Result<Vec<u8>, ChainError> {
    let len = usize::try_from(buffers.len_bytes()).unwrap_or(usize::MAX);
    let mut bytes = vec![0; len.min(len_max)];
    buffers.read(mem, &mut bytes)?;
    Ok(bytes)
}

/// Reads the page numbers of a request to inflate or deflate.
fn read_pages<Mem: GuestMemory>(buffers: &Buffers, mem: &Mem) -> Result<Vec<u32>, ChainError> {
    let bytes = read_some(buffers, mem, size_of::<u32>() * REQUEST_PAGES_MAX)?;
    let (pages, _) = bytes.as_chunks();
    Ok(pages.iter().map(|page| u32::from_le_bytes(*page)).collect())
}

impl<Mem: GuestMemory> VirtioDevice<Mem> for Balloon {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn device_type(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn features(&self) -> u64 {
        FEATURES
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, bytes: &mut [u8]) {
        let pages = self.pages();
        let fields = [pages.target_pages, pages.actual_pages];
        read_fields(&fields.map(u32::to_le_bytes).concat(), offset, bytes);
    }

    /// The driver says how large the balloon is. That is news for nobody in the guest.
    fn write_config(&mut self, offset: u64, bytes: &[u8]) -> bool {
        if let (ACTUAL_OFFSET, Ok(pages)) = (offset, <[u8; 4]>::try_from(bytes)) {
            self.set_actual(u32::from_le_bytes(pages));
        }
        false
    }

    fn activate(&mut self, driver_features: u64) {
        let has = |feature: u32| driver_features & (1 << feature) != 0;
        let reports_free = has(VIRTIO_BALLOON_F_REPORTING);
        self.roles = vec![Role::Inflate, Role::Deflate];
        self.roles
            .extend(has(VIRTIO_BALLOON_F_STATS_VQ).then_some(Role::Statistics));
        self.roles.extend(reports_free.then_some(Role::Report));
        self.host.change(|status| {
            status.has_driver = true;
            status.reports_free = reports_free;
        });
    }

    fn serve(&mut self, queue_index: usize, chain: Chain, mem: &Mem) -> Result<Served, ChainError> {
        let Some(role) = self.roles.get(queue_index).copied() else {
            return Err(ChainError::WrongShape);
        };
        let (used, unused) = match role {
            Role::Report => (&chain.writable, &chain.readable),
            _ => (&chain.readable, &chain.writable),
        };
        if used.is_empty() || !unused.is_empty() {
            return Err(ChainError::WrongShape);
        }
        match role {
            Role::Inflate => self.inflate(&read_pages(used, mem)?, mem),
            Role::Deflate => self.deflate(&read_pages(used, mem)?),
            Role::Statistics => return self.take_statistics(used, mem),
            Role::Report => self.take_report(used),
        }
        Ok(Served::Done(0))
    }

    fn take_config_change(&mut self) -> bool {
        self.host.take_target_change() && !self.roles.is_empty()
    }

    fn host_events(&self) -> Option<RawFd> {
        Some(self.host.event())
    }

    fn on_host_events(&mut self) {
        self.host.take_event();
        let statistics = { self.roles.iter() }.position(|role| *role == Role::Statistics);
        if let (Some(index), true) = (statistics, self.host.wants_statistics()) {
            self.wakes |= 1 << index;
        }
    }

    fn take_wakes(&mut self) -> u64 {
        std::mem::take(&mut self.wakes)
    }

    fn reset(&mut self) {
        self.roles.clear();
        self.held.clear();
        self.host.change(|status| {
            status.has_driver = false;
            status.reports_free = false;
            status.actual_bytes = 0;
            status.statistics = None;
        });
    }

    fn save(&self, instance: &str) -> Result<SavedDevice, LifecycleError> {
        SavedDevice::encode(KIND, VERSION, instance, &self.pages())
    }

    fn restore(&mut self, instance: &str, saved: &SavedDevice) -> Result<(), LifecycleError> {
        let state: BalloonStateV1 = saved.decode(KIND, VERSION, instance)?;
        self.held.clear();
        self.roles.clear();
        self.host.change(|status| {
            *status = Default::default();
            status.target_bytes = u64::from(state.target_pages) * PAGE_BYTES;
            status.actual_bytes = u64::from(state.actual_pages) * PAGE_BYTES;
        });
        Ok(())
    }
}

#[cfg(test)]
#[path = "balloon_test.rs"]
mod balloon_test;
