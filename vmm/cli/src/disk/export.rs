//! `nvvmm disk export`.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use imago::file::File as ImagoFile;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder};
use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::{
    BLOCK_SIZE_BYTES, CHUNK_BLOCKS, CHUNK_SIZE_BYTES, ChunkMap, DiskReader, Error, FrameIndex,
    Holder,
};

use super::image::ImageFormat;
use super::place::DiskPlace;
use super::{in_use, no_disk_of, of_a_snapshot, size_text};
use crate::args::DiskExportArguments;
use crate::interruption::{Interruptible, set_on_signal};
use crate::partial::{ConfinedPartial, check_free};
use crate::progress::Progress;
use crate::{json, output, pool_path};

/// Name of the pool's user.
const HOLDER: &str = "disk-export";
/// Size of a cluster of a qcow2 image that is written: as QEMU's.
const CLUSTER_BYTES: usize = 64 << 10;

/// `nvvmm disk export`.
pub fn run(arguments: &DiskExportArguments) -> Result<(), VmError> {
    let pool = pool_path::found(&arguments.pool)?;
    let path = arguments.image.as_path();
    let interrupted = Arc::new(AtomicBool::new(false));
    let out = Out::open(path, arguments, &interrupted)?;
    let holder = pool_path::open_confined(&pool)?.hold(HOLDER)?;
    let disk = opened(&holder, &arguments.disk, path)?;
    set_on_signal(&interrupted)?;
    let failed = |e: io::Error| match interrupted.load(Ordering::Relaxed) {
        true => ended(),
        false => VmError::io(format_args!("write {}", path.display()), &e),
    };
    let export = Export {
        disk: &disk,
        interrupted: &interrupted,
    };
    let partial = match out {
        Out::Stream(mut out) => {
            return export.in_order(&mut |piece| piece.write_to(&mut out).map_err(failed));
        }
        Out::File(partial) => partial,
    };
    let file = partial.file.try_clone().map_err(failed)?;
    match arguments.format {
        ImageFormat::Raw => export.to_raw(&file, &failed)?,
        ImageFormat::Qcow2 => export.to_qcow2(file, &failed)?,
    }
    let image_bytes = partial.file.metadata().map_err(failed)?.len();
    partial.become_whole().map_err(failed)?;
    report(arguments, &disk, image_bytes)
}

fn ended() -> VmError {
    VmError::failed("interrupted: there is no image")
}

/// The disk, or the snapshot that has it, pinned.
fn opened(holder: &Holder, place: &DiskPlace, path: &Path) -> Result<DiskReader, VmError> {
    let Some(snapshot) = &place.snapshot else {
        let disk = holder.attach_disk_read_only(&place.disk);
        return disk.map_err(|error| {
            let remedy = of_a_snapshot("export", &place.disk, &path.display().to_string());
            in_use(error, &remedy)
        });
    };
    let (entry, _) = holder.pin(snapshot)?;
    let disk = holder.disk_of(entry.id, &place.disk);
    disk.map_err(|error| match error {
        Error::NoDisk { .. } => no_disk_of(snapshot, &place.disk),
        error => error.into(),
    })
}

/// The place of the image, open.
enum Out {
    Stream(Interruptible),
    File(ConfinedPartial),
}

impl Out {
    fn open(
        path: &Path,
        arguments: &DiskExportArguments,
        interrupted: &Arc<AtomicBool>,
    ) -> Result<Self, VmError> {
        let failed = |e: io::Error| VmError::io(format_args!("write {}", path.display()), &e);
        let usage = |why: String, remedy: &str| {
            Err(VmError::new(ErrorKind::Usage, why).with_remedy(remedy))
        };
        if path == Path::new("-") {
            if arguments.format == ImageFormat::Qcow2 {
                let why = "a qcow2 image cannot go to standard output: it is not written in order";
                return usage(why.to_owned(), "give the path of a file");
            }
            output::check_stdout()?;
            let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
            let out = Interruptible::output(&File::from(stdout), interrupted);
            return out.map(Out::Stream).map_err(failed);
        }
        if path.exists() && !path.is_file() {
            let why = format!("{} is not a regular file", path.display());
            return usage(
                why,
                "write to standard output: 'nvvmm disk export DISK - > ...'",
            );
        }
        check_free(path, arguments.force)?;
        ConfinedPartial::beside(path, arguments.force)
            .map(Out::File)
            .map_err(failed)
    }
}

/// Part of a disk.
enum Piece<'a> {
    /// Bytes from this offset on; `data` has the ranges among them that have blocks.
    Bytes {
        offset: u64,
        bytes: &'a [u8],
        data: &'a [Range<usize>],
    },
    /// So many zeros.
    Hole(u64),
}

impl Piece<'_> {
    /// Writes it behind all that was written before.
    fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Piece::Bytes { bytes, .. } => out.write_all(bytes),
            Piece::Hole(len) => {
                let zeros = vec![0; CLUSTER_BYTES];
                let mut left = *len;
                while left > 0 {
                    let now = left.min(CLUSTER_BYTES as u64);
                    out.write_all(&zeros[..now as usize])?;
                    left -= now;
                }
                Ok(())
            }
        }
    }
}

/// A disk that is exported.
struct Export<'a> {
    disk: &'a DiskReader,
    interrupted: &'a AtomicBool,
}

impl Export<'_> {
    /// Calls `act` for each piece of the disk, from its beginning to its end.
    fn in_order(
        &self,
        act: &mut dyn FnMut(Piece<'_>) -> Result<(), VmError>,
    ) -> Result<(), VmError> {
        let mut shown = Progress::of_bytes("export")?;
        let size = self.disk.size_bytes();
        let mut buffer = vec![0; CHUNK_SIZE_BYTES as usize];
        let mut at = 0;
        for chunk in self.disk.map().iter_present() {
            let (index, chunk) = chunk?;
            let offset = u64::from(index.get()) * CHUNK_SIZE_BYTES;
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(ended());
            }
            if offset > at {
                act(Piece::Hole(offset - at))?;
            }
            let bytes = &mut buffer[..(size - offset).min(CHUNK_SIZE_BYTES) as usize];
            let data = self.read(offset, &chunk, bytes)?;
            at = offset + bytes.len() as u64;
            let data = &data;
            act(Piece::Bytes {
                offset,
                bytes,
                data,
            })?;
            shown.show(at, Some(size));
        }
        match size - at {
            0 => Ok(()),
            left => act(Piece::Hole(left)),
        }
    }

    /// Reads a chunk: zeros where it has no blocks. Gives the ranges that have some.
    fn read(
        &self,
        offset: u64,
        chunk: &ChunkMap,
        into: &mut [u8],
    ) -> Result<Vec<Range<usize>>, VmError> {
        into.fill(0);
        let mut ranges: Vec<Range<usize>> = Vec::new();
        let frames = (0..CHUNK_BLOCKS).filter(|frame| {
            let frame = FrameIndex::new(*frame);
            chunk.block(frame).is_some()
        });
        for frame in frames {
            let start = frame as usize * BLOCK_SIZE_BYTES as usize;
            let end = into.len().min(start + BLOCK_SIZE_BYTES as usize);
            match ranges.last_mut() {
                _ if start >= end => break,
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        for range in &ranges {
            let place = offset + range.start as u64;
            self.disk.read(place, &mut into[range.clone()])?;
        }
        Ok(ranges)
    }

    /// Writes a raw image, with holes for what is zeros.
    fn to_raw(&self, file: &File, failed: &dyn Fn(io::Error) -> VmError) -> Result<(), VmError> {
        file.set_len(self.disk.size_bytes()).map_err(failed)?;
        self.in_order(&mut |piece| {
            let Piece::Bytes {
                offset,
                bytes,
                data,
            } = piece
            else {
                return Ok(());
            };
            let mut each = data.iter().flat_map(|range| not_zero(bytes, range.clone()));
            each.try_for_each(|range| {
                file.write_all_at(&bytes[range.clone()], offset + range.start as u64)
            })
            .map_err(failed)
        })
    }

    /// Writes an image of qcow2, without clusters for what is zeros.
    fn to_qcow2(&self, file: File, failed: &dyn Fn(io::Error) -> VmError) -> Result<(), VmError> {
        let builder =
            Qcow2::<ImagoFile>::create_builder(ImagoFile::try_from(file).map_err(failed)?);
        let image = builder
            .cluster_size(CLUSTER_BYTES)
            .size(self.disk.size_bytes())
            .create_open(DenyImplicitOpenGate::default(), |image| {
                Ok(Qcow2::builder(image).backing(None))
            });
        let image = FormatAccess::new(image.map_err(failed)?);
        self.in_order(&mut |piece| {
            let Piece::Bytes { offset, bytes, .. } = piece else {
                return Ok(());
            };
            for (at, cluster) in (offset..)
                .step_by(CLUSTER_BYTES)
                .zip(bytes.chunks(CLUSTER_BYTES))
            {
                if cluster.iter().any(|byte| *byte != 0) {
                    image.write(cluster, at).map_err(failed)?;
                }
            }
            Ok(())
        })?;
        image.flush().map_err(failed)
    }
}

/// The parts of a range that are not zeros, in whole blocks.
fn not_zero(bytes: &[u8], range: Range<usize>) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    for start in range.clone().step_by(BLOCK_SIZE_BYTES as usize) {
        let end = range.end.min(start + BLOCK_SIZE_BYTES as usize);
        if bytes[start..end].iter().all(|byte| *byte == 0) {
            continue;
        }
        match parts.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => parts.push(start..end),
        }
    }
    parts
}

fn report(
    arguments: &DiskExportArguments,
    disk: &DiskReader,
    image_bytes: u64,
) -> Result<(), VmError> {
    let DiskPlace { snapshot, .. } = &arguments.disk;
    let format = match arguments.format {
        ImageFormat::Raw => "raw",
        ImageFormat::Qcow2 => "qcow2",
    };
    let image = arguments.image.display().to_string();
    if arguments.json.json {
        return output::print_json(&json::disk::ExportedDisk {
            disk: disk.name().to_owned(),
            snapshot: snapshot.clone(),
            image,
            format,
            size_bytes: disk.size_bytes(),
            image_bytes,
        });
    }
    output::print(&format!(
        "exported disk {} to {image}: {}, {format}\n",
        arguments.disk,
        size_text(disk.size_bytes())
    ))
}
