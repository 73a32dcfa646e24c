//! Draws charts as SVG.

use nvvmm::VmError;
use plotters::prelude::*;

use super::{
    plot_bars,
    report::{Axis, Chart, Series},
    statistics::Spread,
};

pub(super) const SIZE: (u32, u32) = (760, 480);
pub(super) const FONT: &str = "sans-serif";
/// Told apart by those who see fewer colours, too (Okabe and Ito).
pub(super) const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 0, 0),
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
/// Distance between the outermost points and the frame of a logarithmic axis, as a factor.
const ROOM_FACTOR: f64 = 1.3;
/// Margin of a linear axis, as a part of its range.
const ROOM_PART: f64 = 0.05;

/// The chart as an SVG document: medians as lines, smallest and largest as bars.
///
/// # Errors
/// It has no point that can be shown.
pub fn svg(chart: &Chart) -> Result<String, VmError> {
    let failed = |what: &dyn std::fmt::Display| {
        VmError::failed(format!("cannot draw {}: {what}", chart.file))
    };
    if !chart.stacks.is_empty() {
        return plot_bars::svg(chart);
    }
    let curves: Vec<Curve> = chart
        .series
        .iter()
        .map(|series| Curve::of(series, chart))
        .collect();
    let x = range(
        &chart.x,
        curves.iter().flat_map(|c| c.points.iter().map(|p| p.0)),
    );
    let y = range(
        &chart.y,
        curves
            .iter()
            .flat_map(|c| c.points.iter().flat_map(|p| [p.1.min, p.1.max])),
    );
    let (Some(x), Some(y)) = (x, y) else {
        return Err(failed(&"there is nothing in it"));
    };
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        draw(&root, chart, &curves, (x, y)).map_err(|e| failed(&e))?;
        root.present().map_err(|e| failed(&e))?;
    }
    Ok(text)
}

/// A series in the units of the drawing.
struct Curve {
    name: String,
    points: Vec<(f64, Spread)>,
}

impl Curve {
    /// Leaves out points that a logarithmic axis cannot show.
    fn of(series: &Series, chart: &Chart) -> Self {
        let points = series.points.iter().filter_map(|point| {
            let spread = Spread::of(&point.measured)?;
            let shown = |axis: &Axis, value: f64| axis.base.is_none() || value > 0.0;
            (shown(&chart.x, point.x) && shown(&chart.y, spread.min)).then_some((point.x, spread))
        });
        Self {
            name: series.name.clone(),
            points: points.collect(),
        }
    }
}

/// Range of an axis.
fn range(axis: &Axis, values: impl Iterator<Item = f64>) -> Option<std::ops::Range<f64>> {
    let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    let min = values.iter().copied().reduce(f64::min)?;
    let max = values.iter().copied().reduce(f64::max)?;
    if axis.base.is_some() {
        return Some(axis.place(min / ROOM_FACTOR)..axis.place(max * ROOM_FACTOR));
    }
    let room = (max - min.min(0.0)).max(f64::MIN_POSITIVE) * ROOM_PART;
    Some(min.min(0.0)..max + room)
}

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
pub(super) type DrawError<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

fn draw<'a>(
    root: &Area<'a>,
    chart: &Chart,
    curves: &[Curve],
    (x, y): (std::ops::Range<f64>, std::ops::Range<f64>),
) -> Result<(), DrawError<'a>> {
    let mut context = ChartBuilder::on(root)
        .caption(&chart.title, (FONT, 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)?;
    context
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(221, 221, 221))
        .x_desc(&chart.x.label)
        .y_desc(&chart.y.label)
        .x_label_formatter(&|value| mark(&chart.x, *value))
        .y_label_formatter(&|value| mark(&chart.y, *value))
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 14))
        .draw()?;
    for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
        let at = |x: f64, y: f64| (chart.x.place(x), chart.y.place(y));
        let line = curve.points.iter().map(|(x, spread)| at(*x, spread.median));
        context
            .draw_series(LineSeries::new(line.clone(), colour.stroke_width(2)))?
            .label(&curve.name)
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        context.draw_series(line.map(|point| Circle::new(point, 3, colour.filled())))?;
        let bars = curve
            .points
            .iter()
            .filter(|(_, spread)| spread.max > spread.min);
        context.draw_series(bars.map(|(x, spread)| {
            PathElement::new(
                [at(*x, spread.min), at(*x, spread.max)],
                colour.stroke_width(1),
            )
        }))?;
    }
    context
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(187, 187, 187))
        .label_font((FONT, 13))
        .draw()
}

/// Label of a place of an axis.
pub(super) fn mark(axis: &Axis, place: f64) -> String {
    let value = axis.value(place);
    let digits = match value.abs() {
        v if v == 0.0 || v >= 10.0 => 0,
        v if v >= 1.0 => 1,
        v if v >= 0.1 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

#[cfg(test)]
#[path = "plot_test.rs"]
mod plot_test;
