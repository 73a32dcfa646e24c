use super::{Spread, ratios};

fn spread(measured: &[f64]) -> (f64, f64, f64) {
    let spread = Spread::of(measured).unwrap();
    assert_eq!(spread.count, measured.len());
    (spread.min, spread.median, spread.max)
}

#[test]
fn the_median_is_the_middle_one_in_whatever_order() {
    assert_eq!(spread(&[5.0, 1.0, 9.0]), (1.0, 5.0, 9.0));
    assert_eq!(spread(&[7.0]), (7.0, 7.0, 7.0));
}

#[test]
fn of_an_even_number_it_is_half_way() {
    assert_eq!(spread(&[4.0, 1.0, 3.0, 100.0]), (1.0, 3.5, 100.0));
}

#[test]
fn nothing_measured_has_no_spread() {
    assert_eq!(Spread::of(&[]), None);
}

#[test]
fn ratios_are_of_the_same_repetition() {
    assert_eq!(ratios(&[10.0, 30.0], &[5.0, 3.0]), [2.0, 10.0]);
}
