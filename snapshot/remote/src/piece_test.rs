use nvvmm_snapshot::stream::sealed::Key;

use super::*;

fn chunk() -> (FrameSet, Vec<u8>) {
    let mut there = FrameSet::EMPTY;
    let mut chunk = vec![0; 2 << 20];
    for frame in [1_u32, 5, 127, 128, 300] {
        there.insert(frame);
        chunk[frame as usize * FRAME_BYTES..][..FRAME_BYTES].fill(frame as u8 + 1);
    }
    (there, chunk)
}

#[test]
fn a_chunk_s_frames_come_back_from_its_pieces() {
    let (there, chunk) = chunk();
    let key = Key::from_text(&"a".repeat(64));
    for keys in [
        StoreKeys::of(&[1; 32], None),
        StoreKeys::of(&[1; 32], key.as_ref()),
    ] {
        let (mut maker, mut reader) = (PieceMaker::new(0).unwrap(), PieceReader::new().unwrap());
        let mut content = Vec::new();
        let mut found = Vec::new();
        for number in 0..CHUNK_PIECES {
            if !content_of(number, &there, &chunk, &mut content) {
                assert_eq!(number, 3);
                continue;
            }
            let name = keys.piece_name(&content);
            let stored = maker.stored(&keys, &name, &content).unwrap();
            assert_eq!(reader.content(&keys, &name, &stored).unwrap(), content);
            let other = keys.piece_name(b"other");
            assert!(reader.content(&keys, &other, &stored).is_err());
            for (place, bytes) in frames_of(&content).unwrap() {
                found.push((number * PIECE_FRAMES + place, bytes[0]));
            }
        }
        assert_eq!(found, [(1, 2), (5, 6), (127, 128), (128, 129), (300, 45)]);
    }
}

#[test]
fn content_that_is_not_that_of_a_piece_is_refused() {
    for content in [&[][..], &[0; 15], &[0; 16], &[1; 16], &[0; 16 + 4096]] {
        assert!(frames_of(content).is_err());
    }
}
