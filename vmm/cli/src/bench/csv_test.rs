use super::*;
use crate::bench::report::{Axis, Chart, Experiment, Series};

#[test]
fn each_measurement_is_a_line() {
    let mut series = Series {
        name: "reference, huge pages".into(),
        points: Vec::new(),
    };
    series.add(16.0, 0.5);
    series.add(16.0, 0.75);
    series.add(64.0, 1.0);
    let report = Report {
        nvvmm: "1".into(),
        began: "now".into(),
        took_s: 1.0,
        host: Default::default(),
        method: Vec::new(),
        experiments: vec![Experiment {
            name: "paper".into(),
            charts: vec![Chart {
                stacks: Vec::new(),
                file: "checkpoint".into(),
                title: String::new(),
                x: Axis::linear("MiB"),
                y: Axis::linear("the \"pause\", ms"),
                series: vec![series],
            }],
            ..Default::default()
        }],
        left_out: Vec::new(),
        failed: Vec::new(),
    };
    let begin = "paper,checkpoint,\"reference, huge pages\",MiB";
    let y = "\"the \"\"pause\"\", ms\"";
    assert_eq!(
        csv(&report),
        format!(
            "{HEADER}\r\n{begin},16,{y},1,0.5\r\n{begin},16,{y},2,0.75\r\n{begin},64,{y},1,1\r\n"
        )
    );
}
