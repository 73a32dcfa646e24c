use super::document;
use crate::bench::report::{Axis, Bound, Chart, Experiment, Report, Table, Target};
use crate::bench::statistics::Spread;

#[test]
fn a_document_has_machine_method_targets_plots_and_tables() {
    let experiment = Experiment {
        name: "paper".into(),
        title: "Checkpoints".into(),
        about: "What is done.".into(),
        charts: vec![Chart {
            stacks: Vec::new(),
            file: "checkpoint".into(),
            title: "Checkpoint".into(),
            x: Axis::linear("MiB"),
            y: Axis::linear("ms"),
            series: Vec::new(),
        }],
        tables: vec![Table {
            title: "Times".into(),
            columns: vec!["touched".into(), "copy".into()],
            rows: vec![vec!["16 MiB".into(), "1 ms".into()]],
        }],
        targets: vec![Target {
            what: "pause".into(),
            wanted: Bound::AtMost(2.0),
            measured: Spread::of(&[1.0]).unwrap(),
            unit: " ms".into(),
        }],
        limits: vec!["Something.".into()],
        frames_verified: 99,
        run: None,
    };
    let report = Report {
        nvvmm: "0.1.0".into(),
        began: "2026-11-25 19:00:00".into(),
        took_s: 12.0,
        host: Default::default(),
        method: vec!["Medians.".into()],
        experiments: vec![experiment],
        left_out: vec!["Huge pages.".into()],
        failed: vec!["cow: no room".into()],
    };
    let text = document(&report, "performance");
    for part in [
        "\n## Machine\n",
        "- Medians.\n",
        "| pause | <= 2 ms | 1 ms | yes |\n",
        "![Checkpoint](performance/checkpoint.svg)\n",
        "| touched | copy |\n| --- | ---: |\n| 16 MiB | 1 ms |\n",
        "must hold: 99.\n",
        "- Something.\n",
        "\n## Left out\n\n- Huge pages.\n\n## Failed\n\n- cow: no room\n",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}
