//! metrics.jsonl: a row a step and a row a validation.

use crate::files::{FileSystem, Sink};
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
}

impl Metrics {
    /// Opens the file; rows after `last_step` and whatever follows them are cut off.
    pub(super) fn open(files: &dyn FileSystem, path: &Path, last_step: u64) -> Result<Self> {
        let failed = |e| Error::file(path, e);
        let text = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(failed(e)),
        };
        let (keep_bytes, curves) = keep(&text, last_step);
        let file = files.append(path, keep_bytes as u64).map_err(failed)?;
        Ok(Self { path: path.to_owned(), file, curves })
    }

    pub(super) fn step(&mut self, row: &StepRow) -> Result<()> {
        self.curves.train.push((row.step, row.loss));
        self.line(row)
    }

    pub(super) fn validation(&mut self, step: u64, val_loss: f64) -> Result<()> {
        self.curves.validation.push((step, val_loss));
        self.line(&ValidationRow { step, val_loss })
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

/// The bytes of the whole rows up to `last_step`, and what they say.
fn keep(text: &[u8], last_step: u64) -> (usize, Curves) {
    let (mut end, mut curves) = (0, Curves::default());
    for line in text.split_inclusive(|&b| b == b'\n') {
        if line.last() != Some(&b'\n') {
            break;
        }
        if let Ok(row) = serde_json::from_slice::<StepRow>(line) {
            if row.step > last_step {
                break;
            }
            curves.train.push((row.step, row.loss));
        } else if let Ok(row) = serde_json::from_slice::<ValidationRow>(line) {
            if row.step > last_step {
                break;
            }
            curves.validation.push((row.step, row.val_loss));
        } else {
            break;
        }
        end += line.len();
    }
    (end, curves)
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
        let mut metrics = Metrics::open(&Disk, &path, 0).unwrap();
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
        let metrics = Metrics::open(&Disk, &path, 2).unwrap();
        assert_eq!(metrics.curves.train, [(1, 1.0), (2, 0.5)]);
        assert_eq!(metrics.curves.validation, [(2, 2.0)]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
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
        let mut metrics = Metrics::open(&LimitedDisk::new(130), &path, 0).unwrap();
        metrics.step(&row(1)).unwrap();
        let error = metrics.step(&row(2)).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl") && error.contains("space"), "{error}");
        drop(metrics);
        assert_eq!(Metrics::open(&Disk, &path, 9).unwrap().curves.train, [(1, 1.0)]);
    }
}
