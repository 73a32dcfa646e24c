use super::*;

fn kept_file() -> (KeptOutput, File) {
    let file = tempfile::tempfile().unwrap();
    let reader = file.try_clone().unwrap();
    (KeptOutput::begin(file).unwrap(), reader)
}

#[test]
fn the_latest_output_is_kept_however_much_there_was() {
    let (mut kept, reader) = kept_file();
    assert_eq!(read_kept_output(&reader).unwrap().bytes, b"");
    let mut all: Vec<u8> = Vec::new();
    for round in 0..40_u32 {
        let part: Vec<u8> = (0..9973 * (round % 13))
            .map(|at| (at ^ round) as u8)
            .collect();
        kept.push(&part);
        all.extend(&part);
        let read = read_kept_output(&reader).unwrap();
        let expected = &all[all.len().saturating_sub(KEPT_BYTES)..];
        assert!(read.bytes == expected, "round {round}");
        assert_eq!(read.written, all.len() as u64);
    }
    assert!(reader.metadata().unwrap().len() <= HEAD_BYTES + RING_BYTES);
}

#[test]
fn a_writer_that_dies_in_the_middle_spoils_nothing_that_is_kept() {
    let (mut kept, reader) = kept_file();
    kept.push(&[b'a'; KEPT_BYTES]);
    kept.push(b"the end");
    let before = read_kept_output(&reader).unwrap();
    // All of a write but the new count.
    let at = kept.written % RING_BYTES;
    kept.file
        .write_all_at(&[b'b'; KEPT_BYTES], HEAD_BYTES + at)
        .unwrap();
    assert!(read_kept_output(&reader).unwrap() == before);
}

#[test]
fn a_file_that_cannot_be_written_costs_only_what_it_would_keep() {
    let path = tempfile::NamedTempFile::new().unwrap();
    let mut kept = KeptOutput::begin(path.reopen().unwrap()).unwrap();
    kept.file = File::open(path.path()).unwrap();
    kept.push(b"lost");
    assert_eq!(read_kept_output(&kept.file).unwrap().written, 0);
}

#[test]
fn another_file_is_refused() {
    let file = tempfile::tempfile().unwrap();
    assert!(read_kept_output(&file).is_err());
    file.write_all_at(&[0xff; 64], 0).unwrap();
    assert!(read_kept_output(&file).is_err());
    file.write_all_at(&MAGIC, 0).unwrap();
    assert!(read_kept_output(&file).is_err(), "the ring is missing");
}
