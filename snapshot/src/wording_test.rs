use super::*;

#[test]
fn sizes_are_in_the_unit_that_fits() {
    for (bytes, text) in [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (512 << 20, "512 MiB"),
        ((1 << 30) + (51 << 20), "1 GiB"),
        ((1 << 30) + (52 << 20), "1.1 GiB"),
        (16 << 40, "16 TiB"),
        (u64::MAX, "16384 PiB"),
    ] {
        assert_eq!(SizeText::of(bytes).to_string(), text);
    }
}

#[test]
fn a_size_that_is_needed_never_looks_like_one_that_is_left() {
    let mib = 1 << 20;
    for (needed, left) in [
        (4096, 0),
        (mib + 4096, mib),
        (mib, mib - 4096),
        (1 << 30, (1 << 30) - 1),
        (5 * mib + 70_000, 5 * mib + 60_000),
    ] {
        let [needed, left] =
            [SizeText::needed(needed), SizeText::left(left)].map(|size| size.to_string());
        assert_ne!(needed, left);
    }
    assert_eq!(SizeText::needed(512 * mib).to_string(), "512 MiB");
    assert_eq!(SizeText::left(512 * mib).to_string(), "512 MiB");
}

#[test]
fn plurals_are_right() {
    for (number, one, text) in [
        (0, "snapshot", "0 snapshots"),
        (1, "snapshot", "1 snapshot"),
        (2, "process", "2 processes"),
        (1, "process", "1 process"),
        (3, "entry", "3 entries"),
        (3, "key", "3 keys"),
        (2, "vCPU", "2 vCPUs"),
    ] {
        assert_eq!(counted(number as u64, one), text);
    }
    assert_eq!(
        (is_or_are(0u32), is_or_are(1u32), is_or_are(2u64)),
        ("are", "is", "are")
    );
}

#[test]
fn times_are_in_the_unit_that_fits() {
    for (us, text) in [
        (0, "0 µs"),
        (999, "999 µs"),
        (2_149, "2.1 ms"),
        (999_999, "999.9 ms"),
        (12_050_000, "12.0 s"),
    ] {
        assert_eq!(TimeText(Duration::from_micros(us)).to_string(), text);
    }
}
