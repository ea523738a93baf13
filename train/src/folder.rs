//! The folder of a run: which file holds what, and when it may be written.

use super::LanguageModel;
use crate::data::ByteTokenizer;
use crate::files::{
    Archive, FileSystem, FolderLock, Named, create_folder, replace, write_safetensors,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use starling_engine::Tensor;
use starling_engine::optim::Optimizer;
use starling_engine::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const RUN: &str = "run.json";
const STATE: &str = "state.safetensors";
const MODEL: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";

/// Where a run stands, apart from its tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// Steps done.
    pub(super) step: u64,
    /// The lowest validation loss so far.
    pub(super) best_loss: Option<f64>,
    /// Its step.
    pub(super) best_step: u64,
    /// Validations since.
    pub(super) stale: u64,
    /// Nothing is left to do.
    pub(super) finished: bool,
}

/// A run's folder, held by this process.
pub struct RunFolder {
    path: PathBuf,
    files: Arc<dyn FileSystem>,
    _lock: FolderLock,
}

impl RunFolder {
    /// A folder for a new run, made if need be.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it holds a run or a model already; [`Error::File`].
    pub fn create(files: Arc<dyn FileSystem>, path: &Path) -> Result<Self> {
        let folder = Self::hold(files, path)?;
        if path.join(RUN).exists() {
            return Err(Error::invalid(format!(
                "{} holds a run already: continue it with --resume or name another folder",
                path.display()
            )));
        }
        if let Some(name) = [MODEL, CONFIG].into_iter().find(|n| path.join(n).exists()) {
            return Err(Error::invalid(format!(
                "{} holds a {name} that a run would overwrite: name another folder",
                path.display()
            )));
        }
        Ok(folder)
    }

    /// The folder of a run that is to be continued, and its run.json.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it holds none; [`Error::Format`] when run.json is broken.
    pub fn resume(files: Arc<dyn FileSystem>, path: &Path) -> Result<(Self, Value)> {
        let file = path.join(RUN);
        if !file.exists() {
            return Err(Error::invalid(format!(
                "{} holds no run to resume: there is no run.json",
                path.display()
            )));
        }
        let folder = Self::hold(files, path)?;
        let text = std::fs::read(&file).map_err(|e| Error::file(&file, e))?;
        let run = serde_json::from_slice(&text)
            .map_err(|e| Error::format(&file, format!("this is no JSON: {e}")))?;
        Ok((folder, run))
    }

    fn hold(files: Arc<dyn FileSystem>, path: &Path) -> Result<Self> {
        create_folder(&*files, path)?;
        let lock = FolderLock::take(path)?;
        Ok(Self { path: path.to_owned(), files, _lock: lock })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn files(&self) -> &dyn FileSystem {
        &*self.files
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(super) fn write_run(&self, run: &Value) -> Result<()> {
        write_json(self.files(), &self.file(RUN), run)
    }

    /// config.json and tokenizer.json here, and the whole model in `initial/`.
    pub(super) fn write_start(&self, model: &dyn LanguageModel) -> Result<()> {
        write_description(self.files(), &self.path, model)?;
        save_model(self.files(), &self.file("initial"), model)
    }

    pub(super) fn write_model(&self, model: &dyn LanguageModel) -> Result<()> {
        write_weights(self.files(), &self.file(MODEL), model)
    }

    /// Everything that continuing bit for bit needs, in one file.
    pub(super) fn write_state(
        &self,
        model: &dyn LanguageModel,
        optimizer: &Optimizer,
        progress: &Progress,
    ) -> Result<()> {
        let path = self.file(STATE);
        let text = serde_json::to_string(progress)
            .map_err(|e| Error::format(&path, format!("the state cannot be written: {e}")))?;
        let tensors: Vec<Named<'_>> = state_tensors(model, optimizer).map(named).collect();
        write_safetensors(self.files(), &path, &[("progress", text)], &tensors)
    }

    /// Overwrites the model and the optimizer with the last state; `None` when there is none.
    pub(super) fn read_state(
        &self,
        model: &dyn LanguageModel,
        optimizer: &Optimizer,
    ) -> Result<Option<Progress>> {
        let path = self.file(STATE);
        if !path.exists() {
            return Ok(None);
        }
        let archive = Archive::open(&path)?;
        let progress = archive.note("progress").and_then(|t| serde_json::from_str(t).ok());
        let Some(progress) = progress else {
            return Err(Error::format(
                &path,
                "this is no training state: restore it or train anew",
            ));
        };
        for (name, tensor) in state_tensors(model, optimizer) {
            tensor.copy_from_slice(&archive.read(&name, tensor.shape())?)?;
        }
        Ok(Some(progress))
    }
}

fn state_tensors(
    model: &dyn LanguageModel,
    optimizer: &Optimizer,
) -> impl Iterator<Item = (String, Tensor)> {
    let parameters = model.parameters().into_iter();
    parameters.map(|(name, t)| (format!("model.{name}"), t)).chain(optimizer.memory())
}

fn named((name, tensor): (String, Tensor)) -> Named<'static> {
    let shape = tensor.shape().to_vec();
    Named { name, shape, read: Box::new(move || tensor.detach().to_vec()) }
}

fn write_json(files: &dyn FileSystem, path: &Path, value: &Value) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::format(path, format!("the JSON cannot be written: {e}")))?;
    text.push('\n');
    replace(files, path, |out| out.write_all(text.as_bytes()).map_err(|e| Error::file(path, e)))
}

fn write_description(
    files: &dyn FileSystem,
    folder: &Path,
    model: &dyn LanguageModel,
) -> Result<()> {
    write_json(files, &folder.join(CONFIG), &model.config_json())?;
    write_json(files, &folder.join(TOKENIZER), &ByteTokenizer.to_json())
}

fn write_weights(files: &dyn FileSystem, path: &Path, model: &dyn LanguageModel) -> Result<()> {
    let tensors: Vec<Named<'_>> = model.parameters().into_iter().map(named).collect();
    // transformers asks for this entry before it opens a file.
    write_safetensors(files, path, &[("format", "pt".into())], &tensors)
}

/// Writes a Hugging Face folder: config.json, tokenizer.json and model.safetensors.
///
/// # Errors
/// [`Error::File`]; files that were there stay whole.
pub fn save_model(files: &dyn FileSystem, folder: &Path, model: &dyn LanguageModel) -> Result<()> {
    create_folder(files, folder)?;
    write_description(files, folder, model)?;
    write_weights(files, &folder.join(MODEL), model)
}
