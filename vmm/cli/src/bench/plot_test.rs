use super::{mark, svg};
use crate::bench::report::{Axis, Chart, Point, Series};

fn decades(label: &str) -> Axis {
    Axis::logarithmic(label, 10.0)
}

fn chart(axis: fn(&str) -> Axis) -> Chart {
    let series = |name: &str, factor: f64| Series {
        name: name.into(),
        points: [16.0, 256.0, 4096.0]
            .map(|x| Point {
                x,
                measured: vec![x * factor, x * factor * 1.2],
            })
            .to_vec(),
    };
    Chart {
        stacks: Vec::new(),
        file: "checkpoint".into(),
        title: "Checkpoint & <restart>".into(),
        x: axis("memory touched (MiB)"),
        y: axis("time (ms)"),
        series: vec![series("copy", 0.4), series("reference, huge pages", 0.001)],
    }
}

/// Elements are closed in order and text is escaped: as much of XML as a drawing uses.
fn assert_well_formed(svg: &str) {
    let mut open = Vec::new();
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        assert!(
            !rest[..start].contains('>'),
            "a stray > before {}",
            &rest[start..]
        );
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if tag.starts_with(['?', '!']) || tag.ends_with('/') {
            continue;
        }
        match tag.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name.to_owned())),
            None => open.push(tag.split_whitespace().next().unwrap().to_owned()),
        }
    }
    assert!(open.is_empty(), "{open:?} is not closed");
}

#[test]
fn a_chart_is_well_formed_svg_with_its_names_and_no_number_that_is_none() {
    for axis in [decades, Axis::linear] {
        let drawn = svg(&chart(axis)).unwrap();
        assert!(drawn.starts_with("<svg"), "{drawn}");
        assert_well_formed(&drawn);
        for part in [
            "memory touched (MiB)",
            "time (ms)",
            "copy",
            "reference, huge pages",
            "&lt;restart&gt;",
        ] {
            assert!(drawn.contains(part), "{part}");
        }
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        assert_eq!(
            drawn.matches("<circle").count(),
            6,
            "each median is a point"
        );
    }
}

#[test]
fn what_a_logarithm_cannot_show_is_left_out() {
    let mut with_zero = chart(decades);
    with_zero.series[0].points[0].measured = vec![0.0];
    assert_eq!(svg(&with_zero).unwrap().matches("<circle").count(), 5);
}

#[test]
fn a_chart_with_one_point_is_drawn_and_one_without_is_an_error() {
    for axis in [decades, Axis::linear] {
        let mut single = chart(axis);
        single.series.truncate(1);
        single.series[0].points.truncate(1);
        single.series[0].points[0].measured.truncate(1);
        assert!(svg(&single).unwrap().contains("<circle"));
        single.series.clear();
        assert!(svg(&single).is_err());
    }
}

#[test]
fn marks_are_as_exact_as_they_are_small() {
    let axis = Axis::linear("ms");
    assert_eq!(
        [0.0, 512.0, 5.12, 0.512, 0.0512].map(|v| mark(&axis, v)),
        ["0", "512", "5.1", "0.51", "0.051"]
    );
    assert_eq!(mark(&decades("ms"), 2.0), "100");
    assert_eq!(mark(&Axis::logarithmic("MiB", 2.0), 9.0), "512");
}
