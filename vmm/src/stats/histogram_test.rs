use proptest::prelude::*;

use super::*;

fn of(times_ns: &[u64]) -> Buckets {
    let histogram = Histogram::default();
    for ns in times_ns {
        histogram.record(Duration::from_nanos(*ns));
    }
    histogram.buckets()
}

#[test]
fn a_time_at_a_bound_is_counted_below_it() {
    for (ns, bucket) in [
        (0, 0),
        (1, 0),
        (1_000, 0),
        (1_001, 1),
        (2_000, 1),
        (2_001, 2),
        (4_000, 2),
        (1 << 24, 15),
        ((1 << 24) * 1000, 24),
        ((1 << 24) * 1000 + 1, 25),
        (u64::MAX, 25),
    ] {
        let buckets = of(&[ns]);
        assert_eq!(
            buckets.counts.iter().position(|count| *count == 1),
            Some(bucket),
            "{ns} ns"
        );
        assert_eq!(buckets.count(), 1);
    }
}

#[test]
fn a_time_that_no_number_can_hold_is_a_long_one() {
    let histogram = Histogram::default();
    histogram.record(Duration::MAX);
    assert_eq!(histogram.buckets().counts[BOUNDED], 1);
}

#[test]
fn nothing_recorded_has_no_mean_and_no_share() {
    let buckets = of(&[]);
    assert_eq!(
        (
            buckets.count(),
            buckets.mean_us(),
            buckets.bound_of_share_us(0.5)
        ),
        (0, None, None)
    );
    assert_eq!(buckets.counts.len(), BUCKETS);
}

#[test]
fn threads_lose_no_count() {
    let histogram = Histogram::default();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let histogram = &histogram;
            scope.spawn(move || {
                (0..10_000).for_each(|_| histogram.record(Duration::from_micros(1 << thread)))
            });
        }
    });
    let buckets = histogram.buckets();
    assert_eq!(buckets.counts[..5], [10_000, 10_000, 10_000, 10_000, 0]);
    assert_eq!(buckets.sum_us, 150_000.0);
}

proptest! {
    #[test]
    fn each_time_is_in_the_bucket_that_its_bounds_say(
        times in prop::collection::vec(0..40_000_000_000_u64, 1..200),
    ) {
        let buckets = of(&times);
        for (index, count) in buckets.counts.iter().enumerate() {
            let below = index.checked_sub(1).and_then(Buckets::bound_us);
            let above = below.map_or(-1, |us| us as i128 * 1000);
            let to = Buckets::bound_us(index).map_or(i128::MAX, |us| us as i128 * 1000);
            let is_here = |ns: &&u64| above < i128::from(**ns) && i128::from(**ns) <= to;
            let here = times.iter().filter(is_here).count();
            prop_assert_eq!(*count, here as u64, "bucket {}", index);
        }
        prop_assert_eq!(buckets.count(), times.len() as u64);
        let sum_us = times.iter().sum::<u64>() as f64 / 1e3;
        prop_assert_eq!(buckets.sum_us, sum_us);
        prop_assert_eq!(buckets.mean_us(), Some(sum_us / times.len() as f64));
    }

    #[test]
    fn the_bound_of_a_share_is_at_most_twice_the_time(
        mut times in prop::collection::vec(1_000..16_000_000_000_u64, 1..200),
        share in 0.0..=1.0,
    ) {
        let bound_us = of(&times).bound_of_share_us(share).unwrap();
        times.sort_unstable();
        let rank = ((times.len() as f64 * share).ceil() as usize).max(1);
        let time_us = times[rank - 1] as f64 / 1e3;
        let bound_us = bound_us as f64;
        prop_assert!(time_us <= bound_us && bound_us < 2.0 * time_us.max(1.0) + 1.0);
    }

    #[test]
    fn what_goes_over_the_socket_comes_back(
        times in prop::collection::vec(0..40_000_000_000_u64, 0..50),
    ) {
        let buckets = of(&times);
        let text = serde_json::to_string(&buckets).unwrap();
        prop_assert_eq!(serde_json::from_str::<Buckets>(&text).unwrap(), buckets);
    }
}
