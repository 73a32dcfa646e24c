//! A VM's snapshot as an ELF core file, for debuggers.
//!
//! ```text
//! header | program headers | notes | RAM, each range as it is in physical memory
//! ```
//! RAM is in the file once, with holes where it was never written. The headers name it by virtual
//! address, as the tables of a vCPU map it, and all of it by physical address.

mod notes;
mod vmcoreinfo;

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::ops::ControlFlow;

use linux_loader::elf::{
    EI_CLASS, EI_DATA, EI_VERSION, ELFCLASS64, ELFDATA2LSB, ELFMAG, ET_CORE, EV_CURRENT,
    Elf64_Ehdr, Elf64_Phdr, PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE,
};
use nvvmm_snapshot::{SnapshotKind, SnapshotReader};
use vm_memory::ByteValued;

use super::{InspectError, Memory};
use crate::arch::{self, Mapped, Mappings, Paging, VcpuStateV1, table_of};
use crate::checkpoint::blob::SavedVm;

const PAGE_BYTES: u64 = 4096;
/// Bytes that are copied at a time.
const COPY_BYTES: u64 = 1 << 20;
/// Program headers for virtual addresses. An ELF header counts up to 65,534 in all.
const RANGES_MAX: usize = 65_000;

/// Reason why there is no core.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// The snapshot cannot be looked into.
    #[error(transparent)]
    Look(#[from] InspectError),
    /// Images of processes have other cores.
    #[error("'{0}' is a process image: only a VM has vCPUs and physical memory")]
    NoVm(String),
    /// The core cannot be written.
    #[error(transparent)]
    Write(#[from] io::Error),
}

/// Target of a core.
pub enum Target {
    /// A file, which gets holes.
    File(File),
    /// A stream that takes bytes one after another, zeros too.
    Stream(Box<dyn Write>),
}

/// A core that can be written.
pub struct Core {
    memory: Memory,
    front: Vec<u8>,
    front_bytes: u64,
    ranges: usize,
    cut_off: bool,
    linux: Option<String>,
}

impl Core {
    /// Prepares the core of the snapshot behind a reader. Searches memory for VMCOREINFO, and calls
    /// `on_progress` with the number of bytes searched.
    ///
    /// # Errors
    /// [`CoreError::NoVm`], [`CoreError::Look`].
    pub fn of(reader: SnapshotReader, on_progress: &mut dyn FnMut(u64)) -> Result<Self, CoreError> {
        let entry = reader.entry();
        if entry.kind != SnapshotKind::Vm || entry.has_disks_only() {
            return Err(CoreError::NoVm(entry.name));
        }
        let state = reader.state().map_err(InspectError::from)?;
        let vcpus = SavedVm::decode(&state)
            .map_err(InspectError::from)?
            .machine
            .kvm
            .vcpus;
        let memory = Memory::of(reader)?;
        let mapped = mappings(&memory, &vcpus)?;
        let mut notes = notes::of_vcpus(&vcpus);
        let linux = vmcoreinfo::find(&memory, &mapped.ranges, on_progress)?;
        if let Some(text) = &linux {
            notes::add(&mut notes, vmcoreinfo::NAME, 0, text);
        }
        let mut core = Self {
            front: Vec::new(),
            front_bytes: 0,
            ranges: 0,
            cut_off: mapped.cut_off,
            linux: linux.as_deref().map(vmcoreinfo::release),
            memory,
        };
        core.make_front(&mapped.ranges, &notes);
        Ok(core)
    }

    /// Virtual addresses that have a header.
    pub fn virtual_ranges(&self) -> usize {
        self.ranges
    }

    /// The page tables map more than is described.
    pub fn is_cut_off(&self) -> bool {
        self.cut_off
    }

    /// The release of the Linux in it, by the note VMCOREINFO that the core has from it.
    pub fn linux(&self) -> Option<&str> {
        self.linux.as_deref()
    }

    /// Length of the file.
    pub fn size_bytes(&self) -> u64 {
        self.front_bytes + self.memory.reader().entry().memory_bytes
    }

    /// Writes it. `on_progress` is told how many bytes are done; when it breaks, false is given
    /// back.
    ///
    /// # Errors
    /// [`CoreError::Look`], also when the snapshot is removed meanwhile; [`CoreError::Write`].
    pub fn write(
        &self,
        target: &mut Target,
        on_progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<bool, CoreError> {
        target.bytes(&self.front)?;
        target.zeros(self.front_bytes - self.front.len() as u64)?;
        let mut buffer = vec![0; COPY_BYTES as usize];
        let mut done = self.front_bytes;
        for range in self.memory.ranges() {
            let (mut at, end) = (range.gpa, range.gpa + range.size_bytes);
            while at < end {
                let data = self.memory.next_data(at)?.map_or(end, |data| data.min(end));
                target.zeros(data - at)?;
                let stop = match data < end {
                    true => self.memory.next_hole(data)?.min(data + COPY_BYTES).min(end),
                    false => end,
                };
                let piece = &mut buffer[..(stop - data) as usize];
                self.memory.read(data, piece)?;
                target.bytes(piece)?;
                done += stop - at;
                at = stop;
                if on_progress(done).is_break() {
                    return Ok(false);
                }
            }
        }
        target.finish()?;
        Ok(true)
    }

    /// Header, program headers and notes, and where RAM begins behind them.
    fn make_front(&mut self, mapped: &[Mapped], notes: &[u8]) {
        let pieces = mapped
            .iter()
            .flat_map(|range| in_ram(&self.memory, range))
            .collect::<Vec<_>>();
        self.cut_off |= pieces.len() > RANGES_MAX;
        let pieces = &pieces[..pieces.len().min(RANGES_MAX)];
        self.ranges = pieces.len();
        let count = 1 + pieces.len() + self.memory.ranges().len();
        let notes_at = (size_of::<Elf64_Ehdr>() + count * size_of::<Elf64_Phdr>()) as u64;
        self.front_bytes = (notes_at + notes.len() as u64).next_multiple_of(PAGE_BYTES);
        self.front
            .extend_from_slice(header(count as u16).as_slice());
        let note = Elf64_Phdr {
            p_type: PT_NOTE,
            p_offset: notes_at,
            p_filesz: notes.len() as u64,
            p_align: 4,
            ..Elf64_Phdr::default()
        };
        self.front.extend_from_slice(note.as_slice());
        // What has a virtual address comes first, as debuggers take the first header that fits.
        let physical = self.memory.ranges().iter().map(|range| Mapped {
            virt: range.gpa,
            phys: range.gpa,
            bytes: range.size_bytes,
        });
        for piece in pieces.iter().copied().chain(physical) {
            let load = Elf64_Phdr {
                p_type: PT_LOAD,
                p_flags: PF_R | PF_W | PF_X,
                p_offset: self.front_bytes + self.offset_of(piece.phys),
                p_vaddr: piece.virt,
                p_paddr: piece.phys,
                p_filesz: piece.bytes,
                p_memsz: piece.bytes,
                p_align: 0,
            };
            self.front.extend_from_slice(load.as_slice());
        }
        self.front.extend_from_slice(notes);
    }

    /// Offset of a physical address behind the front. The address must be one of RAM.
    fn offset_of(&self, phys: u64) -> u64 {
        let ranges = self.memory.ranges().iter();
        let range = ranges.rev().find(|range| range.gpa <= phys);
        range.map_or(0, |range| phys - range.gpa + range.ram_offset)
    }
}

impl Target {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Target::File(file) => file.write_all(bytes),
            Target::Stream(stream) => stream.write_all(bytes),
        }
    }

    fn zeros(&mut self, count: u64) -> io::Result<()> {
        match self {
            Target::File(file) => {
                let file: &mut File = file;
                let step = i64::try_from(count).map_err(io::Error::other)?;
                file.seek(SeekFrom::Current(step)).map(drop)
            }
            Target::Stream(stream) => {
                io::copy(&mut io::Read::take(io::repeat(0), count), stream).map(drop)
            }
        }
    }

    /// A hole at the end is part of a file, too.
    fn finish(&mut self) -> io::Result<()> {
        match self {
            Target::File(file) => {
                let end = file.stream_position()?;
                file.set_len(end)
            }
            Target::Stream(stream) => stream.flush(),
        }
    }
}

fn header(program_headers: u16) -> Elf64_Ehdr {
    let mut header = Elf64_Ehdr {
        e_type: ET_CORE,
        e_machine: arch::ELF_MACHINE,
        e_version: u32::from(EV_CURRENT),
        e_phoff: size_of::<Elf64_Ehdr>() as u64,
        e_ehsize: size_of::<Elf64_Ehdr>() as u16,
        e_phentsize: size_of::<Elf64_Phdr>() as u16,
        e_phnum: program_headers,
        ..Elf64_Ehdr::default()
    };
    header.e_ident[..ELFMAG.len()].copy_from_slice(ELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header
}

/// Mappings of the first vCPU in kernel mode, else of the first: in user mode a kernel may show
/// little of itself.
fn mappings(memory: &Memory, vcpus: &[VcpuStateV1]) -> Result<Mappings, InspectError> {
    let kernel = vcpus.iter().find(|vcpu| arch::is_in_kernel(vcpu));
    let Some(vcpu) = kernel.or(vcpus.first()) else {
        return Ok(Mappings::default());
    };
    match Paging::of(&vcpu.sregs) {
        Paging::Off | Paging::Older => Ok(Mappings::default()),
        Paging::Tables { root, levels } => Mappings::walk(root, levels, RANGES_MAX, |table| {
            let mut bytes = [0; PAGE_BYTES as usize];
            memory.read(table, &mut bytes)?;
            Ok(table_of(&bytes))
        }),
    }
}

/// The parts of a mapped range that are RAM: the guest maps devices, too, and whatever it likes.
fn in_ram(memory: &Memory, mapped: &Mapped) -> Vec<Mapped> {
    let end = mapped.phys.saturating_add(mapped.bytes);
    let parts = memory.ranges().iter().filter_map(|range| {
        let start = range.gpa.max(mapped.phys);
        let stop = (range.gpa + range.size_bytes).min(end);
        (start < stop).then(|| Mapped {
            virt: mapped.virt + (start - mapped.phys),
            phys: start,
            bytes: stop - start,
        })
    });
    parts.collect()
}

#[cfg(test)]
#[path = "core_test.rs"]
mod core_test;
