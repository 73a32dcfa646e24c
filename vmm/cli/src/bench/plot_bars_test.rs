use super::svg;
use crate::bench::report::{Axis, Chart, Point, Series, Stack};

fn chart() -> Chart {
    let series = |name: &str, factor: f64| Series {
        name: name.into(),
        points: [0.0, 1.0]
            .map(|x| Point {
                x,
                measured: vec![factor, factor * 2.0, factor * 3.0],
            })
            .to_vec(),
    };
    Chart {
        file: "bill".into(),
        title: "Bill".into(),
        x: Axis::named("written", &["1%".into(), "100%".into()]),
        y: Axis::linear("ms"),
        series: vec![
            series("copy: pause", 100.0),
            series("reference: pause", 1.0),
            series("reference: extra time", 30.0),
        ],
        stacks: vec![
            stack("copy", &["copy: pause"]),
            stack("reference", &["reference: pause", "reference: extra time"]),
        ],
    }
}

fn stack(name: &str, series: &[&str]) -> Stack {
    Stack {
        name: name.into(),
        series: series.iter().map(|&name| name.to_owned()).collect(),
    }
}

#[test]
fn each_part_of_a_bar_is_drawn_with_names_and_sums() {
    let drawn = svg(&chart()).unwrap();
    for part in [
        "1%",
        "100%",
        "written",
        "copy: pause",
        "reference: extra time",
        // The medians.
        ">\n200\n<",
        ">\n62\n<",
    ] {
        assert!(drawn.contains(part), "{part}: {drawn}");
    }
    assert!(!drawn.contains("NaN"), "{drawn}");
}

#[test]
fn what_was_not_measured_has_no_bar() {
    let mut without = chart();
    without.series.remove(0);
    assert!(svg(&without).unwrap().contains("reference: pause"));
    without.series.clear();
    assert!(svg(&without).is_err());
}
