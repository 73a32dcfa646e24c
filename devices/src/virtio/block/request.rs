//! One virtio-block request: header, data, status (Virtio 1.2 section 5.2.6).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use vm_memory::{GuestMemory, Permissions};

use super::backend::{DiskBackend, SECTOR_BYTES};
use crate::virtio::chain::{Buffers, Chain, ChainError};

pub(super) const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;
const HEADER_BYTES: usize = 16;
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

/// Carries out one request and writes its status. Gives the number of bytes that were written to
/// the writable buffers.
pub(super) fn serve<Mem: GuestMemory, D: DiskBackend>(
    disk: &D,
    id: &[u8; ID_BYTES],
    writeback: bool,
    chain: Chain,
    mem: &Mem,
) -> Result<u32, ChainError> {
    let Chain {
        readable: mut header,
        writable: mut reply,
        ..
    } = chain;
    let reply_len = reply.len_bytes();
    // The last byte that the device may write is the status. Without it no error can be reported.
    let status_at = reply_len.checked_sub(1).ok_or(ChainError::WrongShape)?;
    let status = reply.split_off(status_at);
    let payload = header.split_off(HEADER_BYTES as u64);
    let request = Request {
        disk,
        id,
        writeback,
        payload,
        reply,
        mem,
    };
    let outcome = request.carry_out(&header);
    let code = match outcome {
        Ok(()) => VIRTIO_BLK_S_OK,
        Err(Failed::Unsupported) => VIRTIO_BLK_S_UNSUPP,
        Err(Failed::Io) => VIRTIO_BLK_S_IOERR,
    };
    status.write(mem, &[code as u8])?;
    // The status comes last, so when it was written everything counts as written.
    Ok(u32::try_from(reply_len).unwrap_or(u32::MAX))
}

struct Request<'a, Mem, D> {
    disk: &'a D,
    id: &'a [u8; ID_BYTES],
    writeback: bool,
    /// The driver's data, after the header.
    payload: Buffers,
    /// Buffers for the answer, without the status.
    reply: Buffers,
    mem: &'a Mem,
}

impl<Mem: GuestMemory, D: DiskBackend> Request<'_, Mem, D> {
    fn carry_out(&self, header: &Buffers) -> Result<(), Failed> {
        let mut bytes = [0; HEADER_BYTES];
        header.read(self.mem, &mut bytes)?;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = bytes;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([t0, t1, t2, t3]) {
            VIRTIO_BLK_T_IN => self.read(sector),
            VIRTIO_BLK_T_OUT => self.write(sector),
            VIRTIO_BLK_T_FLUSH => self.flush(),
            VIRTIO_BLK_T_GET_ID => self.get_id(),
            _ => Err(Failed::Unsupported),
        }
    }

    fn read(&self, sector: u64) -> Result<(), Failed> {
        let start = self.range(sector, &self.reply)?;
        let slices = self.reply.slices(self.mem, Permissions::Write)?;
        self.disk
            .read_at(&slices, start)
            .map_err(|error| self.host_failed("read", &error))
    }

    fn write(&self, sector: u64) -> Result<(), Failed> {
        if self.disk.is_read_only() {
            return Err(Failed::Io);
        }
        let start = self.range(sector, &self.payload)?;
        let slices = self.payload.slices(self.mem, Permissions::Read)?;
        self.disk
            .write_at(&slices, start)
            .map_err(|error| self.host_failed("write", &error))?;
        if self.writeback { Ok(()) } else { self.flush() }
    }

    fn flush(&self) -> Result<(), Failed> {
        self.disk
            .flush()
            .map_err(|error| self.host_failed("flush", &error))
    }

    fn get_id(&self) -> Result<(), Failed> {
        if self.reply.len_bytes() < ID_BYTES as u64 {
            return Err(Failed::Io);
        }
        Ok(self.reply.write(self.mem, self.id)?)
    }

    fn range(&self, sector: u64, buffers: &Buffers) -> Result<u64, Failed> {
        let len_bytes = buffers.len_bytes();
        if len_bytes > DATA_BYTES_MAX {
            return Err(Failed::Io);
        }
        byte_range(self.disk.size_bytes(), sector, len_bytes).ok_or(Failed::Io)
    }

    fn host_failed(&self, op: &'static str, error: &std::io::Error) -> Failed {
        let disk = self.disk.name();
        tracing::error!(%disk, op, %error, "disk I/O failed; the guest gets an I/O error");
        Failed::Io
    }
}

/// Offset in bytes of `sector`, when `len_bytes` from there are whole sectors within the disk.
pub(super) fn byte_range(disk_bytes: u64, sector: u64, len_bytes: u64) -> Option<u64> {
    let start = sector.checked_mul(SECTOR_BYTES)?;
    let end = start.checked_add(len_bytes)?;
    (len_bytes.is_multiple_of(SECTOR_BYTES) && end <= disk_bytes).then_some(start)
}
