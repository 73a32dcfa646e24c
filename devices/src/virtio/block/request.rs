//! One virtio-block request: header, data, status (Virtio 1.2 section 5.2.6).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_ID_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use vm_memory::{GuestMemory, Permissions};

use super::disk::Disk;
use crate::virtio::chain::{Buffers, Chain, ChainError};

pub(super) const ID_BYTES: usize = VIRTIO_BLK_ID_BYTES as usize;
const HEADER_BYTES: usize = 16;
/// Most data of one request. Far above what drivers send; it bounds how long one request keeps a
/// pause waiting.
const DATA_BYTES_MAX: u64 = 64 << 20;

/// A request that failed, and is answered as failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failed {
    /// Nothing wrong with it, but this device does not do it.
    Unsupported,
    /// It asks for what is not there or not allowed, or the host failed.
    Io,
}

impl From<ChainError> for Failed {
    fn from(_: ChainError) -> Self {
        Self::Io
    }
}

/// Carries out one request and writes its status. Answers how many bytes of the writable buffers
/// were written.
pub(super) fn serve<Mem: GuestMemory>(
    disk: &Disk,
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
    // The last byte that the device may write is the status; without it there is nowhere to say
    // what went wrong.
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

struct Request<'a, Mem> {
    disk: &'a Disk,
    id: &'a [u8; ID_BYTES],
    writeback: bool,
    /// What the driver sends, after the header.
    payload: Buffers,
    /// Where the answer goes, without the status.
    reply: Buffers,
    mem: &'a Mem,
}

impl<Mem: GuestMemory> Request<'_, Mem> {
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
            .read(&slices, start)
            .map_err(|error| self.host_failed("read", &error))
    }

    fn write(&self, sector: u64) -> Result<(), Failed> {
        if self.disk.read_only() {
            return Err(Failed::Io);
        }
        let start = self.range(sector, &self.payload)?;
        let slices = self.payload.slices(self.mem, Permissions::Read)?;
        self.disk
            .write(&slices, start)
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
        self.disk.range(sector, len_bytes).ok_or(Failed::Io)
    }

    fn host_failed(&self, op: &'static str, error: &std::io::Error) -> Failed {
        tracing::error!(path = %self.disk.path().display(), op, %error, "disk I/O failed; the guest gets an I/O error");
        Failed::Io
    }
}
