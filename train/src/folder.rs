//! The folder of a run: which file holds what, and when it may be written.

use super::LanguageModel;
use crate::data::ByteTokenizer;
use crate::files::{
    Archive, FileSystem, FolderLock, Named, check_writable, create_folder, read_json, replace,
    write_safetensors,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use starling_engine::optim::Optimizer;
use starling_engine::{Downloads, Error, Result, Tensor};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

const RUN: &str = "run.json";
const STATE: &str = "state.safetensors";
const MODEL: &str = "model.safetensors";
const CONFIG: &str = "config.json";
const TOKENIZER: &str = "tokenizer.json";
pub(super) const METRICS: &str = "metrics.jsonl";
pub(super) const PLOT: &str = "loss.svg";
const INITIAL: &str = "initial";
/// The entry of run.json by which a folder is known to be ours, and its version.
const MARK: &str = "starling_run";
const VERSION: u64 = 1;

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
    /// No step is left: all are done, or validation no longer improved.
    pub(super) ended: bool,
    /// The best model's loss over the whole validation text, once that is known.
    pub(super) final_loss: Option<f64>,
    /// Nothing is left to do.
    pub(super) finished: bool,
}

/// A run's folder, held by this process.
pub struct RunFolder {
    path: PathBuf,
    files: Arc<dyn FileSystem>,
    /// This process made it.
    made: bool,
    _lock: FolderLock,
}

/// Whether anything has this name, also a link that leads nowhere.
fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

impl RunFolder {
    /// A folder for a new run, made if need be. One that is there must be empty.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it holds anything; [`Error::File`].
    pub fn create(files: Arc<dyn FileSystem>, path: &Path) -> Result<Self> {
        let made = !exists(path);
        if !made {
            check_empty(path)?;
        }
        let folder = Self { made, ..Self::hold(files, path)? };
        // Another process may have begun here in between.
        check_empty(path)?;
        Ok(folder)
    }

    /// The folder of a run that is to be continued, and its run.json. Nothing is written to a
    /// folder that is not ours.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it holds none; [`Error::Format`] when run.json is broken or another
    /// program's, or something else than a file stands where one will be written.
    pub fn resume(files: Arc<dyn FileSystem>, path: &Path) -> Result<(Self, Value)> {
        let file = path.join(RUN);
        if !exists(&file) {
            return Err(Error::invalid(format!(
                "{} holds no run to resume: there is no run.json",
                path.display()
            )));
        }
        let run = read_json(&file)?;
        if run[MARK] != json!(VERSION) {
            let message = format!(
                "this does not describe a run that this version can continue ({MARK} is {} and \
                 not {VERSION}): name another folder or train anew",
                run[MARK]
            );
            return Err(Error::format(&file, message));
        }
        let initial = path.join(INITIAL);
        for name in [STATE, MODEL, CONFIG, TOKENIZER, METRICS, PLOT, FolderLock::NAME] {
            check_writable(&path.join(name))?;
        }
        if exists(&initial) {
            if initial.symlink_metadata().is_ok_and(|m| !m.is_dir()) {
                let message = "this is no folder but a link or a file: remove it";
                return Err(Error::format(&initial, message));
            }
            for name in [MODEL, CONFIG, TOKENIZER] {
                check_writable(&initial.join(name))?;
            }
        }
        Ok((Self::hold(files, path)?, run))
    }

    fn hold(files: Arc<dyn FileSystem>, path: &Path) -> Result<Self> {
        create_folder(&*files, path)?;
        let lock = FolderLock::take(path)?;
        Ok(Self { path: path.to_owned(), files, made: false, _lock: lock })
    }

    /// Takes away what the start of a run has written, where no step came of it.
    pub(super) fn discard(&self) {
        let (top, initial) = ([RUN, STATE, CONFIG, TOKENIZER, METRICS], self.file(INITIAL));
        let inner = [MODEL, CONFIG, TOKENIZER].map(|name| initial.join(name));
        let lock = self.file(FolderLock::NAME);
        for path in top.map(|name| self.file(name)).iter().chain(&inner).chain([&lock]) {
            // The error that led here is the one to report.
            let _ = self.files.remove(path);
        }
        let _ = std::fs::remove_dir(&initial);
        if self.made {
            let _ = std::fs::remove_dir(&self.path);
        }
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

    /// Writes run.json, behind the mark that the folder is ours.
    ///
    /// # Errors
    /// [`Error::File`]; what was there stays whole.
    pub fn write_run(&self, run: &Map<String, Value>) -> Result<()> {
        let mut marked = Map::from_iter([(MARK.to_owned(), json!(VERSION))]);
        marked.extend(run.clone());
        write_json(self.files(), &self.file(RUN), &Value::Object(marked))
    }

    /// config.json and tokenizer.json here, and the whole model in `initial/`.
    pub(super) fn write_start(&self, model: &dyn LanguageModel) -> Result<()> {
        write_description(self.files(), &self.path, model)?;
        save_model(self.files(), &self.file(INITIAL), model)
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
        let tensors = named(state_tensors(model, optimizer))?;
        write_safetensors(self.files(), &path, &[("progress", text)], &tensors)
    }

    /// Overwrites the model and the optimizer with the last state; `None` when the run was
    /// interrupted before its first one.
    ///
    /// # Errors
    /// [`Error::Format`] when the state is missing although there are traces of steps, when rows
    /// of them are missing, or when it is broken.
    pub(super) fn read_state(
        &self,
        model: &dyn LanguageModel,
        optimizer: &Optimizer,
    ) -> Result<Option<Progress>> {
        let path = self.file(STATE);
        if !exists(&path) {
            let trace = [METRICS, MODEL, PLOT].into_iter().find(|n| exists(&self.file(n)));
            return trace.map_or(Ok(None), |name| {
                let message = format!(
                    "the file is missing, and {name} shows that the run had begun: restore it, \
                     or train anew into another folder"
                );
                Err(Error::format(&path, message))
            });
        }
        let archive = Archive::open_own(&path)?;
        let progress = archive.note("progress").and_then(|t| serde_json::from_str(t).ok());
        let Some(progress) = progress else {
            return Err(Error::format(
                &path,
                "this is no training state: restore it or train anew",
            ));
        };
        let Progress { step, .. } = progress;
        let metrics = self.file(METRICS);
        if step > 0 && !exists(&metrics) {
            let message = format!(
                "the file is missing and had the rows of {step} steps: restore it, or put an \
                 empty one there to go on without them"
            );
            return Err(Error::format(&metrics, message));
        }
        for (name, tensor) in state_tensors(model, optimizer) {
            tensor.copy_from_slice(&archive.read(&name, tensor.shape())?)?;
        }
        Ok(Some(progress))
    }

    /// Evaluates `f` while the model holds the parameters of the best one, then gives it back its
    /// own.
    pub(super) fn with_best_model<T>(
        &self,
        model: &dyn LanguageModel,
        f: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let archive = Archive::open_own(&self.file(MODEL))?;
        let parameters = model.parameters();
        let own = Downloads::new(parameters.iter().map(|(_, t)| t.clone()))?;
        let own: Vec<Vec<f32>> =
            (0..parameters.len()).map(|at| own.read(at)).collect::<Result<_>>()?;
        let load = || -> Result<()> {
            for (name, tensor) in &parameters {
                tensor.copy_from_slice(&archive.read(name, tensor.shape())?)?;
            }
            Ok(())
        };
        let result = load().and_then(|()| f());
        for ((_, tensor), own) in parameters.iter().zip(&own) {
            tensor.copy_from_slice(own)?;
        }
        result
    }
}

/// Refuses a folder that holds anything but what a run leaves that was killed before its run.json.
fn check_empty(path: &Path) -> Result<()> {
    let failed = |e| Error::file(path, e);
    if exists(&path.join(RUN)) {
        return Err(Error::invalid(format!(
            "{} holds a run already: continue it with --resume or name another folder",
            path.display()
        )));
    }
    let lock = path.join(FolderLock::NAME);
    let ours = lock.symlink_metadata().is_ok_and(|m| m.is_file() && m.len() == 0);
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (name, kind) = (entry.file_name(), entry.file_type().map_err(failed)?);
        let left = name == FolderLock::NAME || name.to_str() == Some(".run.json.tmp");
        if !(ours && left && kind.is_file()) {
            return Err(Error::invalid(format!(
                "{} holds {}, and a run begins in an empty folder: name another folder",
                path.display(),
                Path::new(&name).display()
            )));
        }
    }
    Ok(())
}

fn state_tensors(
    model: &dyn LanguageModel,
    optimizer: &Optimizer,
) -> impl Iterator<Item = (String, Tensor)> {
    let parameters = model.parameters().into_iter();
    parameters.map(|(name, t)| (format!("model.{name}"), t)).chain(optimizer.memory())
}

/// Tensors as a file takes them: those that lie in one buffer come with one transfer.
fn named(tensors: impl IntoIterator<Item = (String, Tensor)>) -> Result<Vec<Named<'static>>> {
    let (names, tensors): (Vec<String>, Vec<Tensor>) = tensors.into_iter().unzip();
    let shapes: Vec<Vec<usize>> = tensors.iter().map(|t| t.shape().to_vec()).collect();
    let downloads = Rc::new(Downloads::new(tensors)?);
    let one = |(at, (name, shape)): (usize, (String, Vec<usize>))| {
        let (label, downloads) = (name.clone(), downloads.clone());
        let read = move || {
            let numbers: Vec<f32> = downloads.read(at)?;
            // Nobody can go on from such a file: the one before it is better.
            match numbers.iter().find(|x| !x.is_finite()) {
                Some(x) => Err(Error::Diverged(format!("{label} holds {x}"))),
                None => Ok(numbers),
            }
        };
        Named { name, shape, read: Box::new(read) }
    };
    Ok(names.into_iter().zip(shapes).enumerate().map(one).collect())
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
    let tensors = named(model.parameters())?;
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
