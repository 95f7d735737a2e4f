//! Figures as lines in a picture: benches save them, `report` draws them into `docs/performance/`.

use std::{error::Error, fs, io};

use plotters::{
    chart::{ChartBuilder, SeriesLabelPosition},
    drawing::IntoDrawingArea as _,
    element::{Circle, PathElement},
    series::LineSeries,
    style::{BLACK, Color as _, Palette as _, Palette99, WHITE},
};
use plotters_svg::SVGBackend;
use serde::{Deserialize, Serialize};

use crate::results_folder;

/// Pixels.
const SIZE: (u32, u32) = (860, 420);
/// How names of saved pictures end.
const SUFFIX: &str = ".plot.json";

/// A picture of some figures, in columns that have names.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Plot {
    /// The file's name, without ending: the bench's, a point, and its own.
    pub name: String,
    /// What is above it.
    pub title: String,
    /// What the columns are.
    pub x: String,
    /// The columns' names.
    pub columns: Vec<String>,
    /// What the figures are.
    pub y: String,
    /// The figures grow by factors.
    pub log: bool,
    /// The lines.
    pub lines: Vec<Line>,
}

/// A line of a picture.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Line {
    /// Its name.
    pub name: String,
    /// Its figure in each column, where there is one.
    pub figures: Vec<Option<f64>>,
}

impl Plot {
    /// Keeps the picture with the benches' results; one without figures is removed.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn save(&self) -> io::Result<()> {
        let path = results_folder().join(format!("{}{SUFFIX}", self.name));
        if self.lines.iter().all(|line| line.figures.iter().all(Option::is_none)) {
            return fs::remove_file(path).or(Ok(()));
        }
        fs::create_dir_all(results_folder())?;
        fs::write(path, serde_json::to_vec_pretty(self)?)
    }

    /// The kept pictures of a bench, by name.
    ///
    /// # Errors
    /// If a file cannot be read or is no picture.
    pub fn saved(bench: &str) -> io::Result<Vec<Self>> {
        let Ok(entries) = fs::read_dir(results_folder()) else { return Ok(Vec::new()) };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let of_bench = |name: &str| name.starts_with(&format!("{bench}.")) && name.ends_with(SUFFIX);
        let mut paths: Vec<_> = paths
            .filter(|path| path.file_name().and_then(|name| name.to_str()).is_some_and(of_bench))
            .collect();
        paths.sort();
        paths.into_iter().map(|path| Ok(serde_json::from_slice(&fs::read(path)?)?)).collect()
    }

    /// The picture as SVG.
    ///
    /// # Errors
    /// If it cannot be drawn.
    pub fn svg(&self) -> Result<String, Box<dyn Error + '_>> {
        let mut text = String::new();
        {
            let area = SVGBackend::with_string(&mut text, SIZE).into_drawing_area();
            area.fill(&WHITE)?;
            let scale = |figure: f64| if self.log { figure.max(f64::MIN_POSITIVE).log10() } else { figure };
            let figures = self.lines.iter().flat_map(|line| line.figures.iter().flatten());
            let (low, high) = figures.fold((f64::MAX, f64::MIN), |(low, high), figure| {
                (low.min(scale(*figure)), high.max(scale(*figure)))
            });
            let low = if self.log { low.floor() } else { 0.0 };
            let high = if self.log { high.ceil().max(low + 1.0) } else { high.max(f64::MIN_POSITIVE) * 1.05 };
            let last = self.columns.len().saturating_sub(1) as f64;
            let mut chart = ChartBuilder::on(&area)
                .caption(&self.title, ("sans-serif", 18))
                .margin(12)
                .x_label_area_size(42)
                .y_label_area_size(62)
                .build_cartesian_2d(-0.2..last + 0.2, low..high)?;
            let column = |x: &f64| self.column(*x);
            let figure = |y: &f64| if self.log { number(10_f64.powf(*y)) } else { number(*y) };
            chart
                .configure_mesh()
                .disable_x_mesh()
                .light_line_style(WHITE)
                .x_labels(4 * self.columns.len().max(1))
                .x_desc(&self.x)
                .y_desc(&self.y)
                .x_label_formatter(&column)
                .y_label_formatter(&figure)
                .draw()?;
            for (n, line) in self.lines.iter().enumerate() {
                let color = Palette99::pick(n).mix(1.0);
                let points = line.figures.iter().enumerate();
                let points: Vec<_> =
                    points.filter_map(|(x, figure)| Some((x as f64, scale((*figure)?)))).collect();
                chart.draw_series(points.iter().map(|point| Circle::new(*point, 4, color.filled())))?;
                chart
                    .draw_series(LineSeries::new(points, color.stroke_width(2)))?
                    .label(&line.name)
                    .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], color.stroke_width(2)));
            }
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::LowerRight)
                .background_style(WHITE.mix(0.8))
                .border_style(BLACK)
                .draw()?;
            area.present()?;
        }
        Ok(text)
    }

    /// The name of the column at x, if one is there.
    fn column(&self, x: f64) -> String {
        let mut names = self.columns.iter().enumerate();
        let here = names.find(|(n, _)| (*n as f64 - x).abs() < 1e-6);
        here.map_or_else(String::new, |(_, name)| name.clone())
    }
}

fn number(value: f64) -> String {
    if value >= 10.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_its_lines_columns_and_names() {
        let line =
            |name: &str, figures: &[Option<f64>]| Line { name: name.into(), figures: figures.to_vec() };
        for log in [false, true] {
            let plot = Plot {
                name: "wire.test".into(),
                title: "Rates & flows".into(),
                x: "flows".into(),
                columns: ["1 k", "100 k", "1 M"].map(String::from).into(),
                y: "M/s".into(),
                log,
                lines: vec![
                    line("one", &[Some(11.0), Some(10.0), Some(8.0)]),
                    line("two", &[Some(17.0), None, Some(16.0)]),
                ],
            };
            let svg = plot.svg().unwrap();
            for text in ["<svg", "Rates &amp; flows", "100 k", "1 M", "one", "two", "M/s"] {
                assert!(svg.contains(text), "{text}: {svg}");
            }
            assert_eq!(svg.matches("<circle").count(), 5);
        }
    }
}
