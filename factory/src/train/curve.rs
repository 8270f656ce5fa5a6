//! The loss over a run, as lines of JSON and as a picture.
#![expect(clippy::disallowed_methods, reason = "a curve is a file")]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use super::{Progress, TrainError};

/// A point of the curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Steps done.
    pub step: u32,
    /// Tokens read.
    pub tokens: u64,
    /// Mean loss since the point before, nats a token of the answer.
    pub loss: f32,
    /// Loss on data that is not learned from, where it was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f32>,
    /// Learning rate.
    pub rate: f32,
    /// Length of the gradient before clipping.
    pub gradient: f32,
    /// Tokens a second since this start.
    pub tokens_per_s: f32,
}

/// The curve of a run, in `log.jsonl` of its folder.
#[derive(Debug)]
pub struct Curve {
    folder: PathBuf,
    points: Vec<Point>,
}

impl Curve {
    /// What was there up to `step`; what a killed run wrote after its last checkpoint comes again.
    pub fn open(folder: &Path, step: u32) -> Result<Self, TrainError> {
        let file = folder.join("log.jsonl");
        let text = match std::fs::read_to_string(&file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(TrainError::file(&file)(error)),
        };
        let points: Vec<Point> = text
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .filter(|point: &Point| point.step <= step)
            .collect();
        let lines: String = points.iter().map(line).collect();
        crate::whole::write(&file, lines.as_bytes()).map_err(TrainError::file(&file))?;
        Ok(Self {
            folder: folder.to_owned(),
            points,
        })
    }

    /// Adds a point.
    pub fn add(
        &mut self,
        progress: Progress,
        validation_loss: Option<f32>,
    ) -> Result<(), TrainError> {
        let point = Point {
            step: progress.step,
            tokens: progress.tokens,
            loss: progress.loss,
            validation_loss,
            rate: progress.rate,
            gradient: progress.gradient,
            tokens_per_s: progress.tokens_per_s,
        };
        self.points.push(point);
        let file = self.folder.join("log.jsonl");
        let appended = OpenOptions::new().append(true).create(true).open(&file);
        appended
            .and_then(|mut out| out.write_all(line(&point).as_bytes()))
            .map_err(TrainError::file(&file))
    }

    /// Draws `curve.svg`.
    pub fn draw(&self) -> Result<(), TrainError> {
        let file = self.folder.join("curve.svg");
        let mut svg = String::new();
        draw(&mut svg, &self.points)
            .map_err(|error| TrainError::file(&file)(std::io::Error::other(error)))?;
        crate::whole::write(&file, svg.as_bytes()).map_err(TrainError::file(&file))
    }
}

fn line(point: &Point) -> String {
    let json = serde_json::to_string(point).expect("it is plain data");
    format!("{json}\n")
}

fn draw(svg: &mut String, points: &[Point]) -> Result<(), String> {
    let at = |point: &Point, loss: f32| (point.tokens as f64 / 1e6, loss);
    let training: Vec<_> = points.iter().map(|point| at(point, point.loss)).collect();
    let validation: Vec<_> = points
        .iter()
        .filter_map(|point| Some(at(point, point.validation_loss?)))
        .collect();
    let losses = || {
        training
            .iter()
            .chain(&validation)
            .map(|(_, loss)| loss.max(1e-4))
    };
    let (low, high) = losses().fold((f32::MAX, f32::MIN), |(low, high), loss| {
        (low.min(loss), high.max(loss))
    });
    if training.is_empty() {
        return Ok(());
    }
    // Whole decades, which are what a logarithmic scale has labels for.
    let decade = |exponent: f32| 10_f32.powf(exponent);
    let first = low.log10().floor();
    let range = decade(first)..decade(high.log10().ceil().max(first + 1.0));
    let tokens = training.last().map_or(1.0, |(tokens, _)| *tokens);
    let root = SVGBackend::with_string(svg, (900, 480)).into_drawing_area();
    let text = |e: &dyn std::fmt::Display| e.to_string();
    root.fill(&WHITE).map_err(|e| text(&e))?;
    let mut chart = ChartBuilder::on(&root)
        .margin(16)
        .caption("Loss", ("sans-serif", 18))
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..tokens, range.log_scale())
        .map_err(|e| text(&e))?;
    chart
        .configure_mesh()
        .x_desc("million tokens")
        .y_desc("nats a token of the answer")
        .y_label_formatter(&|loss| format!("{loss}"))
        .light_line_style(WHITE)
        .draw()
        .map_err(|e| text(&e))?;
    let lines = [
        ("training", training, RGBColor(31, 119, 180)),
        ("validation", validation, RGBColor(214, 39, 40)),
    ];
    for (name, points, colour) in lines {
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)).point_size(2))
            .map_err(|e| text(&e))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .border_style(BLACK.mix(0.3))
        .background_style(WHITE)
        .draw()
        .map_err(|e| text(&e))?;
    root.present().map_err(|e| text(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(step: u32) -> Progress {
        Progress {
            step,
            tokens: u64::from(step) * 1000,
            loss: 8.0 / step as f32,
            gradient: 1.0,
            rate: 1e-3,
            tokens_per_s: 500.0,
        }
    }

    #[test]
    fn what_a_killed_run_wrote_after_its_checkpoint_comes_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut curve = Curve::open(folder.path(), 0).unwrap();
        for step in [10, 20, 30] {
            curve
                .add(progress(step), (step == 20).then_some(0.5))
                .unwrap();
        }
        let file = folder.path().join("log.jsonl");
        let torn = std::fs::read_to_string(&file).unwrap() + "{\"step\":4";
        std::fs::write(&file, torn).unwrap();
        let mut again = Curve::open(folder.path(), 20).unwrap();
        again.add(progress(30), None).unwrap();
        assert_eq!(again.points, curve.points);
        let lines = std::fs::read_to_string(&file).unwrap();
        assert_eq!(lines.lines().count(), 3);
        again.draw().unwrap();
        let svg = std::fs::read_to_string(folder.path().join("curve.svg")).unwrap();
        assert!(svg.contains("validation") && svg.contains("polyline"));
    }
}
