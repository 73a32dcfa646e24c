extern crate std;
use super::*;
use std::{collections::HashMap, vec, vec::Vec};

const PATTERNS: [Pattern; 4] = [Pattern::Seq, Pattern::Rand, Pattern::Hot, Pattern::Stride];

#[test]
fn last_before_agrees_with_remembering_every_write() {
    for pattern in PATTERNS {
        for len in [1, 2, 3, 16, 17, 100, 255, 257, 700] {
            for vcpus in [1, 2, 3, 8] {
                let order = Order::new(pattern, 7, len, vcpus);
                let mut last: HashMap<u64, u64> = HashMap::new();
                for n in 0..len * 3 + 5 {
                    if n % 7 == 0 || n < 40 {
                        for index in 0..len {
                            let expected = last.get(&index).copied();
                            assert_eq!(
                                order.last_before(index, n),
                                expected,
                                "{pattern:?} {len} {n} {index}"
                            );
                        }
                    }
                    let index = order.at(n);
                    assert!(index < len, "{pattern:?} {len} {n} -> {index}");
                    last.insert(index, n);
                }
            }
        }
    }
}

#[test]
fn every_round_visits_every_frame() {
    for pattern in [Pattern::Seq, Pattern::Rand, Pattern::Stride] {
        let order = Order::new(pattern, 3, 300, 2);
        for round in 0..3 {
            let mut seen = vec![false; 300];
            for n in 0..300 {
                seen[order.at(round * 300 + n) as usize] = true;
            }
            assert!(seen.iter().all(|&s| s), "{pattern:?}");
        }
    }
}

#[test]
fn hot_spends_most_writes_on_a_sixteenth_and_still_reaches_all() {
    let order = Order::new(Pattern::Hot, 3, 160, 1);
    let writes: Vec<u64> = (0..16 * 160).map(|n| order.at(n)).collect();
    assert_eq!(writes.iter().filter(|&&index| index < 10).count(), 15 * 160);
    assert!((0..160).all(|index| writes.contains(&index)));
}

#[test]
fn stride_goes_to_the_next_chunk_with_each_write() {
    let order = Order::new(Pattern::Stride, 3, 2048, 2);
    assert_eq!([order.at(0), order.at(1), order.at(2)], [0, 256, 512]);
}

#[test]
fn rand_differs_by_seed_and_by_round() {
    let walk = |seed, from: u64| -> Vec<u64> {
        let order = Order::new(Pattern::Rand, seed, 64, 1);
        (from..from + 64).map(|n| order.at(n)).collect()
    };
    assert_ne!(walk(1, 0), walk(2, 0));
    assert_ne!(walk(1, 0), walk(1, 64));
    assert_eq!(walk(1, 0), walk(1, 0));
}
