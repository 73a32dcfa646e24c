//! `nvvmm disk import`.

use std::fs::File;
use std::io::{self, IsTerminal, Read, stdin};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nvvmm::{ErrorKind, VmError};
use nvvmm_snapshot::{BLOCK_SIZE_BYTES, CHUNK_SIZE_BYTES, DiskEntry, DiskImport, Error, Holder};

use super::image::{self, Image, ImageFormat};
use super::place::DISK_BYTES_MAX;
use super::{taken_name, tell};
use crate::args::DiskImportArguments;
use crate::interruption::{Interruptible, ends_on_signal};
use crate::progress::Progress;
use crate::{message, output, pool_path};

/// Bytes that are read at once.
const PIECE_BYTES: usize = CHUNK_SIZE_BYTES as usize;
/// Name of the pool's user.
const HOLDER: &str = "disk-import";
/// Name of standard input in messages.
const STDIN: &str = "standard input";

/// `nvvmm disk import`.
pub fn run(arguments: &DiskImportArguments) -> Result<(), VmError> {
    let path = arguments.image.as_path();
    let is_stream = path == Path::new("-");
    let file = match is_stream {
        true => open_stdin(arguments.format)?,
        false => image::open_file(path)?,
    };
    let pool = pool_path::found_or_made(&arguments.pool)?;
    let work = Work {
        name: &arguments.name,
        format: arguments.format,
        in_chunks: arguments.dax,
        interrupted: ends_on_signal()?,
    };
    let mut shown = Progress::of_bytes("import")?;
    let pool = pool_path::open_confined(&pool)?;
    let holder = pool.hold(HOLDER)?;
    let disk = match is_stream {
        true => work.import_stream(file, &holder, &mut shown)?,
        false => {
            let image = image::image_in(file, path, arguments.format)?;
            let disk = work.import_image(&*image, &holder, &mut shown)?;
            if let Some(text) = image.left_out() {
                message::warn(&text);
            }
            disk
        }
    };
    drop(shown);
    tell("imported", &disk, arguments.json.json)
}

fn open_stdin(format: Option<ImageFormat>) -> Result<File, VmError> {
    if format == Some(ImageFormat::Qcow2) {
        return Err(not_in_order());
    }
    if stdin().is_terminal() {
        let why = "no image comes from a terminal";
        return Err(VmError::new(ErrorKind::Usage, why)
            .with_remedy("name the file of the image, or pipe a raw image to the command"));
    }
    let input = stdin().as_fd().try_clone_to_owned();
    input
        .map(File::from)
        .map_err(|e| VmError::io("read standard input", &e))
}

fn not_in_order() -> VmError {
    let why = "a qcow2 image cannot come from standard input: it is not read in order";
    VmError::new(ErrorKind::Usage, why).with_remedy("write it to a file, and import that")
}

/// An import that was asked for.
struct Work<'a> {
    /// Name of the new disk.
    name: &'a str,
    format: Option<ImageFormat>,
    /// The disk is laid out in pieces of 2 MiB.
    in_chunks: bool,
    interrupted: Arc<AtomicBool>,
}

impl Work<'_> {
    fn import_image(
        &self,
        image: &dyn Image,
        holder: &Holder,
        shown: &mut Progress,
    ) -> Result<DiskEntry, VmError> {
        let (size, mut total) = (image.size_bytes(), self.bytes_at_most(image)?);
        let mut began = self.begin(holder, size, total);
        if matches!(began, Err(Error::NoRoom { .. })) {
            // There may be zeros among the data.
            total = self.bytes_not_zero(image)?;
            began = self.begin(holder, size, total);
        }
        let mut import = began.map_err(no_room)?;
        let mut done = 0;
        self.each_piece(image, |offset, piece| {
            import.write(offset, piece)?;
            done += piece.len() as u64;
            shown.show(done, Some(total.max(done)));
            Ok(())
        })?;
        import.finish().map_err(taken_name)
    }

    fn begin<'h>(
        &self,
        holder: &'h Holder,
        size_bytes: u64,
        needed_bytes: u64,
    ) -> Result<DiskImport<'h>, Error> {
        let import = holder.import_disk(self.name, size_bytes, needed_bytes)?;
        match self.in_chunks {
            true => import.in_chunks(),
            false => Ok(import),
        }
    }

    /// Bytes that take space together, or none of them.
    fn unit_bytes(&self) -> u64 {
        match self.in_chunks {
            true => CHUNK_SIZE_BYTES,
            false => BLOCK_SIZE_BYTES,
        }
    }

    /// Bytes that the disk takes if all data of the image is other than zeros.
    fn bytes_at_most(&self, image: &dyn Image) -> Result<u64, VmError> {
        if !self.in_chunks {
            return Ok(image.data_bytes());
        }
        let (unit, mut bytes, mut at) = (self.unit_bytes(), 0, 0);
        while let Some(data) = image.next_data(at)? {
            let start = data.start.max(at) / unit * unit;
            at = data.end.next_multiple_of(unit);
            bytes += at - start;
        }
        Ok(bytes)
    }

    /// Bytes of the blocks that are not zeros. Reads the image to its end.
    fn bytes_not_zero(&self, image: &dyn Image) -> Result<u64, VmError> {
        let mut shown = Progress::of_bytes("look through")?;
        let (mut bytes, mut done) = (0, 0);
        self.each_piece(image, |_, piece| {
            let units = piece.chunks(self.unit_bytes() as usize);
            let there = units.filter(|unit| unit.iter().any(|byte| *byte != 0));
            bytes += there.count() as u64 * self.unit_bytes();
            done += piece.len() as u64;
            shown.show(done, Some(image.data_bytes().max(done)));
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Reads what may be other than zeros, in order and by whole units.
    fn each_piece(
        &self,
        image: &dyn Image,
        mut act: impl FnMut(u64, &[u8]) -> Result<(), VmError>,
    ) -> Result<(), VmError> {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut at = 0;
        while let Some(data) = image.next_data(at)? {
            let mut offset = data.start - data.start % self.unit_bytes();
            // A unit has several clusters of some images: it is read once.
            let end = data.end.next_multiple_of(self.unit_bytes());
            let end = end.min(image.size_bytes());
            while offset < end {
                self.unless_interrupted()?;
                let len = (end - offset).min(PIECE_BYTES as u64) as usize;
                image.read(offset, &mut buffer[..len])?;
                act(offset, &buffer[..len])?;
                offset += len as u64;
            }
            at = end;
        }
        Ok(())
    }

    fn import_stream(
        &self,
        input: File,
        holder: &Holder,
        shown: &mut Progress,
    ) -> Result<DiskEntry, VmError> {
        let mut input = Interruptible::input(input, &self.interrupted);
        let began = self.begin(holder, DISK_BYTES_MAX, 0);
        let mut import = began.map_err(taken_name)?;
        let size_bytes = self.write_all(&mut input, &mut import, shown)?;
        image::check_raw_size(size_bytes, &STDIN)?;
        import.set_size(size_bytes)?;
        import.finish().map_err(taken_name)
    }

    /// Writes all that comes, and gives its size.
    fn write_all(
        &self,
        input: &mut impl Read,
        import: &mut DiskImport<'_>,
        shown: &mut Progress,
    ) -> Result<u64, VmError> {
        let mut buffer = vec![0; PIECE_BYTES];
        let mut size = 0;
        loop {
            let len = match fill(input, &mut buffer) {
                Err(_) if self.interrupted.load(Ordering::Relaxed) => return Err(self.ended()),
                read => read.map_err(|e| VmError::io("read standard input", &e))?,
            };
            if size == 0 {
                let head = &buffer[..len.min(image::HEAD_BYTES)];
                if image::format_of(head, self.format, &STDIN)? == ImageFormat::Qcow2 {
                    return Err(not_in_order());
                }
                image::tell_of_other_format(head, self.format, &STDIN);
            }
            import.write(size, &buffer[..len])?;
            size += len as u64;
            shown.show(size, None);
            if len < buffer.len() {
                return Ok(size);
            }
        }
    }

    fn unless_interrupted(&self) -> Result<(), VmError> {
        match self.interrupted.load(Ordering::Relaxed) {
            true => Err(self.ended()),
            false => Ok(()),
        }
    }

    fn ended(&self) -> VmError {
        VmError::failed(format!("interrupted: there is no disk '{}'", self.name))
    }
}

/// Reads until the buffer is full, or the input ends.
fn fill(input: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match input.read(&mut into[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

fn no_room(error: Error) -> VmError {
    let Error::NoRoom {
        needed_bytes,
        free_bytes,
        ..
    } = error
    else {
        return taken_name(error);
    };
    let text = format!(
        "the image has {} that are not zeros, and the pool has {} free",
        output::size(needed_bytes),
        output::size(free_bytes)
    );
    VmError {
        message: text,
        ..error.into()
    }
}
