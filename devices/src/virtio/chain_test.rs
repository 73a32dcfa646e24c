use super::*;
use crate::virtio::test_driver::{BUFFERS, HIGH_REGION, REGION_BYTES, new_memory};

fn buffers(parts: &[(u64, u32)]) -> Buffers {
    let parts = parts
        .iter()
        .map(|&(address, len_bytes)| Buffer {
            address: GuestAddress(address),
            len_bytes,
        })
        .collect();
    Buffers { parts }
}

fn shape(buffers: &Buffers) -> Vec<(u64, u32)> {
    buffers
        .parts
        .iter()
        .map(|part| (part.address.0, part.len_bytes))
        .collect()
}

#[test]
fn splitting_cuts_between_and_within_buffers() {
    let whole = [(0x1000, 10), (0x2000, 20), (0x3000, 5)];
    for (at, front, back) in [
        (0, &[][..], &whole[..]),
        (4, &[(0x1000, 4)], &[(0x1004, 6), (0x2000, 20), (0x3000, 5)]),
        (10, &[(0x1000, 10)], &[(0x2000, 20), (0x3000, 5)]),
        (
            29,
            &[(0x1000, 10), (0x2000, 19)],
            &[(0x2013, 1), (0x3000, 5)],
        ),
        (
            34,
            &[(0x1000, 10), (0x2000, 20), (0x3000, 4)],
            &[(0x3004, 1)],
        ),
        (35, &whole, &[]),
        (99, &whole, &[]),
    ] {
        let mut first = buffers(&whole);
        let second = first.split_off(at);
        assert_eq!(shape(&first), front, "front at {at}");
        assert_eq!(shape(&second), back, "back at {at}");
    }
}

#[test]
fn copying_goes_across_buffers_and_stops_at_their_end() {
    let memory = new_memory();
    let stream = buffers(&[(BUFFERS, 3), (HIGH_REGION, 5)]);
    stream.write(&*memory, b"abcdefg").unwrap();
    let mut read = [0; 7];
    stream.read(&*memory, &mut read).unwrap();
    assert_eq!(&read, b"abcdefg");
    assert_eq!(stream.write(&*memory, &[0; 9]), Err(ChainError::WrongShape));
    assert_eq!(
        stream.read(&*memory, &mut [0; 9]),
        Err(ChainError::WrongShape)
    );
}

#[test]
fn a_buffer_that_reaches_out_of_memory_is_refused() {
    let memory = new_memory();
    for (address, len) in [
        (REGION_BYTES as u64 - 4, 8),
        (REGION_BYTES as u64, 1),
        (HIGH_REGION - 4, 8),
        (HIGH_REGION + REGION_BYTES as u64 - 1, 2),
        (u64::MAX - 1, 8),
    ] {
        let stream = buffers(&[(address, len)]);
        let slices = stream.slices(&*memory, Permissions::Write);
        assert_eq!(
            slices.err(),
            Some(ChainError::OutsideMemory),
            "{address:#x}"
        );
        let mut bytes = vec![0; len as usize];
        assert_eq!(
            stream.read(&*memory, &mut bytes),
            Err(ChainError::OutsideMemory),
            "{address:#x}"
        );
    }
}
