use std::io::{ErrorKind, Read, Write};

use super::sealed::{Key, Opening, Sealing};
use crate::error::Error;

const START_BYTES: usize = 80;
const PIECE_BYTES: usize = 64 << 10;

fn key(digit: char) -> Key {
    Key::from_text(&digit.to_string().repeat(64)).unwrap()
}

fn plain(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn sealed(plain: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut sealing = Sealing::begin(&mut bytes, &key('a')).unwrap();
    sealing.write_all(plain).unwrap();
    let said = sealing.finish().unwrap();
    assert_eq!(said, bytes.len() as u64);
    bytes
}

/// The bytes that come out before all is read, or an error.
fn opened(bytes: &[u8], key: &Key) -> (Vec<u8>, Result<(), String>) {
    let mut plain = Vec::new();
    let done = match Opening::begin(bytes, key) {
        Ok(mut opening) => opening
            .read_to_end(&mut plain)
            .map(drop)
            .map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    (plain, done)
}

#[test]
fn what_was_sealed_is_opened_whatever_its_length() {
    for len in [
        0,
        1,
        5000,
        PIECE_BYTES - 1,
        PIECE_BYTES,
        PIECE_BYTES + 1,
        3 * PIECE_BYTES,
    ] {
        let plain = plain(len);
        assert_eq!(opened(&sealed(&plain), &key('a')), (plain, Ok(())), "{len}");
    }
    assert_ne!(
        sealed(b"the same"),
        sealed(b"the same"),
        "each has a key of its own"
    );
}

#[test]
fn nothing_comes_out_that_was_changed() {
    let plain = plain(100);
    let bytes = sealed(&plain);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let (out, done) = opened(&changed, &key('a'));
        assert!(out.is_empty() && done.is_err(), "byte {at}: {done:?}");
    }
    for len in 0..bytes.len() {
        assert!(opened(&bytes[..len], &key('a')).1.is_err(), "{len} bytes");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(opened(&longer, &key('a')).1.is_err());
}

#[test]
fn pieces_left_out_repeated_or_exchanged_are_found_and_those_before_are_good() {
    let plain = plain(4 * PIECE_BYTES + 10);
    let bytes = sealed(&plain);
    let piece = 4 + PIECE_BYTES + 16;
    let pieces: Vec<&[u8]> = bytes[START_BYTES..].chunks(piece).collect();
    assert_eq!(pieces.len(), 5);
    let check = |pieces: &[&[u8]], good: usize| {
        let (out, done) = opened(
            &[&bytes[..START_BYTES], &pieces.concat()].concat(),
            &key('a'),
        );
        assert!(done.is_err());
        assert!(
            out == plain[..good * PIECE_BYTES],
            "{} of {good} pieces",
            out.len()
        );
    };
    check(&[pieces[0], pieces[2], pieces[3], pieces[4]], 1);
    check(
        &[
            pieces[0], pieces[0], pieces[1], pieces[2], pieces[3], pieces[4],
        ],
        1,
    );
    check(&[pieces[0], pieces[2], pieces[1], pieces[3], pieces[4]], 1);
    check(&[pieces[4]], 0);
    check(&pieces[..4], 4);
}

#[test]
fn an_end_that_is_missing_is_told_from_a_broken_seal() {
    let bytes = sealed(&plain(2 * PIECE_BYTES));
    let kind = |bytes: &[u8]| {
        let mut opening = Opening::begin(bytes, &key('a')).unwrap();
        opening.read_to_end(&mut Vec::new()).unwrap_err().kind()
    };
    assert_eq!(kind(&bytes[..bytes.len() - 3]), ErrorKind::UnexpectedEof);
    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    assert_eq!(kind(&changed), ErrorKind::InvalidData);
}

#[test]
fn another_key_and_what_is_not_sealed_are_told_by_name() {
    let bytes = sealed(b"text");
    let refusal = |bytes: &[u8], key: &Key| Opening::begin(bytes, key).err().unwrap();
    assert!(matches!(refusal(&bytes, &key('b')), Error::WrongKey));
    assert!(matches!(refusal(&[b'N'; 99], &key('a')), Error::NotAStream));
    let mut plain = bytes.clone();
    plain[..8].copy_from_slice(b"NVVMSEND");
    assert!(matches!(refusal(&plain, &key('a')), Error::StreamNotSealed));
    let mut newer = bytes;
    newer[8] = 9;
    assert!(matches!(
        refusal(&newer, &key('a')),
        Error::StreamVersion { found: 9, .. }
    ));
}

#[test]
fn a_key_is_64_hexadecimal_digits() {
    assert!(Key::from_text(&format!("  {}\n", "0aF".repeat(22).split_at(64).0)).is_some());
    for text in [
        "",
        "abc",
        &"g".repeat(64),
        &"a".repeat(63),
        &"a".repeat(65),
        &"é".repeat(32),
    ] {
        assert!(Key::from_text(text).is_none(), "{text}");
    }
    assert_eq!(format!("{:?}", key('a')), "Key(..)");
}
