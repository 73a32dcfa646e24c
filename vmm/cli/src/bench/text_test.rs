use super::{figure, table, targets, text};
use crate::bench::{
    host::HostFacts,
    load::HostLoad,
    report::{Bound, Experiment, Report, Table, Target},
    statistics::Spread,
};

fn target(wanted: Bound, measured: &[f64]) -> Target {
    Target {
        what: "a ratio".into(),
        wanted,
        measured: Spread::of(measured).unwrap(),
        unit: "x".into(),
    }
}

#[test]
fn a_target_says_what_was_wanted_found_and_whether_that_will_do() {
    let shown = targets(&[
        target(Bound::AtLeast(25.0), &[24.0, 26.04, 30.0]),
        target(Bound::AtMost(1.0), &[1.5]),
    ]);
    assert_eq!(
        shown.rows,
        [
            ["a ratio", ">= 25x", "26.0x (24..30)", "yes"],
            ["a ratio", "<= 1x", "1.50x", "no"]
        ]
    );
}

#[test]
fn figures_have_three_digits_that_count() {
    assert_eq!(
        [512.4, 51.26, 5.126, 0.5].map(figure),
        ["512", "51.3", "5.13", "0.50"]
    );
}

#[test]
fn a_table_is_aligned_and_a_report_says_what_is_missing() {
    let shown = Table {
        title: "Times".into(),
        columns: vec!["touched".into(), "copy".into()],
        rows: vec![vec!["16 MiB".into(), "1 ms".into()]],
    };
    assert_eq!(table(&shown), "touched  copy\n16 MiB   1 ms\n");
    let report = Report {
        nvvmm: "1".into(),
        began: "now".into(),
        took_s: 1.0,
        host: HostFacts {
            load: Some(HostLoad {
                used_percent: 45,
                busy: true,
                ..Default::default()
            }),
            ..Default::default()
        },
        method: Vec::new(),
        experiments: vec![Experiment {
            title: "An experiment".into(),
            tables: vec![shown],
            ..Default::default()
        }],
        left_out: vec!["huge pages".into()],
        failed: vec!["cow: no room".into()],
    };
    let text = text(&report);
    for part in [
        "An experiment",
        "Times",
        "16 MiB   1 ms",
        "left out: huge pages",
        "failed: cow: no room",
        "warning: the host was busy before the run: 45% of its CPU time was in use",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}
