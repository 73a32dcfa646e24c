use super::*;
use crate::bench::{markdown, plot};

/// The measurements of this repository, in the form of before there was a schema.
fn measured() -> Report {
    let axis = |label: &str, base| ShownAxis {
        label: label.into(),
        base,
        names: vec!["one".into(), "two".into()],
    };
    Report {
        nvvmm: "0.1.0".into(),
        began: "2026-11-29 15:50:04".into(),
        took_s: 1052.499698,
        host: HostFacts {
            cpu: "a processor".into(),
            cpus: 2,
            memory_bytes: 25_276_059_648,
            kernel: "6.18".into(),
            kvm: "hardware".into(),
            load: Some(HostLoad {
                used_percent: 45,
                stolen_percent: 0,
                load_average_percent: 212,
                busy: true,
            }),
        },
        method: vec!["A sentence.".into()],
        experiments: vec![ShownExperiment {
            name: "paper".into(),
            title: "Checkpoint".into(),
            charts: vec![ShownChart {
                stacks: vec![ShownStack {
                    name: "copy".into(),
                    series: vec!["copy".into()],
                }],
                file: "checkpoint".into(),
                title: "Checkpoint".into(),
                x: axis("memory (MiB)", Some(2.0)),
                y: axis("slowdown (%)", None),
                series: vec![Series {
                    name: "copy".into(),
                    points: vec![
                        ShownPoint {
                            x: 16.0,
                            measured: vec![10.847763, -0.5],
                        },
                        ShownPoint {
                            x: 1.0,
                            measured: vec![3.25],
                        },
                        ShownPoint {
                            x: 0.5,
                            measured: vec![28.981060000000003],
                        },
                    ],
                }],
            }],
            targets: vec![
                target("x", Bound::AtLeast(25.0)),
                target(" ms", Bound::AtMost(1.5)),
            ],
            frames_verified: 1024,
            ..ShownExperiment::default()
        }],
        left_out: Vec::new(),
        failed: Vec::new(),
    }
}

fn target(unit: &str, wanted: Bound) -> ShownTarget {
    ShownTarget {
        what: "a checkpoint".into(),
        wanted,
        measured: Spread {
            median: 343.8011496797539,
            min: 0.018918869487492402,
            max: 353.76513108433403,
            count: 3,
        },
        unit: unit.into(),
    }
}

fn json(report: &Report) -> String {
    serde_json::to_string_pretty(&Bench::of(report)).unwrap()
}

#[test]
fn a_report_that_is_read_again_shows_the_same() {
    let kept = Bench::of(&measured()).report();
    let text = json(&kept);
    let again = read(text.as_bytes()).unwrap();
    assert_eq!(json(&again), text);
    assert_eq!(
        markdown::document(&again, "performance"),
        markdown::document(&kept, "performance")
    );
    let svg = |report: &Report| plot::svg(&report.experiments[0].charts[0]).unwrap();
    assert_eq!(svg(&again), svg(&kept));
}

#[test]
fn reports_from_before_there_was_a_schema_are_read() {
    let old = serde_json::to_vec(&measured()).unwrap();
    assert_eq!(json(&read(&old).unwrap()), json(&measured()));
    assert!(read(b"{}").is_err());
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/performance.json");
    let kept = std::fs::read(kept).unwrap();
    assert!(!read(&kept).unwrap().experiments.is_empty());
}

#[test]
fn numbers_are_whole_and_units_beside_them() {
    let value = serde_json::to_value(Bench::of(&measured())).unwrap();
    let chart = &value["experiments"][0]["charts"][0];
    assert_eq!(chart["y_axis"]["parts_per_unit"], 1_000_000);
    assert_eq!(chart["curves"][0]["points"][0]["x_parts"], 16_000_000);
    assert_eq!(
        chart["curves"][0]["points"][0]["measured_parts"],
        serde_json::json!([10_847_763, -500_000])
    );
    let targets = &value["experiments"][0]["targets"];
    assert_eq!(
        (&targets[0]["met"], &targets[1]["met"]),
        (&true.into(), &false.into())
    );
    assert_eq!(targets[1]["unit"], "ms");
    assert_eq!(value["began"], "2026-11-29T15:50:04.000000000Z");
    assert_eq!(value["began_unix_ns"], "1795967404000000000");
}
