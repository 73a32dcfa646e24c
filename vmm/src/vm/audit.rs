//! KVM's dirty log against the COW engine: a cross-check for tests.

use nvvmm_snapshot::{ChunkIndex, FrameIndex, FrameMap};

use super::{
    VmError,
    error::{cow_error, machine_error},
    running::RunningVm,
};
use crate::{
    checkpoint::report::AuditReport, cow, error::ErrorKind, machine::Hold, memory::WriteLog,
};

/// Frames of each kind that a report names.
const NAMED_MAX: usize = 100;

impl RunningVm {
    /// Every frame that KVM has seen written since the last snapshot must be the VM's own, on a
    /// block that the snapshot does not have. Memory must hold what the engine believes.
    pub fn audit(&self) -> Result<AuditReport, VmError> {
        if !self.dirty_log {
            return Err(VmError::new(
                ErrorKind::Refused,
                "this VM was started without KVM's dirty log",
            )
            .with_remedy("switch the log on in the options of the VM before it starts"));
        }
        let operation = self.operation_unless_stuck()?;
        let base = operation
            .base
            .map(|id| self.holder.frame_map(id))
            .transpose()?;
        self.machine
            .pause_vcpus(Hold::Operation)
            .map_err(machine_error)?;
        // Memory is only compared with blocks where a device never waits for space.
        let quiesce = self.engine.needs_write_log() && !operation.quiesced;
        let quiesced = if quiesce {
            self.machine.quiesce_devices()
        } else {
            Ok(())
        };
        let report = quiesced
            .map_err(machine_error)
            .and_then(|()| self.compare(base.as_ref()));
        let resumed = if quiesce {
            self.machine.resume_devices()
        } else {
            Ok(())
        };
        self.machine.resume_vcpus(Hold::Operation);
        resumed.map_err(machine_error)?;
        report
    }

    fn compare(&self, base: Option<&FrameMap>) -> Result<AuditReport, VmError> {
        let mut report = AuditReport::default();
        let slots = self.engine.ram().slots();
        let logs: Vec<Vec<u64>> = (0..slots.len())
            .map(|slot| self.machine.peek_slot(slot))
            .collect::<Result<_, _>>()
            .map_err(|e| VmError::io("read KVM's dirty log", &e))?;
        // An engine that needs the log reads it too: what it has then is judged.
        self.engine
            .learn_writes(&*self.machine)
            .map_err(cow_error)?;
        for (number, slot) in slots.iter().enumerate() {
            let first = (slot.hva - slots[0].hva) / cow::FRAME_SIZE_BYTES as u64;
            for (word, bits) in logs[number].iter().enumerate() {
                for bit in (0..u64::from(u64::BITS)).filter(|bit| bits >> bit & 1 == 1) {
                    self.judge(
                        first + word as u64 * u64::from(u64::BITS) + bit,
                        base,
                        &mut report,
                    )?;
                }
            }
        }
        report.stale = self.engine.stale_frames(NAMED_MAX).map_err(cow_error)?;
        Ok(report)
    }

    fn judge(
        &self,
        frame: u64,
        base: Option<&FrameMap>,
        report: &mut AuditReport,
    ) -> Result<(), VmError> {
        let (chunk, index) = (
            ChunkIndex::new((frame / u64::from(cow::CHUNK_FRAMES)) as u32),
            FrameIndex::of_frame_number(frame),
        );
        report.dirty_frames += 1;
        let (own, block) = self.engine.own_block(chunk, index);
        let is_released = block.is_none() && self.faults.releases().has_released(chunk);
        if !own && !is_released && report.not_own.len() < NAMED_MAX {
            report.not_own.push(frame);
        }
        let snapshots = base
            .map(|base| base.chunk(chunk))
            .transpose()?
            .and_then(|map| map.block(index));
        if block.is_some() && block == snapshots && report.still_shared.len() < NAMED_MAX {
            report.still_shared.push(frame);
        }
        Ok(())
    }
}
