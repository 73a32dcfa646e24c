use super::Ranges;

fn all(ranges: &Ranges) -> Vec<(u64, u64, u64)> {
    ranges.within(0, u64::MAX).collect()
}

#[test]
fn neighbours_with_neighbouring_numbers_are_one_entry() {
    let mut ranges = Ranges::default();
    ranges.set(10, 2, 100);
    ranges.set(12, 3, 102);
    ranges.set(15, 1, 7);
    assert_eq!(all(&ranges), [(10, 5, 100), (15, 1, 7)]);
    assert_eq!(ranges.find(11), (Some(101), 4));
    assert_eq!(ranges.find(15), (Some(7), 1));
    assert_eq!(ranges.find(4), (None, 6));
    assert_eq!(ranges.find(16), (None, u64::MAX - 16));
}

#[test]
fn places_that_are_numbered_anew_are_cut_out_of_what_was_there() {
    let mut ranges = Ranges::default();
    ranges.set(10, 10, 100);
    ranges.set(30, 5, 200);
    ranges.set(12, 3, 50);
    assert_eq!(
        all(&ranges),
        [(10, 2, 100), (12, 3, 50), (15, 5, 105), (30, 5, 200)]
    );
    ranges.set(0, 32, 1000);
    assert_eq!(all(&ranges), [(0, 32, 1000), (32, 3, 202)]);
}

#[test]
fn a_part_is_clipped_at_both_ends() {
    let mut ranges = Ranges::default();
    ranges.set(10, 10, 100);
    ranges.set(40, 2, 7);
    let within = |start, end| ranges.within(start, end).collect::<Vec<_>>();
    assert_eq!(within(12, 15), [(12, 3, 102)]);
    assert_eq!(within(0, 12), [(10, 2, 100)]);
    assert_eq!(within(18, 41), [(18, 2, 108), (40, 1, 7)]);
    assert_eq!(within(20, 40), []);
    assert_eq!(within(5, 5), []);
}
