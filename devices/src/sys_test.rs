use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::*;

#[test]
fn transfers_go_across_more_vectors_than_one_call_takes() {
    let count = IOV_MAX * 2 + 7;
    let file = tempfile::tempfile().unwrap();
    let written: Vec<u8> = (0..count * 3).map(|byte| (byte % 253) as u8).collect();
    let mut source = written.clone();
    let slices: Vec<_> = source.chunks_mut(3).map(VolatileSlice::from).collect();
    write_all_at(&file, &slices, 5).unwrap();
    let mut on_disk = vec![0; written.len()];
    file.read_exact_at(&mut on_disk, 5).unwrap();
    assert_eq!(on_disk, written);
    let mut target = vec![0; written.len()];
    let slices: Vec<_> = target.chunks_mut(3).map(VolatileSlice::from).collect();
    read_exact_at(&file, &slices, 5).unwrap();
    assert_eq!(target, written);
}

#[test]
fn the_end_of_the_file_and_impossible_offsets_are_errors() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(10).unwrap();
    let mut bytes = [0; 8];
    let slices = [VolatileSlice::from(&mut bytes[..])];
    assert_eq!(
        read_exact_at(&file, &slices, 3).unwrap_err().kind(),
        io::ErrorKind::UnexpectedEof
    );
    assert_eq!(
        read_exact_at(&file, &slices, u64::MAX).unwrap_err().kind(),
        io::ErrorKind::InvalidInput
    );
    read_exact_at(&file, &slices, 2).unwrap();
}

/// Short transfers of every size end with all bytes in place, and a signal in between changes
/// nothing.
#[test]
fn a_short_transfer_is_continued_where_it_stopped() {
    for step in 1..9 {
        let mut bytes: Vec<u8> = (0..20).collect();
        let iovecs = bytes
            .chunks_mut(3)
            .map(|chunk| libc::iovec {
                iov_base: chunk.as_mut_ptr().cast(),
                iov_len: chunk.len(),
            })
            .collect();
        let mut offsets = Vec::new();
        let start = bytes.as_ptr() as usize;
        transfer(iovecs, 100, |iovecs, offset| {
            let reached = iovecs[0].iov_base as usize - start;
            assert_eq!(
                reached as i64,
                offset - 100,
                "vectors and file offset go together"
            );
            offsets.push(offset);
            let rest: usize = iovecs.iter().map(|iovec| iovec.iov_len).sum();
            step.min(rest) as isize
        })
        .unwrap();
        assert_eq!(offsets.len(), 20_usize.div_ceil(step));
    }
}

#[test]
fn polling_tells_what_is_ready() {
    let (reader, mut writer) = io::pipe().unwrap();
    let fd = reader.as_fd().as_raw_fd();
    assert!(!poll_ready(fd, libc::POLLIN, Duration::ZERO).unwrap());
    writer.write_all(b"x").unwrap();
    assert!(poll_ready(fd, libc::POLLIN, Duration::ZERO).unwrap());
}
