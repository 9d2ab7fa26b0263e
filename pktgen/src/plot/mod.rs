//! Plots of measurements, as SVG and PNG: [`lines`] of figures against a load, [`bars`] of figures by party.
//!
//! ```text
//!   Lines ─► lines() ─┐                    ┌─► stem.svg   text stays text
//!                     ├─► draw (plotters) ─┤
//!   Bars  ─► bars()  ─┘                    └─► stem.png   text by a bundled font (DejaVu Sans, Latin-1)
//! ```
//!
//! Both files are made from the same drawing. Nothing outside of this crate is needed to draw text. [`Plot::to_svg`] is for
//! whoever embeds the picture instead of writing it.
//!
//! It is not for: interactive charts, nor statistics. What is plotted is given.

use std::path::{Path, PathBuf};
use std::{fs, io};

mod draw;

pub use draw::{HEIGHT, WIDTH};

/// An axis of a plot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    /// What it shows, with its unit.
    pub label: String,
    /// Whether it is logarithmic; points at or below zero are then left out.
    pub log: bool,
}

impl Axis {
    /// A linear axis.
    pub fn linear(label: impl Into<String>) -> Self {
        Axis { label: label.into(), log: false }
    }

    /// A logarithmic axis.
    pub fn log(label: impl Into<String>) -> Self {
        Axis { label: label.into(), log: true }
    }
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mark {
    /// Points joined by a line in the order given.
    #[default]
    Line,
    /// Points alone.
    Scatter,
}

/// Points that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// How it is drawn.
    pub mark: Mark,
    /// The points. Those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// A plot of series against two axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Lines {
    /// The title.
    pub title: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The series, in the legend's order.
    pub series: Vec<Series>,
}

/// One bar: a figure and the range of its repeats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// Lowest of the repeats: the lower end of the whisker.
    pub min: f64,
    /// The bar's height: usually the median.
    pub value: f64,
    /// Highest of the repeats: the upper end of the whisker.
    pub max: f64,
}

impl Bar {
    /// A bar without a range: no whisker is drawn.
    pub fn plain(value: f64) -> Self {
        Bar { min: value, value, max: value }
    }

    /// The median of `repeats` with their lowest and highest; `None` where there is none or one is not finite.
    pub fn of(repeats: &[f64]) -> Option<Self> {
        let mut sorted = repeats.to_vec();
        sorted.sort_by(f64::total_cmp);
        let value = crate::stats::median(&sorted)?;
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        (min.is_finite() && max.is_finite()).then_some(Bar { min, value, max })
    }
}

/// Bars side by side under one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The name below the group.
    pub name: String,
    /// One bar for each of [`Bars::series`], in their order; `None` where there is no figure.
    pub bars: Vec<Option<Bar>>,
}

/// A plot of grouped bars from zero up.
#[derive(Debug, Clone, PartialEq)]
pub struct Bars {
    /// The title.
    pub title: String,
    /// What the heights are, with their unit.
    pub y: String,
    /// Names of the bars within a group, for the legend; one alone gets no legend.
    pub series: Vec<String>,
    /// The groups, from left to right.
    pub groups: Vec<Group>,
}

/// A plot that cannot be drawn or written.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// There is no point, or no bar, that could be shown.
    #[error("plot `{0}`: there is nothing to show")]
    Empty(String),
    /// The drawing failed.
    #[error("plot `{title}`: {reason}")]
    Drawing {
        /// The plot's title.
        title: String,
        /// What the drawing said.
        reason: String,
    },
    /// A file cannot be written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The files of one plot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The SVG.
    pub svg: PathBuf,
    /// The PNG.
    pub png: PathBuf,
}

/// What can be drawn.
pub trait Plot {
    /// The picture as SVG text of [`WIDTH`] by [`HEIGHT`] pixels.
    ///
    /// # Errors
    /// [`PlotError::Empty`] and [`PlotError::Drawing`].
    fn to_svg(&self) -> Result<String, PlotError>;

    /// The same picture as the bytes of a PNG.
    ///
    /// # Errors
    /// [`PlotError::Empty`] and [`PlotError::Drawing`].
    fn to_png(&self) -> Result<Vec<u8>, PlotError>;

    /// Writes `stem`.svg and `stem`.png. Directories must be there.
    ///
    /// # Errors
    /// As above, and [`PlotError::File`].
    fn write(&self, stem: &Path) -> Result<Written, PlotError> {
        let file = |extension: &str| {
            let mut name = stem.as_os_str().to_owned();
            name.push(extension);
            PathBuf::from(name)
        };
        let written = Written { svg: file(".svg"), png: file(".png") };
        save(&written.svg, self.to_svg()?.as_bytes())?;
        save(&written.png, &self.to_png()?)?;
        Ok(written)
    }
}

/// Draws series of points and writes `stem`.svg and `stem`.png.
///
/// # Errors
/// [`PlotError`] where no point can be shown, or a file cannot be written.
pub fn lines(plot: &Lines, stem: &Path) -> Result<Written, PlotError> {
    plot.write(stem)
}

/// Draws grouped bars, with whiskers from each bar's lowest to its highest, and writes `stem`.svg and `stem`.png.
///
/// # Errors
/// [`PlotError`] where no bar can be shown, or a file cannot be written.
pub fn bars(plot: &Bars, stem: &Path) -> Result<Written, PlotError> {
    plot.write(stem)
}

fn save(path: &Path, bytes: &[u8]) -> Result<(), PlotError> {
    fs::write(path, bytes).map_err(|source| PlotError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn loss() -> Lines {
        let series = |name: &str, mark, points: &[(f64, f64)]| Series {
            name: name.into(),
            mark,
            points: points.to_vec(),
        };
        Lines {
            title: "Loss against <load> & rate".into(),
            x: Axis::linear("load, packets/s"),
            y: Axis::linear("loss, %"),
            series: vec![
                series("64 bytes", Mark::Line, &[(1e5, 0.0), (5e5, 0.2), (1e6, 12.0)]),
                series("imix", Mark::Scatter, &[(1e5, 0.0), (4e5, f64::NAN), (9e5, 40.0)]),
            ],
        }
    }

    fn peers() -> Bars {
        Bars {
            title: "Packets a second by party".into(),
            y: "packets/s".into(),
            series: vec!["64 bytes".into(), "1518 bytes".into()],
            groups: vec![
                Group {
                    name: "penstock with policy, Service and VXLAN".into(),
                    bars: vec![Bar::of(&[1.1e6, 1.0e6, 1.3e6]), Some(Bar::plain(8e5))],
                },
                // The highest, so that the axis is the same with and without whiskers.
                Group { name: "testpmd".into(), bars: vec![Bar::of(&[9e5, 9.5e5]), Some(Bar::plain(1.5e6))] },
                Group { name: "not run".into(), bars: vec![None, None] },
            ],
        }
    }

    /// Width, height and pixels (RGB) of a PNG.
    fn pixels(bytes: &[u8]) -> (u32, u32, Vec<u8>) {
        let mut reader = png::Decoder::new(io::Cursor::new(bytes)).read_info().unwrap();
        let mut buffer = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut buffer).unwrap();
        (info.width, info.height, buffer)
    }

    #[test]
    fn text_is_in_the_svg_escaped_and_in_the_png_as_ink() {
        let svg = loss().to_svg().unwrap();
        for text in ["Loss against &lt;load&gt; &amp; rate", "load, packets/s", "64 bytes", "imix"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        let (width, height, rgb) = pixels(&loss().to_png().unwrap());
        assert_eq!((width, height), (WIDTH, HEIGHT));
        // The title's strip is white but for the title.
        let strip = &rgb[..(width * 36 * 3) as usize];
        let ink = strip.chunks(3).filter(|pixel| pixel.iter().all(|value| *value < 128)).count();
        assert!(ink > 300, "{ink} dark pixels where the title should be");
    }

    #[test]
    fn bars_have_names_values_and_whiskers() {
        let svg = peers().to_svg().unwrap();
        for text in ["testpmd", "penstock", "1518 bytes", "1.1 M", "packets/s"] {
            assert!(svg.contains(text), "{text}: {svg}");
        }
        let plain = |bar: &Option<Bar>| bar.map(|bar| Bar::plain(bar.value));
        let mut without = peers();
        without.groups.iter_mut().for_each(|group| group.bars = group.bars.iter().map(plain).collect());
        let lines = |svg: &str| svg.matches("<polyline").count() + svg.matches("<line").count();
        assert_eq!(
            lines(&svg),
            lines(&without.to_svg().unwrap()) + 6,
            "two bars have ranges: three strokes each"
        );
    }

    #[test]
    fn both_files_are_written_and_nothing_to_show_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let written = bars(&peers(), &directory.path().join("peers.v1")).unwrap();
        assert_eq!(written.png, directory.path().join("peers.v1.png"));
        assert!(fs::metadata(&written.svg).unwrap().len() > 500);
        assert!(fs::metadata(&written.png).unwrap().len() > 500);
        lines(&loss(), &directory.path().join("loss")).unwrap();
        if let Some(kept) = std::env::var_os("PKTGEN_KEEP_PLOTS") {
            bars(&peers(), &Path::new(&kept).join("bars")).unwrap();
            lines(&loss(), &Path::new(&kept).join("lines")).unwrap();
        }
        assert!(matches!(lines(&loss(), Path::new("/nowhere/plot")), Err(PlotError::File { .. })));
        let empty = Lines { series: vec![], ..loss() };
        assert!(matches!(empty.to_svg(), Err(PlotError::Empty(_))));
        let mut log = loss();
        log.y.log = true;
        log.series.iter_mut().for_each(|series| series.points.iter_mut().for_each(|point| point.1 = 0.0));
        assert!(matches!(log.to_svg(), Err(PlotError::Empty(_))), "zero is on no logarithmic axis");
        let bare = Bars { groups: vec![Group { name: "a".into(), bars: vec![None] }], ..peers() };
        assert!(matches!(bare.to_png(), Err(PlotError::Empty(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn no_points_are_too_strange(
            points in proptest::collection::vec((any::<f64>(), any::<f64>()), 0..12),
            logs in any::<(bool, bool)>(),
            title in ".{0,40}",
        ) {
            let axis = |log| Axis { label: "axis".into(), log };
            let series = vec![Series { name: title.clone(), mark: Mark::Line, points }];
            let plot = Lines { title, x: axis(logs.0), y: axis(logs.1), series };
            prop_assert_eq!(plot.to_svg().is_ok(), plot.to_png().is_ok());
        }

        #[test]
        fn no_bars_are_too_strange(
            heights in proptest::collection::vec((any::<f64>(), any::<f64>(), any::<f64>()), 0..12),
            name in ".{0,40}",
        ) {
            let bars = heights.iter().map(|(min, value, max)| Some(Bar { min: *min, value: *value, max: *max }));
            let groups = vec![Group { name: name.clone(), bars: bars.collect() }];
            let plot = Bars { title: name, y: "y".into(), series: vec!["a".into(), "b".into()], groups };
            prop_assert_eq!(plot.to_svg().is_ok(), plot.to_png().is_ok());
        }
    }
}
