//! Random numbers on the device.

use super::queue::Queue;
use super::recording;
use crate::error::{Error, Result};
use starling_contract::{Buffer, DType, Layout, View};
use starling_ops::Key;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

const SEED_LO: usize = 0;
const SEED_HI: usize = 1;
const STEP: usize = 2;
const NODE: usize = 3;
/// Numbers of random operations that one buffer holds.
const CHUNK: u32 = 1024;
/// Such buffers that are kept for operations outside of lists. An earlier number, which backward
/// may ask for, is uploaded again.
const CHUNKS: usize = 16;

/// The words that select random numbers, in device memory: programs read them as parameters, so
/// that a new step changes no program.
pub(super) struct Words {
    /// Seed, step and node.
    key: Buffer,
    /// How often these words were overwritten.
    changes: AtomicU64,
    next: AtomicU32,
    instances: Mutex<Instances>,
}

/// A queue's random numbers, as they are selected when this is made.
#[derive(Clone)]
pub(crate) struct Random {
    queue: Queue,
    words: Arc<Words>,
    changes: u64,
}

/// The numbers of random operations, in device memory: word `i` holds `base + i`. A captured list
/// has its own, so that a replay draws the numbers that running the step again would draw.
#[derive(Default)]
pub(super) struct Instances {
    base: u32,
    /// Random operations of the list.
    used: u32,
    /// By number. A list keeps all of its own.
    chunks: BTreeMap<u32, Buffer>,
    is_shared: bool,
}

fn word(buffer: &Buffer, at: usize) -> View {
    let storage = buffer.storage().clone();
    View { storage, dtype: DType::U32, layout: Layout::new(&[], &[], at) }
}

fn upload(queue: &Queue, words: &[u32], buffer: &Buffer) -> Result<()> {
    let view = View::contiguous(buffer.storage().clone(), DType::U32, &[words.len()]);
    queue.upload(bytemuck::cast_slice(words), &view)
}

impl Instances {
    fn starting_at(base: u32) -> Self {
        Self { base, ..Self::default() }
    }

    fn fill(&self, queue: &Queue, chunk: u32, buffer: &Buffer) -> Result<()> {
        let first = self.base.wrapping_add(chunk * CHUNK);
        let words: Vec<u32> = (0..CHUNK).map(|i| first.wrapping_add(i)).collect();
        upload(queue, &words, buffer)
    }

    /// The word that holds `instance`. The memory grows as it must, outside what is recorded.
    fn word(&mut self, queue: &Queue, instance: u32) -> Result<View> {
        let at = instance.checked_sub(self.base).ok_or_else(|| {
            Error::invalid("a captured step cannot draw the random numbers of an earlier one")
        })?;
        let (chunk, at) = (at / CHUNK, (at % CHUNK) as usize);
        if let Some(buffer) = self.chunks.get(&chunk) {
            return Ok(word(buffer, at));
        }
        let buffer = queue.allocate(CHUNK as usize * DType::U32.size())?;
        self.fill(queue, chunk, &buffer)?;
        if self.is_shared && self.chunks.len() == CHUNKS {
            self.chunks.pop_first();
        }
        let found = word(&buffer, at);
        self.chunks.insert(chunk, buffer);
        Ok(found)
    }

    /// Notes how many operations the list has, now that it is whole.
    pub(super) fn close(&mut self, random: &Words) {
        self.used = random.next.load(Ordering::Relaxed).saturating_sub(self.base);
    }

    /// Takes as many new numbers as the list has random operations.
    pub(super) fn advance(&mut self, random: &Random) -> Result<()> {
        let base = random.words.next.fetch_add(self.used, Ordering::Relaxed);
        if base == self.base {
            return Ok(());
        }
        self.base = base;
        self.chunks.iter().try_for_each(|(&chunk, buffer)| self.fill(&random.queue, chunk, buffer))
    }
}

impl Words {
    /// Room for the words of `queue`; [`Random::reseed`] fills them.
    pub(super) fn new(queue: &Queue) -> Result<Self> {
        let key = queue.allocate(4 * DType::U32.size())?;
        let instances = Mutex::new(Instances { is_shared: true, ..Instances::default() });
        Ok(Self { key, changes: 0.into(), next: 0.into(), instances })
    }

    /// The numbers of a list whose recording begins now.
    pub(super) fn begin(&self) -> Instances {
        Instances::starting_at(self.next.load(Ordering::Relaxed))
    }
}

impl Random {
    pub(super) fn new(queue: &Queue, words: &Arc<Words>) -> Self {
        let changes = words.changes.load(Ordering::Acquire);
        Self { queue: queue.clone(), words: words.clone(), changes }
    }

    /// Overwrites the seed in place, for the replays of a captured step too, and starts at step 0.
    pub(super) fn reseed(&self, seed: u64) -> Result<()> {
        upload(&self.queue, &[seed as u32, (seed >> 32) as u32, 0, 0], &self.words.key)?;
        self.begin_anew();
        Ok(())
    }

    /// Overwrites the step in place, for the replays of a captured step, and starts the instances
    /// anew.
    pub(super) fn set_step(&self, step: u64) -> Result<()> {
        self.queue.upload(&(step as u32).to_le_bytes(), &word(&self.words.key, STEP))?;
        self.begin_anew();
        Ok(())
    }

    fn begin_anew(&self) {
        self.words.next.store(0, Ordering::Relaxed);
        self.words.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// The number of the next random operation.
    pub(crate) fn next_instance(&self) -> u32 {
        self.words.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The parameters of the random operation `instance`. Within a capture its number lies in
    /// words of the list's own.
    ///
    /// # Errors
    /// [`Error::Invalid`] when other numbers are selected now than when the operation was called.
    pub(crate) fn key(&self, instance: u32) -> Result<Key<View>> {
        if self.words.changes.load(Ordering::Acquire) != self.changes {
            return Err(Error::invalid(
                "the random numbers of an operation are gone, because seed() or set_random_step() \
                 was called after it: before that, read its result and call backward()",
            ));
        }
        let queue = &self.queue;
        let of_list =
            recording::with_instances(queue, |own| queue.outside(|| own.word(queue, instance)));
        let number = of_list.unwrap_or_else(|| {
            let shared = &self.words.instances;
            shared.lock().unwrap_or_else(PoisonError::into_inner).word(queue, instance)
        })?;
        let key = &self.words.key;
        Ok(Key {
            seed_lo: word(key, SEED_LO),
            seed_hi: word(key, SEED_HI),
            instance: number,
            step: word(key, STEP),
            node: word(key, NODE),
        })
    }
}
