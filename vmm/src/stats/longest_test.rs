use super::*;

#[test]
fn the_longest_of_all_and_of_those_watched() {
    let longest = Longest::default();
    assert_eq!((longest.all_us(), longest.watched_us()), (0.0, 0.0));
    for us in [3, 90, 7] {
        longest.record(Duration::from_micros(us));
    }
    assert_eq!((longest.all_us(), longest.watched_us()), (90.0, 90.0));
    longest.watch();
    assert_eq!((longest.all_us(), longest.watched_us()), (90.0, 0.0));
    longest.record(Duration::from_nanos(4_500));
    assert_eq!((longest.all_us(), longest.watched_us()), (90.0, 4.5));
}
