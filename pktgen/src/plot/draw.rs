//! The drawing of plots by `plotters`, the same for every backend.

use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontStyle, register_font};

use super::{Bar, Bars, Lines, Mark, Plot, PlotError};

/// Width of a picture in pixels.
pub const WIDTH: u32 = 960;
/// Height of a picture in pixels.
pub const HEIGHT: u32 = 540;

/// The name of the bundled font; in an SVG, whatever the reader has by that name.
const FONT: &str = "sans-serif";
static FONT_FILE: &[u8] = include_bytes!("font/DejaVuSans-Latin1.ttf");

/// Colours that also the colour-blind tell apart (Okabe and Ito), without the yellow that is too bright for lines.
const PALETTE: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(70, 70, 70),
];

const MARGIN: u32 = 12;
const TITLE_SIZE: u32 = 20;
const LABEL_SIZE: u32 = 13;
const X_AREA: u32 = 44;
const Y_AREA: u32 = 86;
/// Pixels of a line of text below a group of bars.
const LINE: i32 = 15;
/// Lines of text below a group of bars at most.
const NAME_LINES: usize = 3;
/// Pixels that a letter takes on average.
const LETTER: f64 = 7.0;
/// Values beyond this are left out: arithmetic on ranges must stay finite.
const LARGEST: f64 = 1e100;
/// Values nearer to zero than this are zero on a linear axis, and nothing on a logarithmic one.
const SMALLEST: f64 = 1e-100;

type Area<'a, B> = DrawingArea<B, Shift>;

impl Plot for Lines {
    fn to_svg(&self) -> Result<String, PlotError> {
        svg(&self.title, |area| draw_lines(self, area))
    }

    fn to_png(&self) -> Result<Vec<u8>, PlotError> {
        png(&self.title, |area| draw_lines(self, area))
    }
}

impl Plot for Bars {
    fn to_svg(&self) -> Result<String, PlotError> {
        svg(&self.title, |area| draw_bars(self, area))
    }

    fn to_png(&self) -> Result<Vec<u8>, PlotError> {
        png(&self.title, |area| draw_bars(self, area))
    }
}

fn svg(
    title: &str,
    draw: impl FnOnce(&Area<SVGBackend<'_>>) -> Result<(), PlotError>,
) -> Result<String, PlotError> {
    bundled_font(title)?;
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, HEIGHT)).into_drawing_area();
        draw(&area)?;
        area.present().map_err(failed(title))?;
    }
    Ok(text)
}

fn png(
    title: &str,
    draw: impl FnOnce(&Area<BitMapBackend<'_>>) -> Result<(), PlotError>,
) -> Result<Vec<u8>, PlotError> {
    bundled_font(title)?;
    let mut pixels = vec![0; (WIDTH * HEIGHT * 3) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut pixels, (WIDTH, HEIGHT)).into_drawing_area();
        draw(&area)?;
        area.present().map_err(failed(title))?;
    }
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, WIDTH, HEIGHT);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(failed(title))?;
    writer.write_image_data(&pixels).map_err(failed(title))?;
    writer.finish().map_err(failed(title))?;
    Ok(bytes)
}

/// Makes the bundled font known, once a process.
fn bundled_font(title: &str) -> Result<(), PlotError> {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    if *KNOWN.get_or_init(|| register_font(FONT, FontStyle::Normal, FONT_FILE).is_ok()) {
        return Ok(());
    }
    Err(PlotError::Drawing { title: title.to_owned(), reason: "the bundled font cannot be read".into() })
}

fn failed<E: fmt::Display>(title: &str) -> impl Fn(E) -> PlotError {
    move |error| PlotError::Drawing { title: title.to_owned(), reason: error.to_string() }
}

fn draw_lines<B: DrawingBackend>(plot: &Lines, area: &Area<B>) -> Result<(), PlotError> {
    let kept: Vec<Vec<(f64, f64)>> = plot
        .series
        .iter()
        .map(|series| series.points.iter().filter_map(|point| shown(plot, *point)).collect())
        .collect();
    let all = || kept.iter().flatten();
    let empty = || PlotError::Empty(plot.title.clone());
    let x = range(all().map(|point| point.0), plot.x.log).ok_or_else(empty)?;
    let y = range(all().map(|point| point.1), plot.y.log).ok_or_else(empty)?;
    match (plot.x.log, plot.y.log) {
        (false, false) => paint(plot, &kept, area, x, y),
        (false, true) => paint(plot, &kept, area, x, y.log_scale()),
        (true, false) => paint(plot, &kept, area, x.log_scale(), y),
        (true, true) => paint(plot, &kept, area, x.log_scale(), y.log_scale()),
    }
}

/// The point as it is drawn; `None` where the axes cannot show it.
fn shown(plot: &Lines, (x, y): (f64, f64)) -> Option<(f64, f64)> {
    Some((on_axis(x, plot.x.log)?, on_axis(y, plot.y.log)?))
}

fn on_axis(value: f64, log: bool) -> Option<f64> {
    match value {
        value if !value.is_finite() || value.abs() > LARGEST => None,
        value if log => (value > SMALLEST).then_some(value),
        value if value.abs() < SMALLEST => Some(0.0),
        value => Some(value),
    }
}

/// From the smallest to the largest with a little air; a linear axis of positive values begins at zero.
fn range(values: impl Iterator<Item = f64>, log: bool) -> Option<Range<f64>> {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return None;
    }
    if log {
        return Some(low / 1.2..high * 1.2);
    }
    let low = low.min(0.0);
    let high = if high > low { high } else { low + 1.0 };
    let air = (high - low) * 0.05;
    Some(if low < 0.0 { low - air } else { low }..high + air)
}

fn paint<B, X, Y>(plot: &Lines, kept: &[Vec<(f64, f64)>], area: &Area<B>, x: X, y: Y) -> Result<(), PlotError>
where
    B: DrawingBackend,
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let failed = |error: DrawingAreaErrorKind<B::ErrorType>| failed(&plot.title)(error);
    area.fill(&WHITE).map_err(failed)?;
    let mut chart = ChartBuilder::on(area)
        .margin(MARGIN)
        .caption(&plot.title, (FONT, TITLE_SIZE))
        .x_label_area_size(X_AREA)
        .y_label_area_size(Y_AREA)
        .build_cartesian_2d(x, y)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc(&plot.x.label)
        .y_desc(&plot.y.label)
        .label_style((FONT, LABEL_SIZE))
        .axis_desc_style((FONT, LABEL_SIZE))
        .x_label_formatter(&|value| short(*value))
        .y_label_formatter(&|value| short(*value))
        .draw()
        .map_err(failed)?;
    for (index, (series, points)) in plot.series.iter().zip(kept).enumerate() {
        let colour = colour(index);
        if series.mark == Mark::Line {
            chart
                .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))
                .map_err(failed)?;
        }
        let dots = points.iter().map(|point| Circle::new(*point, 3, colour.filled()));
        chart
            .draw_series(dots)
            .map_err(failed)?
            .label(&series.name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 12, y + 4)], colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, LABEL_SIZE))
        .draw()
        .map_err(failed)
}

fn draw_bars<B: DrawingBackend>(plot: &Bars, area: &Area<B>) -> Result<(), PlotError> {
    let failed = |error: DrawingAreaErrorKind<B::ErrorType>| failed(&plot.title)(error);
    let bars = plot.groups.iter().flat_map(|group| group.bars.iter().filter_map(usable));
    let y = range(bars.map(|bar| bar.max), false).ok_or_else(|| PlotError::Empty(plot.title.clone()))?;
    area.fill(&WHITE).map_err(failed)?;
    let mut chart = ChartBuilder::on(area)
        .margin(MARGIN)
        .caption(&plot.title, (FONT, TITLE_SIZE))
        .x_label_area_size(LINE as u32 * (NAME_LINES as u32 + 1))
        .y_label_area_size(Y_AREA)
        // Above the highest bar there is room for its value and for the legend.
        .build_cartesian_2d(0.0..plot.groups.len() as f64, 0.0..y.end * 1.15)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .x_labels(0)
        .y_desc(&plot.y)
        .label_style((FONT, LABEL_SIZE))
        .axis_desc_style((FONT, LABEL_SIZE))
        .y_label_formatter(&|value| short(*value))
        .draw()
        .map_err(failed)?;
    let columns = plot.groups.iter().map(|group| group.bars.len()).max().unwrap_or(1).max(1);
    let width = 0.8 / columns as f64;
    for column in 0..columns {
        let colour = colour(column);
        let placed = plot.groups.iter().enumerate().filter_map(|(group, bars)| {
            let left = group as f64 + 0.1 + width * column as f64;
            Some((left, usable(bars.bars.get(column)?)?))
        });
        let placed: Vec<(f64, Bar)> = placed.collect();
        let boxes = placed.iter().map(|(left, bar)| {
            Rectangle::new([(left + width * 0.06, 0.0), (left + width * 0.94, bar.value)], colour.filled())
        });
        let name = plot.series.get(column).map_or("", String::as_str);
        let series = chart.draw_series(boxes).map_err(failed)?;
        if plot.series.len() > 1 {
            series
                .label(name)
                .legend(move |(x, y)| Rectangle::new([(x, y - 4), (x + 12, y + 4)], colour.filled()));
        }
        chart
            .draw_series(placed.iter().flat_map(|(left, bar)| whisker(*left, width, bar)))
            .map_err(failed)?;
        let style = TextStyle::from((FONT, LABEL_SIZE)).pos(Pos::new(HPos::Center, VPos::Bottom));
        let values = placed.iter().map(|(left, bar)| {
            let at = (left + width / 2.0, bar.max);
            EmptyElement::at(at) + Text::new(short(bar.value), (0, -4), style.clone())
        });
        chart.draw_series(values).map_err(failed)?;
    }
    let name = TextStyle::from((FONT, LABEL_SIZE)).pos(Pos::new(HPos::Center, VPos::Top));
    let letters = f64::from(WIDTH - Y_AREA) / plot.groups.len() as f64 / LETTER;
    for (index, group) in plot.groups.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(index as f64 + 0.5, 0.0));
        for (number, line) in wrapped(&group.name, letters as usize).into_iter().enumerate() {
            let at = (x, y + 6 + LINE * number as i32);
            area.draw(&Text::new(line, at, name.clone())).map_err(failed)?;
        }
    }
    if plot.series.len() < 2 {
        return Ok(());
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, LABEL_SIZE))
        .draw()
        .map_err(failed)
}

/// The bar as it is drawn: nothing below zero, the ends of the range around the value; `None` where it cannot be.
fn usable(bar: &Option<Bar>) -> Option<Bar> {
    let Bar { min, value, max } = (*bar)?;
    let value = on_axis(value, false)?.max(0.0);
    let (min, max) = (on_axis(min, false)?.clamp(0.0, value), on_axis(max, false)?.max(value));
    Some(Bar { min, value, max })
}

/// Three strokes; none where the bar has no range.
fn whisker(left: f64, width: f64, bar: &Bar) -> Vec<PathElement<(f64, f64)>> {
    if bar.min == bar.max {
        return Vec::new();
    }
    let (middle, reach) = (left + width / 2.0, width * 0.15);
    let stroke = |from, to| PathElement::new(vec![from, to], BLACK.stroke_width(1));
    vec![
        stroke((middle, bar.min), (middle, bar.max)),
        stroke((middle - reach, bar.min), (middle + reach, bar.min)),
        stroke((middle - reach, bar.max), (middle + reach, bar.max)),
    ]
}

fn colour(index: usize) -> RGBColor {
    PALETTE.get(index % PALETTE.len()).copied().unwrap_or(BLACK)
}

/// A number with k, M or G and at most two digits behind the point.
fn short(value: f64) -> String {
    let (number, unit) = match value.abs() {
        v if v >= 1e15 => return format!("{value:.1e}"),
        v if v >= 1e9 => (format!("{:.2}", value / 1e9), " G"),
        v if v >= 1e6 => (format!("{:.2}", value / 1e6), " M"),
        v if v >= 1e3 => (format!("{:.1}", value / 1e3), " k"),
        v if v >= 10.0 || v == 0.0 => return format!("{value:.0}"),
        v if v >= 0.01 => (format!("{value:.2}"), ""),
        _ => return format!("{value:.1e}"),
    };
    format!("{}{unit}", number.trim_end_matches('0').trim_end_matches('.'))
}

/// The text in lines of about that many letters, broken at spaces, at most [`NAME_LINES`] of them.
fn wrapped(text: &str, letters: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= letters => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    if lines.len() > NAME_LINES {
        lines.truncate(NAME_LINES);
        if let Some(last) = lines.last_mut() {
            last.push('…');
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let rows = [
            (0.0, "0"),
            (1_234_567.0, "1.23 M"),
            (999.0, "999"),
            (0.5, "0.5"),
            (5.0, "5"),
            (500_000.0, "500 k"),
            (0.0001, "1.0e-4"),
            (-2000.0, "-2 k"),
        ];
        for (value, text) in rows {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn names_are_broken_at_spaces_and_cut_after_three_lines() {
        assert_eq!(wrapped("kernel forwarding", 20), ["kernel forwarding"]);
        assert_eq!(wrapped("kernel forwarding", 8), ["kernel", "forwarding"]);
        assert_eq!(wrapped("a b c d e", 1), ["a", "b", "c…"]);
        assert!(wrapped("", 5).is_empty());
    }

    #[test]
    fn ranges_have_air_and_linear_ones_begin_at_zero() {
        assert_eq!(range([2.0, 10.0].into_iter(), false), Some(0.0..10.5));
        assert_eq!(range([10.0, 10.0].into_iter(), true), Some(10.0 / 1.2..12.0));
        assert_eq!(range([0.0].into_iter(), false), Some(0.0..1.05));
        assert_eq!(range([].into_iter(), false), None);
    }
}
