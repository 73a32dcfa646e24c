use vm_memory::GuestMemoryMmap;

use super::*;

const PLACES: IdentityPlaces = IdentityPlaces {
    generation_id: 0x1000,
    clock_page: 0x2000,
};

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x4000)]).unwrap()
}

fn generation(first: u8) -> Generation {
    let mut bytes = [0; Generation::RANDOM_BYTES];
    (first..)
        .zip(&mut bytes)
        .for_each(|(number, byte)| *byte = number);
    Generation::from_random(bytes)
}

fn all_of(memory: &GuestMemoryMmap) -> Vec<u8> {
    let mut bytes = vec![0; 0x4000];
    memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
    bytes
}

#[test]
fn the_guest_finds_what_linux_expects_where_it_expects_it() {
    let (memory, mut identity) = (memory(), Identity::absent(PLACES));
    identity.begin(&memory, &generation(1)).unwrap();
    let bytes = all_of(&memory);
    let id: Vec<u8> = (1..=16).collect();
    assert_eq!(bytes[0x1000..0x1010], id);
    let page = &bytes[0x2000..0x3000];
    assert_eq!(&page[..4], b"VCLK");
    assert_eq!(page[4..8], 0x1000u32.to_le_bytes(), "size");
    assert_eq!(page[8..12], [1, 0, 0xff, 0], "version, counter, time type");
    assert_eq!(page[12..16], 2u32.to_le_bytes(), "sequence");
    let disruption = u64::from_be_bytes([17, 18, 19, 20, 21, 22, 23, 24]);
    assert_eq!(page[16..24], disruption.to_le_bytes());
    assert_eq!(page[24..32], 0x300u64.to_le_bytes(), "flags");
    assert_eq!(page[32..104], [0; 72], "nothing is said of time");
    let counter = u64::from_be_bytes([25, 26, 27, 28, 29, 30, 31, 32]);
    assert_eq!(page[104..112], counter.to_le_bytes());
    assert!(page[112..].iter().all(|byte| *byte == 0));
}

#[test]
fn new_values_come_with_another_sequence_and_a_save_changes_nothing() {
    let (memory, mut identity) = (memory(), Identity::absent(PLACES));
    identity.begin(&memory, &generation(1)).unwrap();
    let before = all_of(&memory);
    let saved = identity.save().unwrap().unwrap();
    assert!(Identity::is_state(&saved));
    assert_eq!(all_of(&memory), before);

    let mut copy = Identity::absent(PLACES);
    copy.restore(Some(&saved)).unwrap();
    assert_eq!(all_of(&memory), before, "nor does the state alone");
    copy.renew(&memory, &generation(100)).unwrap();
    let after = all_of(&memory);
    assert_eq!(after[0x200c..0x2010], 4u32.to_le_bytes());
    for place in [0x1000..0x1010, 0x2010..0x2018, 0x2068..0x2070] {
        assert_ne!(after[place.clone()], before[place]);
    }
    // What a guest wrote there is of no consequence.
    let page = GuestAddress(PLACES.clock_page);
    memory.write_slice(&[0xff; 0x70], page).unwrap();
    copy.renew(&memory, &generation(7)).unwrap();
    let mended = all_of(&memory);
    assert_eq!(&mended[0x2000..0x2004], b"VCLK");
    assert_eq!(mended[0x200c..0x2010], 6u32.to_le_bytes());
}

#[test]
fn a_guest_of_an_older_nvvmm_is_left_alone() {
    let (memory, mut identity) = (memory(), Identity::absent(PLACES));
    identity.restore(None).unwrap();
    identity.renew(&memory, &generation(1)).unwrap();
    assert!(all_of(&memory).iter().all(|byte| *byte == 0));
    assert!(!identity.is_present());
    assert!(identity.save().unwrap().is_none());
}

#[test]
fn a_damaged_state_is_refused() {
    let mut identity = Identity::absent(PLACES);
    identity.restore(None).unwrap();
    let mut saved = SavedDevice::encode(KIND, VERSION, INSTANCE, &IdentityStateV1 { sequence: 2 });
    let saved = saved.as_mut().unwrap();
    saved.version = 2;
    identity.restore(Some(saved)).unwrap_err();
    saved.version = 1;
    saved.payload.push(0);
    identity.restore(Some(saved)).unwrap_err();
    saved.payload.clear();
    identity.restore(Some(saved)).unwrap_err();
}
