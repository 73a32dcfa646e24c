use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};

use super::*;
use crate::inspect::test_memory::taken;

const MIB: u64 = 1 << 20;

/// A core with these ranges, of 16 MiB of memory of which two frames were written.
fn core(mapped: &[Mapped]) -> (tempfile::TempDir, Core) {
    let frames = [(0, 3, 7), (2, 511, 9)];
    let (directory, memory) = taken(SnapshotKind::Vm, 16 * MIB, &frames);
    let mut core = Core {
        memory: memory.unwrap(),
        front: Vec::new(),
        front_bytes: 0,
        ranges: 0,
        cut_off: false,
        linux: None,
    };
    core.make_front(mapped, b"notes");
    (directory, core)
}

fn mapped(virt: u64, phys: u64, bytes: u64) -> Mapped {
    Mapped { virt, phys, bytes }
}

fn headers(bytes: &[u8]) -> Vec<Elf64_Phdr> {
    let header = Elf64_Ehdr::from_slice(&bytes[..64]).unwrap();
    let (at, size) = (header.e_phoff as usize, header.e_phentsize as usize);
    let table = &bytes[at..at + size * usize::from(header.e_phnum)];
    let entries = table.chunks(size);
    entries
        .map(|entry| *Elf64_Phdr::from_slice(entry).unwrap())
        .collect()
}

/// Keeps what is written to it.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn headers_lead_to_memory_by_virtual_and_physical_address() {
    let virt = 0xffff_8880_0000_0000;
    let (directory, core) = core(&[
        mapped(virt, 0x2000, 0x3000),
        // Partly a device, wholly one, and what overflows.
        mapped(virt + MIB, 16 * MIB - 0x1000, 0x2000),
        mapped(virt + 2 * MIB, 0xfee0_0000, 0x1000),
        mapped(virt + 3 * MIB, 0xf_ffff_ffff_f000, 1 << 39),
    ]);
    let path = directory.path().join("core");
    let mut file = Target::File(File::create(&path).unwrap());
    let mut told = 0;
    let mut on_progress = |done| {
        assert!(done > told);
        told = done;
        ControlFlow::Continue(())
    };
    assert!(core.write(&mut file, &mut on_progress).unwrap());
    let bytes = fs::read(&path).unwrap();
    assert_eq!(
        (bytes.len() as u64, told),
        (core.size_bytes(), core.size_bytes())
    );
    let taken = fs::metadata(&path).unwrap().blocks() * 512;
    assert!(taken < MIB, "{taken} bytes for two frames");

    let headers = headers(&bytes);
    let content =
        |header: &Elf64_Phdr| &bytes[header.p_offset as usize..][..header.p_filesz as usize];
    assert_eq!(
        (headers[0].p_type, content(&headers[0])),
        (PT_NOTE, &b"notes"[..])
    );
    let loads: Vec<(u64, u64, u64)> = headers[1..]
        .iter()
        .map(|header| (header.p_vaddr, header.p_paddr, header.p_memsz))
        .collect();
    assert_eq!(
        loads,
        [
            (virt, 0x2000, 0x3000),
            (virt + MIB, 16 * MIB - 0x1000, 0x1000),
            (0, 0, 16 * MIB)
        ]
    );
    assert_eq!(core.virtual_ranges(), 2);
    for header in &headers[1..] {
        let mut memory = vec![0; header.p_memsz as usize];
        core.memory.read(header.p_paddr, &mut memory).unwrap();
        assert!(content(header) == memory, "{header:x?}");
    }
    assert_eq!(content(&headers[1])[0x1000], 7);

    let kept = Kept::default();
    let mut stream = Target::Stream(Box::new(kept.clone()));
    core.write(&mut stream, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert!(*kept.0.lock().unwrap() == bytes, "a pipe gets the same");
}

#[test]
fn it_can_be_ended_and_does_not_outlive_its_snapshot() {
    let (directory, core) = core(&[]);
    let mut target = Target::Stream(Box::new(io::sink()));
    assert!(
        !core
            .write(&mut target, &mut |_| ControlFlow::Break(()))
            .unwrap()
    );
    let pool = nvvmm_snapshot::Pool::open(&directory.path().join("pool")).unwrap();
    pool.remove("taken").unwrap();
    let gone = core.write(&mut target, &mut |_| ControlFlow::Continue(()));
    assert!(
        matches!(
            &gone,
            Err(CoreError::Look(InspectError::Pool(
                nvvmm_snapshot::Error::NotFound { .. }
            )))
        ),
        "{gone:?}"
    );
}

#[test]
fn more_ranges_than_an_elf_header_counts_are_cut_off() {
    let many: Vec<Mapped> = (0..RANGES_MAX as u64 + 5)
        .map(|number| mapped(number * 0x2000, 0x1000, 0x1000))
        .collect();
    let (_directory, core) = core(&many);
    assert!(core.is_cut_off());
    assert_eq!(headers(&core.front).len(), RANGES_MAX + 2);
}

#[test]
fn an_image_has_no_core() {
    let (directory, _) = taken(SnapshotKind::Process, 4 * MIB, &[(0, 0, 1)]);
    let pool = nvvmm_snapshot::Pool::open(&directory.path().join("pool")).unwrap();
    let refused = Core::of(pool.reader("taken").unwrap(), &mut |_| ()).map(|_| ());
    assert!(matches!(refused, Err(CoreError::NoVm(_))), "{refused:?}");
}
