use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::stats::{Histogram, KernelCalls, RamCounters, SnapshotStats};

/// The text read back, strictly.
#[derive(Debug, Default)]
struct Read {
    kinds: BTreeMap<String, String>,
    /// In the order in which they stand: name, labels, value.
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

impl Read {
    fn of(text: &str) -> Self {
        assert!(text.ends_with('\n') && !text.contains("\n\n"), "{text}");
        let (mut read, mut family) = (Self::default(), String::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, meaning) = help.split_once(' ').expect("a meaning");
                assert!(is_name(name) && !meaning.is_empty(), "{line}");
                assert!(!read.kinds.contains_key(name), "{name} comes twice");
                family = name.to_owned();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect("a kind");
                assert_eq!(name, family, "the kind follows the meaning");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(
                    read.kinds
                        .insert(name.to_owned(), kind.to_owned())
                        .is_none()
                );
            } else {
                read.sample(line, &family);
            }
        }
        read
    }

    fn sample(&mut self, line: &str, family: &str) {
        let (name, rest) = line.split_once('{').expect("labels");
        let (labels, rest) = labels(rest);
        let value: f64 = rest
            .strip_prefix(' ')
            .expect("a value")
            .parse()
            .expect("a number");
        let of_family: &[&str] = match self.kinds[family].as_str() {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        let fits = |suffix: &&str| name.strip_prefix(family) == Some(suffix);
        assert!(
            is_name(name) && of_family.iter().any(fits),
            "{name} stands under {family}"
        );
        assert!(labels.keys().all(|label| is_name(label)));
        let again = self
            .samples
            .iter()
            .any(|(known, of, _)| known == name && *of == labels);
        assert!(!again, "{line} comes twice");
        self.samples.push((name.to_owned(), labels, value));
    }

    fn all(&self, name: &str) -> impl Iterator<Item = (&BTreeMap<String, String>, f64)> {
        let named = self.samples.iter().filter(move |(known, ..)| known == name);
        named.map(|(_, labels, value)| (labels, *value))
    }

    fn one(&self, name: &str) -> f64 {
        let mut all = self.all(name);
        let (_, value) = all.next().unwrap_or_else(|| panic!("no {name}"));
        assert!(all.next().is_none(), "more than one {name}");
        value
    }
}

fn is_name(name: &str) -> bool {
    let first = name
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    first && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// `a="b",c="d"}`, and what comes after it.
fn labels(mut text: &str) -> (BTreeMap<String, String>, &str) {
    let mut labels = BTreeMap::new();
    loop {
        let (label, rest) = text.split_once("=\"").expect("a label");
        let (mut value, mut chars) = (String::new(), rest.char_indices());
        let end = loop {
            match chars.next().expect("the end of a label") {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next() {
                    Some((_, 'n')) => '\n',
                    Some((_, c @ ('\\' | '"'))) => c,
                    other => panic!("\\ and {other:?}"),
                }),
                (_, c) => value.push(c),
            }
        };
        assert!(
            labels.insert(label.to_owned(), value).is_none(),
            "{label} comes twice"
        );
        let rest = &rest[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => text = more,
            None => {
                return (
                    labels,
                    rest.strip_prefix('}').expect("the end of the labels"),
                );
            }
        }
    }
}

fn times(times_ns: &[u64]) -> Buckets {
    let histogram = Histogram::default();
    let times = times_ns.iter().map(|ns| Duration::from_nanos(*ns));
    times.for_each(|took| histogram.record(took));
    histogram.buckets()
}

#[test]
fn every_number_is_there_under_its_name() {
    let stats = VmStats {
        ram: RamCounters {
            frames_mapped: 1,
            frames_own: 2,
            frames_shared: 3,
            frames_empty: 4,
            frames_ballooned: 5,
            write_faults: u64::MAX,
            mappings: 4,
            ..RamCounters::default()
        },
        kernel_calls: KernelCalls {
            mmap: 5,
            ..KernelCalls::default()
        },
        snapshots: SnapshotStats {
            taken: 6,
            ..SnapshotStats::default()
        },
        ..VmStats::default()
    };
    let text = exposition("web", Some(&stats));
    assert!(text.contains(
        "# TYPE nvvmm_write_faults_total counter\n\
         nvvmm_write_faults_total{vm=\"web\"} 18446744073709551615\n"
    ));
    let read = Read::of(&text);
    assert_eq!(
        (
            read.one("nvvmm_up"),
            read.one("nvvmm_mappings"),
            read.one("nvvmm_snapshots_total")
        ),
        (1.0, 4.0, 6.0)
    );
    let frames: Vec<_> = read
        .all("nvvmm_memory_frames")
        .map(|(labels, value)| (labels["kind"].as_str(), value))
        .collect();
    let expected = [
        ("mapped", 1.0),
        ("own", 2.0),
        ("shared", 3.0),
        ("empty", 4.0),
        ("balloon", 5.0),
    ];
    assert_eq!(frames, expected);
    let calls = read.all("nvvmm_kernel_calls_total");
    assert_eq!(
        calls
            .filter(|(labels, _)| labels["call"] == "mmap")
            .map(|(_, value)| value)
            .sum::<f64>(),
        5.0
    );
    assert!(
        read.samples
            .iter()
            .all(|(_, labels, _)| labels["vm"] == "web")
    );
    assert_eq!(read.kinds.len(), stats.metrics().len() + 1);
}

#[test]
fn of_a_vm_that_does_not_answer_only_that_is_said() {
    let read = Read::of(&exposition("web", None));
    assert_eq!((read.one("nvvmm_up"), read.samples.len()), (0.0, 1));
}

proptest! {
    #[test]
    fn a_histogram_comes_back(times_ns in prop::collection::vec(0..40_000_000_000_u64, 0..100)) {
        let buckets = times(&times_ns);
        let stats = VmStats { fault_latency: buckets.clone(), ..VmStats::default() };
        let read = Read::of(&exposition("web", Some(&stats)));
        let shown: Vec<(f64, f64)> = read
            .all("nvvmm_fault_latency_seconds_bucket")
            .map(|(labels, value)| (labels["le"].replace("+Inf", "inf").parse().unwrap(), value))
            .collect();
        prop_assert_eq!(shown.len(), buckets.counts.len());
        prop_assert!(shown.is_sorted_by(|left, right| left.0 < right.0 && left.1 <= right.1));
        for (bound_s, count) in &shown {
            let up_to = times_ns.iter().filter(|ns| **ns as f64 <= bound_s * 1e9).count();
            prop_assert_eq!(*count, up_to as f64, "up to {}", bound_s);
        }
        prop_assert_eq!(shown.last().unwrap().0, f64::INFINITY);
        prop_assert_eq!(read.one("nvvmm_fault_latency_seconds_count"), times_ns.len() as f64);
        let sum_s = times_ns.iter().sum::<u64>() as f64 / 1e9;
        prop_assert!((read.one("nvvmm_fault_latency_seconds_sum") - sum_s).abs() <= sum_s * 1e-12);
    }

    #[test]
    fn any_name_is_one_label(name in "\\PC*[\n\"\\\\]?\\PC*") {
        let read = Read::of(&exposition(&name, Some(&VmStats::default())));
        prop_assert!(read.samples.iter().all(|(_, labels, _)| labels["vm"] == name));
    }
}
