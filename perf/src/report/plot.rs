//! Charts to SVG.
//!
//! A contestant has the same colour in every picture; text stays text, so that it can be searched.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::chart::{Axis, Chart, Series};

const SIZE: (u32, u32) = (720, 380);
const INK: RGBColor = RGBColor(0x33, 0x3a, 0x44);
const GRID: RGBColor = RGBColor(0xe3, 0xe6, 0xea);
const ON: RGBColor = RGBColor(0x1b, 0x5f, 0xaa);
const OFF: RGBColor = RGBColor(0xe0, 0x7b, 0x12);
const KERNEL: RGBColor = RGBColor(0x7a, 0x84, 0x91);
const OTHERS: [RGBColor; 4] = [
    RGBColor(0x2e, 0x8b, 0x57),
    RGBColor(0x8a, 0x4f, 0xb0),
    RGBColor(0xb8, 0x33, 0x4a),
    RGBColor(0x00, 0x8c, 0x95),
];
/// Share of a name's width that its bars take.
const FILLED: f64 = 0.76;

/// An `<svg>` element.
///
/// # Errors
/// When the drawing library refuses; a chart without points gives an empty frame.
pub(super) fn svg(chart: &Chart) -> Result<String> {
    let mut out = String::new();
    draw(chart, SVGBackend::with_string(&mut out, SIZE))
        .map_err(|error| anyhow!("draw \"{}\": {error}", chart.title))?;
    // Scales with the page; the drawn size stays its shape.
    Ok(out.replacen(
        &format!("width=\"{}\" height=\"{}\"", SIZE.0, SIZE.1),
        "width=\"100%\"",
        1,
    ))
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw(chart: &Chart, backend: SVGBackend<'_>) -> Drawn {
    let root = backend.into_drawing_area();
    root.fill(&WHITE)?;
    let (x, y) = (horizontal(chart), vertical(chart));
    let title = ("sans-serif", 17).into_font().color(&INK);
    let mut plane = ChartBuilder::on(&root)
        .caption(&chart.title, title)
        .margin(12)
        .margin_right(24)
        .x_label_area_size(48)
        .y_label_area_size(64)
        .build_cartesian_2d(x.0..x.1, 0.0..y)?;
    let names = match &chart.x {
        Axis::Names { names, .. } => names.as_slice(),
        _ => &[],
    };
    let tick = |value: &f64| tick(&chart.x, *value);
    let short = |value: &f64| short(*value);
    let (text, label) = (("sans-serif", 13), label(&chart.x));
    let mut mesh = plane.configure_mesh();
    mesh.light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(text.into_font().color(&INK))
        .x_desc(label)
        .y_desc(&chart.y)
        .x_label_formatter(&tick)
        .y_label_formatter(&short)
        .x_labels(9)
        .y_labels(7);
    if !names.is_empty() {
        mesh.disable_x_mesh().x_labels(0);
    }
    mesh.draw()?;
    let middle = text
        .into_font()
        .color(&INK)
        .pos(Pos::new(HPos::Center, VPos::Top));
    plane.draw_series(names.iter().enumerate().map(|(index, name)| {
        EmptyElement::at((index as f64 + 0.5, 0.0)) + Text::new(name.clone(), (0, 7), &middle)
    }))?;
    for (index, series) in chart.series.iter().enumerate() {
        let colour = colour(series, index);
        let swatch = move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled());
        let drawn = if names.is_empty() {
            let points = series.points.iter().map(|&(x, y)| (place(&chart.x, x), y));
            plane.draw_series(LineSeries::new(points, colour.stroke_width(2)))?
        } else {
            let width = FILLED / chart.series.len() as f64;
            let left = (1.0 - FILLED) / 2.0 + width * index as f64;
            plane.draw_series(series.points.iter().map(|&(at, y)| {
                let from = at + left;
                Rectangle::new([(from, 0.0), (from + width * 0.94, y)], colour.filled())
            }))?
        };
        drawn.label(series.name.clone()).legend(swatch);
    }
    plane
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .label_font(text.into_font().color(&INK))
        .draw()?;
    root.present()?;
    Ok(())
}

fn colour(series: &Series, index: usize) -> RGBColor {
    match series.name.as_str() {
        name if name.contains("offload on") => ON,
        name if name.contains("offload off") => OFF,
        name if name.contains("kernel") => KERNEL,
        _ => OTHERS[index % OTHERS.len()],
    }
}

fn points(chart: &Chart) -> impl Iterator<Item = (f64, f64)> {
    chart
        .series
        .iter()
        .flat_map(|series| series.points.iter().copied())
        .filter(|(x, y)| x.is_finite() && y.is_finite())
}

/// Ends of the bottom axis, where [`place`] puts points.
fn horizontal(chart: &Chart) -> (f64, f64) {
    if let Axis::Names { names, .. } = &chart.x {
        return (0.0, names.len().max(1) as f64);
    }
    let places = || points(chart).map(|(x, _)| place(&chart.x, x));
    let low = places().fold(f64::INFINITY, f64::min);
    let high = places().fold(f64::NEG_INFINITY, f64::max);
    match high - low {
        width if width > 0.0 => (low, high),
        0.0 => (low - 0.5, high + 0.5),
        _ => (0.0, 1.0),
    }
}

/// Top of the other axis: the highest point and some air for the legend.
fn vertical(chart: &Chart) -> f64 {
    let high = points(chart).map(|(_, y)| y).fold(0.0, f64::max);
    if high > 0.0 { high * 1.25 } else { 1.0 }
}

fn place(axis: &Axis, x: f64) -> f64 {
    match axis {
        Axis::Names { .. } | Axis::Linear { .. } => x,
        Axis::Log { .. } => x.max(f64::MIN_POSITIVE).log10(),
        Axis::Quantile { .. } => -(1.0 - x.clamp(0.0, 0.999_999)).log10(),
    }
}

fn label(axis: &Axis) -> &str {
    match axis {
        Axis::Names { label, .. }
        | Axis::Linear { label }
        | Axis::Log { label }
        | Axis::Quantile { label } => label,
    }
}

/// What stands at a place of the bottom axis.
fn tick(axis: &Axis, at: f64) -> String {
    match axis {
        Axis::Names { .. } => String::new(),
        Axis::Linear { .. } => short(at),
        Axis::Log { .. } => short(10_f64.powf(at)),
        Axis::Quantile { .. } => {
            let percent = 100.0 * (1.0 - 10_f64.powf(-at));
            let digits = (at - 1.0).ceil().clamp(0.0, 4.0) as usize;
            format!("{percent:.digits$}")
        }
    }
}

/// A number in few characters.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{} M", trim(value / 1e6)),
        size if size >= 1e4 => format!("{} k", trim(value / 1e3)),
        _ => trim(value),
    }
}

fn trim(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_and_lines_are_drawn_with_their_names() {
        let mut bars = Chart::bars("T", "frame", vec!["64".into(), "IMIX".into()], "Mpps");
        bars.add("kernel path", vec![(0.0, 0.5), (1.0, 0.25)]);
        bars.add("Penstock, offload on", vec![(0.0, 1.0), (1.0, 0.5)]);
        let text = svg(&bars).expect("draws");
        for word in ["IMIX", "Mpps", "kernel path", "#1B5FAA", "#7A8491"] {
            assert!(text.contains(word), "{word} is not in {text}");
        }
        let axis = Axis::Quantile {
            label: "percentile".into(),
        };
        let mut lines = Chart::lines("L", axis, "us");
        lines.add("kernel path", vec![(0.5, 30.0), (0.99, 60.0)]);
        assert!(svg(&lines).expect("draws").contains("polyline"));
    }

    #[test]
    fn a_chart_of_nothing_is_an_empty_frame() {
        let chart = Chart::lines("N", Axis::Linear { label: "s".into() }, "x");
        assert!(svg(&chart).expect("draws").contains("<svg"));
    }

    #[test]
    fn ticks_say_what_is_there() {
        let quantile = Axis::Quantile {
            label: String::new(),
        };
        assert_eq!(tick(&quantile, 2.0), "99.0");
        assert_eq!(tick(&quantile, 3.0), "99.90");
        assert_eq!(short(1_500_000.0), "1.5 M");
        assert_eq!(short(0.25), "0.25");
    }
}
