use nvvmm::checkpoint::report::PhaseTime;

use super::Observations;
use crate::bench::report::Bound;

fn phase(name: &str, us: f64) -> PhaseTime {
    PhaseTime {
        phase: name.into(),
        us,
    }
}

fn seen() -> Observations {
    let mut seen = Observations::default();
    for (copy, reference) in [(4000.0, 100.0), (6000.0, 300.0), (5000.0, 100.0)] {
        seen.add("copy", 16.0, copy, &[phase("WriteMemory", copy - 10.0)]);
        seen.add(
            "reference",
            16.0,
            reference,
            &[phase("Arm", 5.0), phase("Commit", reference)],
        );
    }
    seen.add("reference", 64.0, 120.0, &[]);
    seen
}

#[test]
fn a_table_has_a_row_for_each_place_and_a_column_for_each_series() {
    let table = seen().times("Times", "touched", |mib| format!("{mib} MiB"));
    assert_eq!(table.columns, ["touched", "copy", "reference"]);
    assert_eq!(
        table.rows,
        [
            [
                "16 MiB",
                "5.00 ms (4.00 ms..6.00 ms)",
                "100 µs (100 µs..300 µs)"
            ],
            ["64 MiB", "-", "120 µs"]
        ]
    );
}

#[test]
fn phases_are_medians_of_those_that_a_series_has() {
    let table = seen().phases("Where it goes", 16.0);
    assert_eq!(
        table.rows,
        [
            ["WriteMemory", "4.99 ms", "-"],
            ["Arm", "-", "5.00 µs"],
            ["Commit", "-", "100 µs"]
        ]
    );
}

#[test]
fn a_target_is_a_ratio_of_pairs() {
    let target = seen()
        .target("faster", ("copy", "reference"), 16.0, 25.0)
        .unwrap();
    assert_eq!(
        (
            target.measured.min,
            target.measured.median,
            target.measured.max
        ),
        (20.0, 40.0, 50.0)
    );
    assert_eq!(target.wanted, Bound::AtLeast(25.0));
    assert!(target.is_met());
    assert!(
        seen()
            .target("faster", ("copy", "reference"), 64.0, 25.0)
            .is_none(),
        "copy was not measured there"
    );
}
