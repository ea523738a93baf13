//! The loss curves as a picture.

use super::metrics::Curves;
use crate::files::{FileSystem, replace};
use plotters::prelude::*;
use starling_engine::{Error, Result};
use std::path::Path;

/// Half the steps over which the training loss is averaged.
const SMOOTH: usize = 10;

/// What is drawn at most: axes cannot be divided over the whole range of numbers.
const HIGHEST: f64 = 1e9;

/// The curve as far as it can be drawn.
fn drawable(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let finite = points.iter().filter(|p| p.1.is_finite());
    finite.map(|p| (p.0, p.1.clamp(-HIGHEST, HIGHEST))).collect()
}

/// The mean of each point and its neighbours.
fn smooth(points: &[(u64, f64)]) -> Vec<(f64, f64)> {
    let mean = |i: usize| {
        let near = &points[i.saturating_sub(SMOOTH)..(i + SMOOTH + 1).min(points.len())];
        near.iter().map(|p| p.1).sum::<f64>() / near.len() as f64
    };
    points.iter().enumerate().map(|(i, p)| (p.0 as f64, mean(i))).collect()
}

/// The lowest and the highest loss, with some room.
fn range(curves: &Curves) -> (f64, f64) {
    let all = curves.train.iter().chain(&curves.validation).map(|p| p.1);
    let (low, high) =
        all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)));
    let room = 0.05 * (high - low).max(0.1);
    (low - room, high + room)
}

fn draw(curves: &Curves) -> std::result::Result<String, Box<dyn std::error::Error>> {
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (800, 450)).into_drawing_area();
        root.fill(&WHITE)?;
        let last = curves.train.last().map_or(1, |p| p.0).max(1);
        let (low, high) = range(curves);
        let mut chart = ChartBuilder::on(&root)
            .margin(16)
            .x_label_area_size(36)
            .y_label_area_size(48)
            .build_cartesian_2d(0f64..last as f64, low..high)?;
        chart.configure_mesh().x_desc("step").y_desc("loss (nats per token)").draw()?;
        chart
            .draw_series(LineSeries::new(smooth(&curves.train), &BLUE))?
            .label("training, smoothed")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLUE));
        let validation = curves.validation.iter().map(|p| (p.0 as f64, p.1));
        chart
            .draw_series(LineSeries::new(validation, RED.stroke_width(2)).point_size(3))?
            .label("validation")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], RED));
        chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
        root.present()?;
    }
    Ok(text)
}

/// Draws the curves into an SVG file; does nothing before the first step.
pub(super) fn save(files: &dyn FileSystem, path: &Path, curves: &Curves) -> Result<()> {
    let (train, validation) = (drawable(&curves.train), drawable(&curves.validation));
    if train.is_empty() {
        return Ok(());
    }
    let text = draw(&Curves { train, validation })
        .map_err(|e| Error::format(path, format!("the curves cannot be drawn: {e}")))?;
    replace(files, path, |out| out.write_all(text.as_bytes()).map_err(|e| Error::file(path, e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Disk;

    #[test]
    fn the_picture_holds_both_curves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("loss.svg");
        let train = (1..=50).map(|s| (s, 5.0 / s as f64)).collect();
        save(&Disk, &path, &Curves { train, validation: vec![(25, 1.0), (50, 0.9)] }).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        assert!(text.matches("<polyline").count() >= 2);
        assert!(text.contains("validation"));
    }

    #[test]
    fn numbers_that_no_axis_holds_are_drawn_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("loss.svg");
        for y in [f64::MAX, f64::MIN, f64::NAN, f64::INFINITY, 3e38, 5e-324, 0.0] {
            let train = vec![(1, 2.0), (2, y), (u64::MAX, 1.0)];
            save(&Disk, &path, &Curves { train, validation: vec![(2, y)] }).unwrap();
            assert!(std::fs::read_to_string(&path).unwrap().contains("</svg>"), "{y}");
        }
    }

    #[test]
    fn smoothing_keeps_a_constant_and_the_number_of_points() {
        let points: Vec<(u64, f64)> = (0..30).map(|s| (s, 2.0)).collect();
        let smoothed = smooth(&points);
        assert_eq!(smoothed.len(), 30);
        assert!(smoothed.iter().all(|p| (p.1 - 2.0).abs() < 1e-12));
    }
}
