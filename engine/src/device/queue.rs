//! The in-order stream that work goes to, with its memory pool, its counters, its random numbers
//! and, while a step is captured, the list of what it was given.

use super::counters::{Counters, Counting, verb_bytes};
use super::random::{Instances, Random, Words};
use super::recording::{self, List, Recorder, Temporary};
use super::siblings::Siblings;
use crate::error::{Error, Result};
use crate::lower::lower;
use crate::wait::wait;
use starling_contract::{
    Backend, Buffer, Capture, Checked, DType, Pool, PoolStats, Replay, Storage, Stream, Support,
    Verb, View,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) struct Inner {
    siblings: Arc<Siblings>,
    backend: Arc<dyn Backend>,
    stream: Box<dyn Stream>,
    pool: Arc<Pool>,
    counting: Counting,
    random: Mutex<Option<Arc<Words>>>,
}

impl Inner {
    pub fn owns(&self, storage: &Arc<dyn Storage>) -> bool {
        self.pool.owns(storage)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.siblings.remove();
    }
}

/// An in-order stream of a device with memory, counters, random numbers and captures of its own.
/// Cloning gives another handle.
///
/// A device may have several. Work on one runs in the order in which it was given; between two
/// there is an order only where a verb of the one takes memory of the other: it waits, on the
/// device, for what the other was given before, and the other waits for it.
#[derive(Clone)]
pub struct Queue(Arc<Inner>);

impl Queue {
    /// A new queue that hands out at most `limit_bytes`.
    pub(super) fn new(backend: Arc<dyn Backend>, limit_bytes: usize) -> Result<Self> {
        let stream = backend.stream()?;
        let siblings = Siblings::of(backend.device());
        let inner = Arc::new(Inner {
            siblings,
            pool: Pool::new(backend.clone(), limit_bytes),
            backend,
            stream,
            counting: Counting::default(),
            random: Mutex::new(None),
        });
        inner.siblings.add(&inner);
        Ok(Self(inner))
    }

    pub(super) fn backend(&self) -> &Arc<dyn Backend> {
        &self.0.backend
    }

    /// True when both handles are of one queue.
    pub fn same(&self, other: &Queue) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Counters of the memory pool.
    pub fn pool_stats(&self) -> PoolStats {
        self.0.pool.stats()
    }

    /// Starts the pool's peak anew.
    pub fn reset_peak(&self) {
        self.0.pool.reset_peak();
    }

    /// Verbs and bytes so far.
    pub fn counters(&self) -> Counters {
        self.0.counting.read(self.0.stream.counters())
    }

    /// Whatever is given to this queue from now on runs after what `other` was given until now. The
    /// host does not wait. Operations on tensors of both do this themselves.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a queue of another device; what the device reports.
    pub fn wait_for(&self, other: &Queue) -> Result<()> {
        let (here, there) = (self.0.backend.device(), other.0.backend.device());
        if here != there {
            return Err(Error::invalid(format!(
                "a queue of {here} cannot wait for one of {there}: sync() the other one"
            )));
        }
        if self.same(other) {
            return Ok(());
        }
        let event = other.0.stream.event()?;
        Ok(self.0.stream.wait_for(&*event)?)
    }

    /// The other queues of the device whose memory the views are.
    fn strangers<'a>(&self, views: impl IntoIterator<Item = &'a View>) -> Vec<Queue> {
        let mut found: Vec<Queue> = Vec::new();
        if self.0.siblings.is_alone() {
            return found;
        }
        for view in views {
            let known = self.0.owns(&view.storage) || found.iter().any(|q| q.0.owns(&view.storage));
            if !known && let Some(owner) = self.0.siblings.owner(&view.storage) {
                found.push(Queue(owner));
            }
        }
        found
    }

    /// Runs `f` after what `others` were given until now; what they are given later waits for it:
    /// memory that they take back may be in use here.
    fn between<T>(&self, others: &[Queue], f: impl FnOnce() -> Result<T>) -> Result<T> {
        others.iter().try_for_each(|other| self.wait_for(other))?;
        let result = f();
        others.iter().try_for_each(|other| other.wait_for(self))?;
        result
    }

    /// Waits until everything asked for is done.
    ///
    /// # Errors
    /// What the device reports.
    pub fn sync(&self) -> Result<()> {
        wait(self.synced())
    }

    /// Done when everything asked for until this call is done: for hosts that cannot block.
    ///
    /// # Errors
    /// What the device reports.
    pub async fn synced(&self) -> Result<()> {
        Ok(self.0.stream.sync().await?)
    }

    /// Seeds the queue's random numbers (dropout) and starts at step 0.
    ///
    /// # Errors
    /// What the device reports.
    pub fn seed(&self, seed: u64) -> Result<()> {
        self.random()?.reseed(seed)
    }

    /// The queue's random numbers; seeded with 0 when [`Queue::seed`] was never called.
    pub(super) fn random(&self) -> Result<Random> {
        let mut slot = self.random_slot();
        if let Some(words) = &*slot {
            return Ok(Random::new(self, words));
        }
        // Not part of what is being recorded: a replay goes on where the numbers stand.
        let words = self.outside(|| {
            let words = Arc::new(Words::new(self)?);
            Random::new(self, &words).reseed(0)?;
            Ok::<_, Error>(words)
        })?;
        *slot = Some(words.clone());
        Ok(Random::new(self, &words))
    }

    fn random_slot(&self) -> MutexGuard<'_, Option<Arc<Words>>> {
        self.0.random.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Memory for `bytes`. What was given back is the device's again only when what used it is
    /// done: where there is none, what was asked for is waited for, and then it is tried once more.
    /// A browser's thread cannot wait: there it is an error at once.
    pub(crate) fn allocate(&self, bytes: usize) -> Result<Buffer> {
        match self.take(bytes) {
            Err(starling_contract::Error::OutOfMemory { .. })
                if cfg!(not(target_arch = "wasm32")) =>
            {
                self.sync()?;
                Ok(self.take(bytes)?)
            }
            taken => Ok(taken?),
        }
    }

    fn take(&self, bytes: usize) -> starling_contract::Result<Buffer> {
        match recording::capture(self) {
            Some(capture) => self.0.pool.get_captured(bytes, capture),
            None => self.0.pool.get(bytes),
        }
    }

    /// As [`super::Device::run`].
    pub(super) fn run(&self, verb: Verb) -> Result<()> {
        let verb = verb.check()?;
        match self.0.backend.supports(&verb) {
            Support::Native => {
                // Held until the verb is enqueued: the stream's order guards it from then on.
                let (verb, _workspace) = self.with_workspace(verb)?;
                self.enqueue(&verb)
            }
            Support::Composed => self.run_composed(&verb),
            Support::No => Err(self.unsupported(&verb)),
        }
    }

    fn run_composed(&self, verb: &Verb) -> Result<()> {
        // Held until all of them are enqueued: the stream's order guards them from then on.
        let mut held = Vec::new();
        let verbs = lower(verb, &mut |bytes| {
            held.push(self.allocate(bytes)?);
            Ok(held[held.len() - 1].storage().clone())
        })?;
        let verbs = verbs.ok_or_else(|| self.unsupported(verb))?;
        verbs.into_iter().try_for_each(|verb| self.run(verb))
    }

    /// What a verb that cannot be run is answered with.
    fn unsupported(&self, verb: &Verb) -> Error {
        let (op, dtype, backend) = (verb.name(), verb.dtype(), self.0.backend.name().to_owned());
        starling_contract::Error::Unsupported { op, dtype, backend }.into()
    }

    fn enqueue(&self, verb: &Checked) -> Result<()> {
        recording::check_queue(self)?;
        let strangers = self.strangers(verb.reads().into_iter().chain(verb.writes()));
        self.0.counting.launched(1, verb_bytes(verb));
        self.between(&strangers, || Ok(self.0.stream.submit(verb)?))?;
        recording::push(self, verb, strangers);
        Ok(())
    }

    /// The verb with the working memory that the backend wants, where it came without.
    fn with_workspace(&self, verb: Checked) -> Result<(Checked, Option<Buffer>)> {
        if verb.workspace().is_some() {
            return Ok((verb, None));
        }
        let elements = self.0.backend.workspace_bytes(&verb).div_ceil(DType::F32.size());
        if elements == 0 {
            return Ok((verb, None));
        }
        let buffer = self.allocate(elements.saturating_mul(DType::F32.size()))?;
        let view = View::contiguous(buffer.storage().clone(), DType::F32, &[elements]);
        Ok((verb.with_workspace(view)?, Some(buffer)))
    }

    /// Refuses an upload, and whatever would be done for one, where a step is captured.
    pub(crate) fn may_upload(&self) -> Result<()> {
        if self.is_recording() {
            return Err(Error::invalid(
                "a captured step cannot take data from the host: upload its inputs before it",
            ));
        }
        recording::check_queue(self)
    }

    /// Refuses a replay, and whatever would be done for one, where a step is captured.
    pub(crate) fn may_replay(&self) -> Result<()> {
        if self.is_recording() {
            return Err(Error::invalid(
                "a captured step cannot be replayed within another capture: call its function \
                 there instead",
            ));
        }
        recording::check_queue(self)
    }

    /// Host bytes to a contiguous view. Not part of a captured list, hence refused inside one:
    /// there a constant would be overwritten when its memory is used again.
    pub(crate) fn upload(&self, bytes: &[u8], to: &View) -> Result<()> {
        self.may_upload()?;
        self.0.counting.uploaded(bytes.len());
        let strangers = self.strangers([to]);
        self.between(&strangers, || Ok(self.0.stream.upload(bytes, to)?))
    }

    /// A contiguous view to host bytes.
    pub(crate) async fn download(&self, from: &View, bytes: &mut [u8]) -> Result<()> {
        if self.is_recording() {
            return Err(Error::invalid(
                "a captured step cannot read data back: download its results after it",
            ));
        }
        self.0.counting.downloaded(bytes.len());
        self.strangers([from]).iter().try_for_each(|other| self.wait_for(other))?;
        Ok(self.0.stream.download(from, bytes).await?)
    }

    /// True while what this thread gives to the queue is recorded.
    pub(crate) fn is_recording(&self) -> bool {
        recording::is_on(self)
    }

    /// The capture that this thread's work belongs to.
    pub(crate) fn capture(&self) -> Option<Capture> {
        recording::capture(self)
    }

    /// Records, from now on, what this thread gives to the queue.
    pub(crate) fn record(&self) -> Result<Recorder> {
        let instances = self.random_slot().as_ref().map_or_else(Instances::default, |w| w.begin());
        Recorder::begin(self, instances, || self.0.pool.begin_capture())
    }

    /// The storages that only the capture's list sees.
    pub(super) fn end_capture(&self, capture: Capture) -> Vec<Arc<dyn Storage>> {
        self.0.pool.end_capture(capture)
    }

    /// Runs `f` outside what this thread records: a lazy value of before, say.
    pub(crate) fn outside<T>(&self, f: impl FnOnce() -> T) -> T {
        recording::outside(self, f)
    }

    /// Makes a list of verbs one replayable piece of work.
    pub(crate) fn compile(&self, list: List) -> Result<Compiled> {
        let List { verbs, temporary, strangers, mut instances } = list;
        let bytes = verbs.iter().map(|verb| verb_bytes(verb)).fold(0, u64::saturating_add);
        match (&mut instances, &*self.random_slot()) {
            (Some(own), Some(words)) => own.close(words),
            _ => instances = None,
        }
        let replay = self.0.stream.compile(verbs.clone())?;
        let instances = Mutex::new(instances);
        Ok(Compiled { replay, verbs, temporary, bytes, instances, strangers })
    }

    /// Enqueues a compiled list.
    pub(crate) fn replay(&self, list: &Compiled) -> Result<()> {
        // Held until the list is enqueued: the numbers that it reads are this replay's.
        let mut instances = list.instances.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(instances) = &mut *instances {
            instances.advance(&self.random()?)?;
        }
        self.0.counting.launched(list.replay.len(), list.bytes);
        self.between(&list.strangers, || Ok(list.replay.run(&*self.0.stream)?))
    }
}

/// A list of verbs that a queue has compiled.
pub(crate) struct Compiled {
    replay: Box<dyn Replay>,
    verbs: Vec<Checked>,
    temporary: Temporary,
    bytes: u64,
    instances: Mutex<Option<Instances>>,
    /// Other queues whose memory the list takes.
    strangers: Vec<Queue>,
}

impl Compiled {
    /// Number of verbs.
    pub fn len(&self) -> usize {
        self.replay.len()
    }

    /// The verbs in order.
    pub fn verbs(&self) -> &[Checked] {
        &self.verbs
    }

    /// Memory that only the list sees.
    pub fn temporary(&self) -> &Temporary {
        &self.temporary
    }
}
