use super::*;

/// Remembers the last write and answers reads with its number and the offset.
struct Probe {
    number: u8,
    written: Vec<(u64, Vec<u8>)>,
}

impl BusDevice for Probe {
    fn read(&mut self, offset: u64, bytes: &mut [u8]) {
        bytes.fill(self.number + offset as u8);
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.written.push((offset, bytes.to_owned()));
    }
}

fn probe(number: u8) -> Arc<Mutex<Probe>> {
    Arc::new(Mutex::new(Probe {
        number,
        written: Vec::new(),
    }))
}

fn read(bus: &Bus, address: u64, len: usize) -> (bool, Vec<u8>) {
    let mut bytes = vec![0; len];
    let claimed = bus.read(address, &mut bytes);
    (claimed, bytes)
}

#[test]
fn an_access_reaches_the_device_at_its_offset() {
    let (low, high) = (probe(10), probe(100));
    let mut bus = Bus::new();
    bus.insert("low", 0x1000, 0x10, low.clone()).unwrap();
    bus.insert("high", 0x1010, 0x10, high.clone()).unwrap();
    assert_eq!(read(&bus, 0x1000, 1), (true, vec![10]));
    assert_eq!(read(&bus, 0x100c, 4), (true, vec![22; 4]));
    assert_eq!(read(&bus, 0x1010, 2), (true, vec![100; 2]));
    assert!(bus.write(0x1014, &[1, 2]));
    assert_eq!(high.lock().unwrap().written, [(4, vec![1, 2])]);
    assert!(low.lock().unwrap().written.is_empty());
}

#[test]
fn nobody_claims_what_is_outside_every_range_or_across_an_end() {
    let device = probe(1);
    let mut bus = Bus::new();
    bus.insert("device", 0x1000, 0x10, device.clone()).unwrap();
    for (address, len) in [
        (0xfff, 1),
        (0x1010, 1),
        (0x100d, 4),
        (0xffe, 4),
        (0, 8),
        (u64::MAX, 8),
    ] {
        assert_eq!(
            read(&bus, address, len),
            (false, vec![0xff; len]),
            "{address:#x}"
        );
        assert!(!bus.write(address, &vec![0; len]), "{address:#x}");
    }
    assert!(device.lock().unwrap().written.is_empty());
}

#[test]
fn overlapping_and_impossible_ranges_are_refused() {
    let mut bus = Bus::new();
    bus.insert("first", 0x1000, 0x10, probe(1)).unwrap();
    for (base, len) in [
        (0x1000, 0x10),
        (0xfff, 2),
        (0x100f, 1),
        (0x1004, 1),
        (0, 0x2000),
        (0x100f, u64::MAX - 0x100f),
    ] {
        let error = bus.insert("second", base, len, probe(2)).unwrap_err();
        assert!(
            matches!(&error, BusError::Overlap { other, .. } if other == "first"),
            "{error}"
        );
    }
    for (base, len) in [(0x2000, 0), (u64::MAX, 2)] {
        assert!(matches!(
            bus.insert("second", base, len, probe(2)),
            Err(BusError::BadRange { .. })
        ));
    }
    bus.insert("last", u64::MAX, 1, probe(3)).unwrap();
    assert_eq!(read(&bus, u64::MAX, 1), (true, vec![3]));
    bus.insert("before", 0xff0, 0x10, probe(4)).unwrap();
    bus.insert("after", 0x1010, 0x10, probe(5)).unwrap();
    assert_eq!(read(&bus, 0x100f, 1), (true, vec![16]));
}
