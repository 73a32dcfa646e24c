use std::io::{Read, Write};

use super::*;

fn written(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = DataWriter::begin(&mut bytes);
    for part in parts {
        writer.write_all(part).unwrap();
    }
    writer.end().unwrap();
    bytes
}

#[test]
fn a_message_and_a_stream_arrive_as_they_were() {
    let go = FromSource::Go { paused: true };
    let mut bytes = Vec::new();
    say(&mut bytes, &go).unwrap();
    let long = vec![7; DATA_BYTES_MAX + 1];
    bytes.extend(written(&[b"one", &long]));
    let mut input = bytes.as_slice();
    let mut next = || Frame::read(&mut input).unwrap();
    assert_eq!(message::<FromSource>(&next().unwrap()).unwrap(), go);
    assert_eq!(next(), Some(Frame::Data(b"one".to_vec())));
    assert_eq!(next(), Some(Frame::Data(vec![7; DATA_BYTES_MAX])));
    assert_eq!(next(), Some(Frame::Data(vec![7])));
    assert_eq!(next(), Some(Frame::Data(Vec::new())));
    assert_eq!(next(), None);
}

#[test]
fn a_stream_is_read_as_it_was_written_and_nothing_behind_it() {
    let long: Vec<u8> = (0..DATA_BYTES_MAX + 5).map(|at| at as u8).collect();
    let mut bytes = written(&[b"one", &long]);
    bytes.extend(written(&[b"two"]));
    let mut input = bytes.as_slice();
    let mut first = DataReader::begin(&mut input);
    let mut start = [0; 5];
    first.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"one\0\x01");
    first.end().unwrap();
    let mut second = Vec::new();
    let mut reader = DataReader::begin(&mut input);
    reader.read_to_end(&mut second).unwrap();
    reader.end().unwrap();
    assert_eq!((second.as_slice(), input.len()), (&b"two"[..], 0));
    let mut cut = &bytes[..20];
    assert!(DataReader::begin(&mut cut).end().is_err());
}

#[test]
fn what_is_no_frame_is_refused_and_takes_no_memory() {
    let bad: [&[u8]; 4] = [
        b"Last login: Monday",
        &[KIND_DATA, 255, 255, 255, 255],
        &[KIND_MESSAGE, 1, 0, 1, 0],
        &[KIND_MESSAGE, 4, 0, 0],
    ];
    for bytes in bad {
        assert!(Frame::read(&mut &bytes[..]).is_err(), "{bytes:?}");
    }
    let unknown = Frame::Message(br#"{"say":"sing"}"#.to_vec());
    assert!(message::<FromSource>(&unknown).is_err());
    assert!(message::<FromSource>(&Frame::Data(Vec::new())).is_err());
}
