use super::*;

#[test]
fn a_kind_has_its_burst_and_then_one_line_at_a_time() {
    let limiter = Limiter::new();
    let (flood, other) = ("flood", "other");
    let start = Instant::now();
    let admitted: Vec<_> = (0..1000)
        .filter_map(|_| limiter.admit(flood, start))
        .collect();
    assert_eq!(admitted.len(), BURST as usize);
    let last = admitted.iter().filter(|line| line.is_last).count();
    assert!(last == 1 && admitted.last().unwrap().is_last);
    assert!(limiter.admit(other, start).is_some(), "kinds are apart");

    let later = start + ONE_EVERY;
    let next = limiter.admit(flood, later).unwrap();
    assert_eq!(next.left_out, 1000 - u64::from(BURST));
    assert_eq!(limiter.admit(flood, later), None);
    // After a rest it has its burst again, and no more than that.
    let much_later = later + ONE_EVERY * 1000;
    let again = (0..1000)
        .filter_map(|_| limiter.admit(flood, much_later))
        .count();
    assert_eq!(again, BURST as usize);
}

#[test]
fn time_that_goes_back_admits_nothing_more() {
    let limiter = Limiter::new();
    let kind = "flood";
    let now = Instant::now() + ONE_EVERY * 10;
    while limiter.admit(kind, now).is_some() {}
    assert_eq!(limiter.admit(kind, now - ONE_EVERY * 5), None);
    assert_eq!(limiter.admit(kind, now), None);
}

#[test]
fn a_long_line_is_cut_between_characters() {
    let long = "ä".repeat(LINE_BYTES_MAX);
    let cut = cut_off(&long);
    assert!(cut.len() <= LINE_BYTES_MAX && cut.len() > LINE_BYTES_MAX - 4);
    assert_eq!(cut_off("short"), "short");
}
