use std::time::Duration;

use nvvmm::checkpoint::report::RamCounters;
use nvvmm::stats::{Histogram, KernelCalls};

use super::*;

fn times(times_us: &[u64]) -> Buckets {
    let histogram = Histogram::default();
    times_us
        .iter()
        .for_each(|us| histogram.record(Duration::from_micros(*us)));
    histogram.buckets()
}

#[test]
fn numbers_stand_in_a_table_and_times_in_a_picture() {
    let stats = VmStats {
        ram: RamCounters {
            write_faults: 12_345,
            ..RamCounters::default()
        },
        kernel_calls: KernelCalls {
            mmap: 77,
            ..KernelCalls::default()
        },
        fault_latency: times(&[10, 12, 13, 16, 100]),
        ..VmStats::default()
    };
    let text = stats_text(&stats);
    let line = |start: &str| {
        text.lines()
            .find(|line| line.starts_with(start))
            .unwrap_or_else(|| panic!("{start}: {text}"))
    };
    assert!(line("COUNTED").contains("VALUE") && line("COUNTED").ends_with("MEANING"));
    assert!(line("write faults").contains(" 12345  writes to"));
    assert!(line("kernel calls, mmap").ends_with(" 77"));
    assert!(
        line("fault latency:")
            .ends_with("5 times, 30 µs on average, half within 16 µs, 99 of 100 within 128 µs")
    );
    assert!(line("snapshot pause:").ends_with("none yet"));
    assert!(text.lines().all(|line| line.trim_end() == line), "{text}");
}

#[test]
fn a_picture_goes_from_the_first_to_the_last_time() {
    let text = picture(&times(&[10, 12, 13, 16, 100]));
    let bar = "█".repeat(40);
    let expected = [
        format!("       ≤ 16 µs          4  {bar}\n"),
        "       ≤ 32 µs          0\n".to_owned(),
        "       ≤ 64 µs          0\n".to_owned(),
        format!("      ≤ 128 µs          1  {}\n", "█".repeat(10)),
    ];
    assert_eq!(text, expected.concat());
    assert_eq!(picture(&times(&[])), "");
    // However few, they are seen.
    let mut many = vec![1; 1000];
    many.push(20_000_000);
    let text = picture(&times(&many));
    assert_eq!(text.lines().last(), Some("     > 16.78 s          1  █"));
}
