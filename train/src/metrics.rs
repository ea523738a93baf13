//! metrics.jsonl: a row a step and a row a validation.

use crate::files::{FileSystem, Sink, read_whole};
use serde::{Deserialize, Serialize};
use starling_engine::{Error, Result};
use std::path::{Path, PathBuf};

/// What is known of a step once it is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRow {
    /// The step, from 1.
    pub step: u64,
    /// Nats per token over the step's batches, before the update.
    pub loss: f64,
    /// The learning rate.
    pub lr: f64,
    /// The norm of all gradients before clipping.
    pub grad_norm: f64,
    /// Trained tokens per second of this step.
    pub tokens_per_s: f64,
    /// Where each sequence starts in the token stream.
    pub offsets: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ValidationRow {
    step: u64,
    val_loss: f64,
}

/// The best model over the whole validation text, once a run has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FinalRow {
    step: u64,
    best_step: u64,
    final_val_loss: f64,
}

/// Points of the two curves.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Curves {
    pub(super) train: Vec<(u64, f64)>,
    pub(super) validation: Vec<(u64, f64)>,
}

/// The open file and the curves that it holds.
pub(super) struct Metrics {
    path: PathBuf,
    file: Box<dyn Sink>,
    pub(super) curves: Curves,
    /// Rows in the middle that could not be read. They stay in the file.
    pub(super) skipped: usize,
}

impl Metrics {
    /// Opens the file; what follows the last row of `last_step` is cut off, also the row of the
    /// end unless the run has `finished`.
    pub(super) fn open(
        files: &dyn FileSystem,
        path: &Path,
        last_step: u64,
        finished: bool,
    ) -> Result<Self> {
        let there = path.symlink_metadata().is_ok();
        let text = if there { read_whole(path)? } else { Vec::new() };
        let kept = keep(&text, last_step, finished);
        let file =
            files.append(path, kept.bytes as u64).map_err(|source| Error::file(path, source))?;
        Ok(Self { path: path.to_owned(), file, curves: kept.curves, skipped: kept.skipped })
    }

    pub(super) fn step(&mut self, row: &StepRow) -> Result<()> {
        self.curves.train.push((row.step, row.loss));
        self.line(row)
    }

    pub(super) fn validation(&mut self, step: u64, val_loss: f64) -> Result<()> {
        self.curves.validation.push((step, val_loss));
        self.line(&ValidationRow { step, val_loss })
    }

    pub(super) fn end(&mut self, step: u64, best_step: u64, final_val_loss: f64) -> Result<()> {
        self.line(&FinalRow { step, best_step, final_val_loss })
    }

    fn line(&mut self, row: &impl Serialize) -> Result<()> {
        let failed = |e| Error::file(&self.path, e);
        let mut line = serde_json::to_string(row)
            .map_err(|e| Error::format(&self.path, format!("a row cannot be written: {e}")))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).and_then(|()| self.file.flush()).map_err(failed)
    }

    /// Returns once the rows so far will survive a power cut.
    pub(super) fn sync(&mut self) -> Result<()> {
        self.file.sync().map_err(|e| Error::file(&self.path, e))
    }
}

/// A row of the file.
#[derive(Deserialize)]
#[serde(untagged)]
enum Row {
    Step(StepRow),
    Validation(ValidationRow),
    Final(FinalRow),
}

impl Row {
    /// Whether the row may stand after the row of step `before` in a run that has come to `last`.
    fn fits(&self, before: u64, last: u64, finished: bool) -> bool {
        let (step, loss) = match self {
            Row::Step(row) => (row.step, row.loss),
            Row::Validation(row) => (row.step, row.val_loss),
            Row::Final(row) => (row.step, row.final_val_loss),
        };
        let first = match self {
            Row::Step(_) => before + 1,
            Row::Validation(_) => before,
            Row::Final(_) if finished => before,
            Row::Final(_) => u64::MAX,
        };
        // A loss is computed in f32: anything beyond is a damaged row.
        (first..=last).contains(&step) && loss.abs() <= f64::from(f32::MAX)
    }
}

/// What [`keep`] found.
#[derive(Default)]
struct Kept {
    /// Up to the end of the last good row.
    bytes: usize,
    curves: Curves,
    /// Rows before that one that are no rows, or of a step that cannot stand there.
    skipped: usize,
}

/// The rows up to `last_step`, in the order of their steps.
fn keep(text: &[u8], last_step: u64, finished: bool) -> Kept {
    let (mut kept, mut at, mut bad, mut before) = (Kept::default(), 0, 0, 0);
    for line in text.split_inclusive(|&b| b == b'\n') {
        at += line.len();
        let row = serde_json::from_slice::<Row>(line).ok();
        let row = row.filter(|r| line.ends_with(b"\n") && r.fits(before, last_step, finished));
        let Some(row) = row else {
            bad += 1;
            continue;
        };
        match row {
            Row::Step(row) => {
                before = row.step;
                kept.curves.train.push((row.step, row.loss));
            }
            Row::Validation(row) => kept.curves.validation.push((row.step, row.val_loss)),
            Row::Final(_) => {}
        }
        (kept.bytes, kept.skipped) = (at, kept.skipped + std::mem::take(&mut bad));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{Disk, LimitedDisk};

    fn row(step: u64) -> StepRow {
        let loss = 1.0 / step as f64;
        StepRow { step, loss, lr: 1e-3, grad_norm: 0.5, tokens_per_s: 1e4, offsets: vec![3, 1] }
    }

    #[test]
    fn rows_after_the_checkpoint_and_half_a_line_are_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut metrics = Metrics::open(&Disk, &path, 0, false).unwrap();
        for step in 1..=4 {
            metrics.step(&row(step)).unwrap();
            if step % 2 == 0 {
                metrics.validation(step, 2.0).unwrap();
            }
        }
        drop(metrics);
        let mut text = std::fs::read_to_string(&path).unwrap();
        let kept: usize = text.split_inclusive('\n').take(3).map(str::len).sum();
        let expected = text[..kept].to_owned();
        text.push_str("{\"step\":5,\"lo");
        std::fs::write(&path, text).unwrap();
        let metrics = Metrics::open(&Disk, &path, 2, false).unwrap();
        assert_eq!(metrics.curves.train, [(1, 1.0), (2, 0.5)]);
        assert_eq!(metrics.curves.validation, [(2, 2.0)]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }

    #[test]
    fn bad_rows_in_the_middle_cost_nothing_but_themselves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let line = |s: u64| serde_json::to_string(&row(s)).unwrap() + "\n";
        let huge = line(2).replace("\"loss\":0.5", "\"loss\":1.7e308");
        for bad in ["garbage\n", "[]\n", "\n", &line(99), &huge] {
            let text = line(1) + bad + &line(3) + &line(4) + "half";
            std::fs::write(&path, &text).unwrap();
            let metrics = Metrics::open(&Disk, &path, 4, false).unwrap();
            assert_eq!(metrics.skipped, 1, "{bad}");
            let steps: Vec<u64> = metrics.curves.train.iter().map(|p| p.0).collect();
            assert_eq!(steps, [1, 3, 4], "{bad}");
            let kept = std::fs::read_to_string(&path).unwrap();
            assert_eq!(kept, text[..text.len() - 4], "{bad}");
        }
        // The row of the end belongs to a run that has ended.
        let mut metrics = Metrics::open(&Disk, &path, 4, false).unwrap();
        metrics.end(4, 3, 0.25).unwrap();
        drop(metrics);
        let ended = std::fs::read_to_string(&path).unwrap();
        assert!(ended.ends_with("{\"step\":4,\"best_step\":3,\"final_val_loss\":0.25}\n"));
        Metrics::open(&Disk, &path, 4, true).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), ended);
        Metrics::open(&Disk, &path, 4, false).unwrap();
        assert!(ended.starts_with(&std::fs::read_to_string(&path).unwrap()));
        assert!(!std::fs::read_to_string(&path).unwrap().contains("final"));
        // A step that comes again is as wrong as one that comes too early.
        std::fs::write(&path, line(1) + &line(3) + &line(2) + &line(4)).unwrap();
        assert_eq!(Metrics::open(&Disk, &path, 4, false).unwrap().skipped, 1);
    }

    #[test]
    fn the_rows_are_what_readers_expect() {
        let text = serde_json::to_string(&row(1)).unwrap();
        assert_eq!(
            text,
            "{\"step\":1,\"loss\":1.0,\"lr\":0.001,\"grad_norm\":0.5,\"tokens_per_s\":10000.0,\
             \"offsets\":[3,1]}"
        );
        let text = serde_json::to_string(&ValidationRow { step: 2, val_loss: 1.5 }).unwrap();
        assert_eq!(text, "{\"step\":2,\"val_loss\":1.5}");
    }

    #[test]
    fn a_full_disk_is_reported_and_the_whole_rows_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut metrics = Metrics::open(&LimitedDisk::new(130), &path, 0, false).unwrap();
        metrics.step(&row(1)).unwrap();
        let error = metrics.step(&row(2)).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl") && error.contains("space"), "{error}");
        drop(metrics);
        assert_eq!(Metrics::open(&Disk, &path, 9, false).unwrap().curves.train, [(1, 1.0)]);
    }
}
