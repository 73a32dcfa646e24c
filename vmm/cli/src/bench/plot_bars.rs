//! Draws charts of bars as SVG: at each place one bar for each stack, made of the medians of its
//! series.

use nvvmm::VmError;
use plotters::prelude::*;

use super::{
    plot::{Area, COLOURS, DrawError, FONT, SIZE, mark},
    report::{Chart, Stack},
    statistics::Spread,
};

/// Part of the distance of two places that bars take.
const USED: f64 = 0.84;
/// Height of a line of the legend, and of the space around it, as parts of the drawing.
const LEGEND_LINE: f64 = 0.043;
const LEGEND_SPACE: f64 = 0.07;
/// A second series of a bar is lighter than the first by so much.
const LIGHTER: f64 = 0.45;

/// The chart as an SVG document.
///
/// # Errors
/// It has no bar that can be shown.
pub fn svg(chart: &Chart) -> Result<String, VmError> {
    let failed = |what: &dyn std::fmt::Display| {
        VmError::failed(format!("cannot draw {}: {what}", chart.file))
    };
    let places = chart.x.names.len();
    let heights = chart.stacks.iter().flat_map(|stack| {
        (0..places).map(|place| parts(chart, stack, place).iter().map(|part| part.1).sum())
    });
    let highest = heights.fold(0.0, f64::max);
    if places == 0 || highest <= 0.0 {
        return Err(failed(&"there is nothing in it"));
    }
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
        root.fill(&WHITE).map_err(|e| failed(&e))?;
        draw(&root, chart, highest).map_err(|e| failed(&e))?;
        root.present().map_err(|e| failed(&e))?;
    }
    Ok(text)
}

/// Series of a bar, and the median of each at a place.
fn parts<'c>(chart: &'c Chart, stack: &'c Stack, place: usize) -> Vec<(&'c str, f64)> {
    let of = |name: &'c String| {
        let series = chart.series.iter().find(|series| series.name == *name)?;
        let median = Spread::of(series.at(place as f64))?.median;
        Some((name.as_str(), median.max(0.0)))
    };
    stack.series.iter().filter_map(of).collect()
}

/// Colour of a part of a bar.
fn colour(stack: usize, part: usize) -> RGBAColor {
    let colour = COLOURS[stack % COLOURS.len()];
    match part {
        0 => colour.to_rgba(),
        part => colour.mix(LIGHTER.powi(part as i32)),
    }
}

fn draw<'a>(root: &Area<'a>, chart: &Chart, highest: f64) -> Result<(), DrawError<'a>> {
    let places = chart.x.names.len();
    let lines: usize = chart.stacks.iter().map(|stack| stack.series.len()).sum();
    // No bar is below the legend.
    let legend = (lines as f64 * LEGEND_LINE + LEGEND_SPACE).min(0.6);
    let mut context = ChartBuilder::on(root)
        .caption(&chart.title, (FONT, 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(-0.5..places as f64 - 0.5, 0.0..highest / (1.0 - legend))?;
    let name = |x: &f64| match chart.x.names.get(x.round() as usize) {
        Some(name) if (x - x.round()).abs() < 0.01 => name.clone(),
        _ => String::new(),
    };
    context
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(221, 221, 221))
        // A label for each half place: those between the places are empty.
        .x_labels(2 * places + 1)
        .x_desc(&chart.x.label)
        .y_desc(&chart.y.label)
        .x_label_formatter(&name)
        .y_label_formatter(&|value| mark(&chart.y, *value))
        .label_style((FONT, 13))
        .axis_desc_style((FONT, 14))
        .draw()?;
    let width = USED / chart.stacks.len() as f64;
    for (index, stack) in chart.stacks.iter().enumerate() {
        for (part, name) in stack.series.iter().enumerate() {
            let colour = colour(index, part).filled();
            let bars = (0..places).filter_map(|place| {
                let parts = parts(chart, stack, place);
                let at = parts.iter().position(|(of, _)| of == name)?;
                let below: f64 = parts[..at].iter().map(|part| part.1).sum();
                let left = place as f64 - USED / 2.0 + index as f64 * width;
                let (low, high) = ((left, below), (left + width * 0.94, below + parts[at].1));
                Some(Rectangle::new([low, high], colour))
            });
            context
                .draw_series(bars)?
                .label(name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 18, y + 5)], colour));
        }
        let sums = (0..places).filter_map(|place| {
            let sum: f64 = parts(chart, stack, place).iter().map(|part| part.1).sum();
            let x = place as f64 - USED / 2.0 + index as f64 * width;
            let above = sum + highest * 0.04;
            (sum > 0.0).then(|| Text::new(mark(&chart.y, sum), (x, above), (FONT, 11)))
        });
        context.draw_series(sums)?;
    }
    context
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(RGBColor(187, 187, 187))
        .label_font((FONT, 13))
        .draw()
}

#[cfg(test)]
#[path = "plot_bars_test.rs"]
mod plot_bars_test;
