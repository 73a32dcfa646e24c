//! One virtio-block request: header, data, status (Virtio 1.2 section 5.2.6).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES,
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemory, Permissions};

use super::backend::{DiskBackend, DiskError, SECTOR_BYTES};
use super::config::{DISCARD_RANGES_MAX, ZEROES_RANGES_MAX};
use crate::sys;
use crate::virtio::chain::{Buffers, Chain, ChainError};

pub(super) const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;
const HEADER_BYTES: usize = 16;
/// Length of `struct virtio_blk_discard_write_zeroes`: sector, number of sectors, flags.
const RANGE_BYTES: usize = 16;
/// Data of one request at most. Drivers send far less; the limit bounds the time for which one
/// request delays a pause.
const DATA_BYTES_MAX: u64 = 64 << 20;

/// A request that failed, and is answered as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failed {
    /// This device does not offer such requests.
    Unsupported,
    /// The range does not exist or may not be written, or the host failed.
    Io,
}

impl From<ChainError> for Failed {
    fn from(_: ChainError) -> Self {
        Self::Io
    }
}

/// A checked request: all of it is within the disk.
#[derive(Debug)]
enum Operation {
    Read { start: u64 },
    Write { start: u64 },
    Flush,
    GetId,
    Discard(Vec<DiskRange>),
    WriteZeroes(Vec<DiskRange>),
}

/// Part of a disk, in bytes, for a discard or zeros.
#[derive(Clone, Copy, Debug)]
struct DiskRange {
    start: u64,
    len_bytes: u64,
    may_unmap: bool,
}

/// A disk, as requests need it.
pub(super) struct Target<'a, D> {
    pub(super) disk: &'a D,
    pub(super) id: &'a [u8; ID_BYTES],
    /// Features that the driver has accepted.
    pub(super) features: u64,
}

impl<D> Target<'_, D> {
    fn has(&self, feature: u32) -> bool {
        self.features & (1 << feature) != 0
    }
}

/// A request that was read from guest memory and checked. Nothing is done yet.
pub(super) struct Request {
    operation: Result<Operation, Failed>,
    /// The driver's data, after the header.
    payload: Buffers,
    /// Buffers for the answer, without the status.
    reply: Buffers,
    status: Buffers,
    reply_len: u64,
}

impl Request {
    /// Reads and checks a request: its range as a whole, and the place of its status.
    pub(super) fn read<Mem: GuestMemory, D: DiskBackend>(
        target: &Target<'_, D>,
        chain: Chain,
        mem: &Mem,
    ) -> Result<Self, ChainError> {
        let Chain {
            readable: mut header,
            writable: mut reply,
            ..
        } = chain;
        let reply_len = reply.len_bytes();
        // The last byte that the device may write is the status. Without it no error can be
        // reported.
        let status_at = reply_len.checked_sub(1).ok_or(ChainError::WrongShape)?;
        let status = reply.split_off(status_at);
        status.slices(mem, Permissions::Write)?;
        let payload = header.split_off(HEADER_BYTES as u64);
        let mut request = Self {
            operation: Err(Failed::Io),
            payload,
            reply,
            status,
            reply_len,
        };
        request.operation = request.check(target, &header, mem);
        Ok(request)
    }

    fn check<Mem: GuestMemory, D: DiskBackend>(
        &self,
        target: &Target<'_, D>,
        header: &Buffers,
        mem: &Mem,
    ) -> Result<Operation, Failed> {
        let mut bytes = [0; HEADER_BYTES];
        header.read(mem, &mut bytes)?;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = bytes;
        let sector = u64::from_le_bytes(sector);
        let limits = target.disk.limits();
        match u32::from_le_bytes([t0, t1, t2, t3]) {
            VIRTIO_BLK_T_IN => {
                let start = range(target.disk, sector, &self.reply)?;
                Ok(Operation::Read { start })
            }
            VIRTIO_BLK_T_OUT => {
                check_writable(target.disk)?;
                let start = range(target.disk, sector, &self.payload)?;
                Ok(Operation::Write { start })
            }
            VIRTIO_BLK_T_FLUSH => Ok(Operation::Flush),
            VIRTIO_BLK_T_GET_ID if self.reply.len_bytes() < ID_BYTES as u64 => Err(Failed::Io),
            VIRTIO_BLK_T_GET_ID => Ok(Operation::GetId),
            VIRTIO_BLK_T_DISCARD if target.has(VIRTIO_BLK_F_DISCARD) => {
                check_writable(target.disk)?;
                let ranges = self.ranges(target.disk, mem, &DISCARD, limits.discard_bytes_max)?;
                Ok(Operation::Discard(ranges))
            }
            VIRTIO_BLK_T_WRITE_ZEROES if target.has(VIRTIO_BLK_F_WRITE_ZEROES) => {
                check_writable(target.disk)?;
                let ranges = self.ranges(target.disk, mem, &ZEROES, limits.zeroes_bytes_max)?;
                Ok(Operation::WriteZeroes(ranges))
            }
            _ => Err(Failed::Unsupported),
        }
    }

    /// The ranges of a discard or write-zeroes, each wholly within the disk.
    fn ranges<Mem: GuestMemory>(
        &self,
        disk: &impl DiskBackend,
        mem: &Mem,
        kind: &RangesKind,
        bytes_max: u32,
    ) -> Result<Vec<DiskRange>, Failed> {
        let len = self.payload.len_bytes();
        if len == 0
            || !len.is_multiple_of(RANGE_BYTES as u64)
            || len > kind.count_max * RANGE_BYTES as u64
        {
            return Err(Failed::Io);
        }
        // Read once: the guest may write them meanwhile.
        let mut bytes = vec![0; len as usize];
        self.payload.read(mem, &mut bytes)?;
        let (rows, _) = bytes.as_chunks::<RANGE_BYTES>();
        rows.iter()
            .map(|row| disk_range(disk, row, kind, bytes_max))
            .collect()
    }

    /// Bytes of the disk that the request reads or writes. `None` for one that will fail.
    pub(super) fn transfer_bytes(&self) -> Option<u64> {
        match self.operation.as_ref().ok()? {
            Operation::Read { .. } => Some(self.reply.len_bytes()),
            Operation::Write { .. } => Some(self.payload.len_bytes()),
            // Where the storage cannot make zeros, they are written.
            Operation::WriteZeroes(ranges) => {
                Some(ranges.iter().map(|range| range.len_bytes).sum())
            }
            Operation::Flush | Operation::GetId | Operation::Discard(_) => Some(0),
        }
    }

    /// Carries out the request and writes its status. Gives the number of bytes that were written
    /// to the writable buffers.
    pub(super) fn serve<Mem: GuestMemory, D: DiskBackend>(
        self,
        target: &Target<'_, D>,
        mem: &Mem,
    ) -> Result<u32, ChainError> {
        let outcome = match &self.operation {
            Ok(operation) => self.carry_out(operation, target, mem),
            Err(failed) => Err(*failed),
        };
        let code = match outcome {
            Ok(()) => VIRTIO_BLK_S_OK,
            Err(Failed::Unsupported) => VIRTIO_BLK_S_UNSUPP,
            Err(Failed::Io) => VIRTIO_BLK_S_IOERR,
        };
        self.status.write(mem, &[code as u8])?;
        // The status comes last, so when it was written everything counts as written.
        Ok(u32::try_from(self.reply_len).unwrap_or(u32::MAX))
    }

    fn carry_out<Mem: GuestMemory, D: DiskBackend>(
        &self,
        operation: &Operation,
        target: &Target<'_, D>,
        mem: &Mem,
    ) -> Result<(), Failed> {
        let disk = target.disk;
        let (op, done) = match operation {
            Operation::Read { start } => {
                let slices = self.reply.slices(mem, Permissions::Write)?;
                let done = disk.read_at(&sys::without_bitmaps(&slices), *start);
                // Also when it failed: a part may have been filled.
                { slices.iter() }.for_each(|slice| slice.bitmap().mark_dirty(0, slice.len()));
                ("read", done)
            }
            Operation::Write { start } => {
                let slices = self.payload.slices(mem, Permissions::Read)?;
                (
                    "write",
                    disk.write_at(&sys::without_bitmaps(&slices), *start),
                )
            }
            Operation::Flush => ("flush", disk.flush()),
            Operation::GetId => return Ok(self.reply.write(mem, target.id)?),
            Operation::Discard(ranges) => {
                let done = { ranges.iter() }
                    .try_for_each(|range| disk.discard(range.start, range.len_bytes));
                ("discard", done)
            }
            Operation::WriteZeroes(ranges) => {
                let done = ranges.iter().try_for_each(|range| {
                    disk.write_zeroes(range.start, range.len_bytes, range.may_unmap)
                });
                ("write zeros", done)
            }
        };
        done.map_err(|error| host_failed(disk, op, &error))?;
        let is_change = !matches!(operation, Operation::Read { .. } | Operation::Flush);
        if is_change && !target.has(VIRTIO_BLK_F_FLUSH) {
            disk.flush()
                .map_err(|error| host_failed(disk, "flush", &error))?;
        }
        Ok(())
    }
}

/// Rules for the ranges of a request.
struct RangesKind {
    count_max: u64,
    /// Flags that a range may have. Any other makes the request an unsupported one.
    flags: u32,
}

/// The flag of write-zeroes is unsupported for a discard (section 5.2.6.2).
const DISCARD: RangesKind = RangesKind {
    count_max: DISCARD_RANGES_MAX as u64,
    flags: 0,
};
const ZEROES: RangesKind = RangesKind {
    count_max: ZEROES_RANGES_MAX as u64,
    flags: VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

fn disk_range(
    disk: &impl DiskBackend,
    row: &[u8; RANGE_BYTES],
    kind: &RangesKind,
    bytes_max: u32,
) -> Result<DiskRange, Failed> {
    let [sector @ .., n0, n1, n2, n3, f0, f1, f2, f3] = *row;
    let flags = u32::from_le_bytes([f0, f1, f2, f3]);
    if flags & !kind.flags != 0 {
        return Err(Failed::Unsupported);
    }
    let len_bytes = u64::from(u32::from_le_bytes([n0, n1, n2, n3])) * SECTOR_BYTES;
    if len_bytes > u64::from(bytes_max) {
        return Err(Failed::Io);
    }
    let start = byte_range(disk.size_bytes(), u64::from_le_bytes(sector), len_bytes);
    Ok(DiskRange {
        start: start.ok_or(Failed::Io)?,
        len_bytes,
        may_unmap: flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0,
    })
}

fn check_writable(disk: &impl DiskBackend) -> Result<(), Failed> {
    match disk.is_read_only() {
        true => Err(Failed::Io),
        false => Ok(()),
    }
}

fn range(disk: &impl DiskBackend, sector: u64, buffers: &Buffers) -> Result<u64, Failed> {
    let len_bytes = buffers.len_bytes();
    if len_bytes > DATA_BYTES_MAX {
        return Err(Failed::Io);
    }
    byte_range(disk.size_bytes(), sector, len_bytes).ok_or(Failed::Io)
}

fn host_failed(disk: &impl DiskBackend, op: &'static str, error: &DiskError) -> Failed {
    let disk = disk.name();
    tracing::error!(%disk, op, %error, "disk I/O failed; the guest gets an I/O error");
    Failed::Io
}

/// Offset in bytes of `sector`, when `len_bytes` from there are whole sectors within the disk.
pub(super) fn byte_range(disk_bytes: u64, sector: u64, len_bytes: u64) -> Option<u64> {
    let start = sector.checked_mul(SECTOR_BYTES)?;
    let end = start.checked_add(len_bytes)?;
    (len_bytes.is_multiple_of(SECTOR_BYTES) && end <= disk_bytes).then_some(start)
}
