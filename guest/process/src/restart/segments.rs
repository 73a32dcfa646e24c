//! Segments of System V shared memory. One that has outlived its processes is taken over: its
//! content becomes the image's. Another one that has its number by now is refused.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Pid, ProcessPart, Refusal, failed};
use crate::image::{HeldFile, Image, Mapped, SegmentMark};
use crate::sys::{self, Segment};

/// Identity of a segment: number, creator, and time of the last change.
type Identity = (i32, Pid, i64);

/// Segments that were made here for those of images. The kernel says of them that this process made
/// them, and when.
static STAND_INS: Mutex<Option<HashMap<Identity, Identity>>> = Mutex::new(None);

/// Makes a segment with its old number, or finds the one that is left. True: it was made.
pub fn make(
    image: &Image,
    held: u32,
    file: &HeldFile,
    (id, key): (i32, i32),
) -> Result<bool, Error> {
    let mark = image.segments.iter().find(|mark| mark.held == held);
    if let Ok(found) = sys::segment(id) {
        return match is_same(&found, id, key, file, mark) {
            true => Ok(false),
            false => Err(refusal(image, held, id, &found)),
        };
    }
    let doing =
        format!("make the segment {id} of System V shared memory again, with the key {key:#x}");
    sys::make_segment(id, key, file.size_bytes, file.mode, file.owner).map_err(failed(doing))?;
    if let (Some(mark), Ok(made)) = (mark, sys::segment(id)) {
        let first = first_of(identity(id, mark.creator, mark.changed_s));
        let mut known = STAND_INS.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.get_or_insert_default();
        known.insert(identity(id, made.creator, made.changed_s), first);
    }
    Ok(true)
}

/// Does what must come last.
pub fn finish(id: i32, removed: bool, mark: Option<&SegmentMark>) -> Result<(), Error> {
    if mark.is_some_and(|mark| mark.locked) {
        sys::lock_segment(id).map_err(failed("lock a segment of memory"))?;
    }
    if removed {
        sys::remove_segment(id).map_err(failed("remove a segment of memory"))?;
    }
    Ok(())
}

/// True if nobody uses the segment, and it is the captured one. An image of version 4 tells less of
/// that.
fn is_same(
    found: &Segment,
    id: i32,
    key: i32,
    file: &HeldFile,
    mark: Option<&SegmentMark>,
) -> bool {
    let is_free = (found.users, found.removed) == (0, false);
    let is_alike = (found.key, found.size_bytes) == (key, file.size_bytes);
    is_free
        && is_alike
        && mark.is_none_or(|mark| {
            let now = identity(id, found.creator, found.changed_s);
            let then = identity(id, mark.creator, mark.changed_s);
            (found.mode, found.owner) == (file.mode, file.owner) && first_of(now) == first_of(then)
        })
}

fn identity(id: i32, creator: Pid, changed_s: i64) -> Identity {
    (id, creator, changed_s)
}

/// The segment for which this one was made, or itself.
fn first_of(segment: Identity) -> Identity {
    let known = STAND_INS.lock().unwrap_or_else(PoisonError::into_inner);
    let first = known.as_ref().and_then(|known| known.get(&segment));
    *first.unwrap_or(&segment)
}

/// The refusal of a segment that is another one, or in use.
fn refusal(image: &Image, held: u32, id: i32, found: &Segment) -> Error {
    let how = match found.users {
        0 => format!("another one, which process {} has made", found.creator),
        users => format!("in use ({users} mappings)"),
    };
    let reason = format!(
        "was the segment {id} of System V shared memory; what has that number now is {how}"
    );
    let uses_it = |what: Mapped| matches!(what, Mapped::SharedHeld { held: of, .. } if of == held);
    let place = image.processes.iter().find_map(|process| {
        let mut mappings = process.mappings.iter();
        let mapping = mappings.find(|mapping| uses_it(mapping.what))?;
        Some((process.pid, ProcessPart::Address(mapping.start)))
    });
    let (pid, place) = place.unwrap_or((image.processes[0].pid, ProcessPart::Process));
    Error::Refused(vec![Refusal::new(pid, place, reason)])
}
