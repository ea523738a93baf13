//! Random numbers on the device.

use super::queue::Queue;
use crate::error::Result;
use starling_contract::{Buffer, DType, Layout, View};
use starling_ops::Key;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const SEED_LO: usize = 0;
const SEED_HI: usize = 1;
const STEP: usize = 2;
const NODE: usize = 3;
const FIRST_INSTANCE: usize = 4;
/// Random operations that one step may have.
const INSTANCES: u32 = 1024;

/// The words that select random numbers, in device memory: programs read them as parameters, so
/// that a new step changes no program.
pub(crate) struct Random {
    words: Buffer,
    seed: u64,
    step: AtomicU64,
    next: AtomicU32,
}

impl Random {
    /// A table for `seed` at `step`.
    pub(crate) fn new(queue: &Queue, seed: u64, step: u64) -> Result<Self> {
        let mut words = vec![seed as u32, (seed >> 32) as u32, step as u32, 0];
        words.extend(0..INSTANCES);
        let buffer = queue.allocate(words.len() * DType::U32.size())?;
        let view = View::contiguous(buffer.storage().clone(), DType::U32, &[words.len()]);
        queue.upload(bytemuck::cast_slice(&words), &view)?;
        Ok(Self { words: buffer, seed, step: step.into(), next: 0.into() })
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn step(&self) -> u64 {
        self.step.load(Ordering::Relaxed)
    }

    pub(crate) fn has_instances(&self) -> bool {
        self.next.load(Ordering::Relaxed) < INSTANCES
    }

    /// Overwrites the step in place, for the replays of a captured step, and starts the instances
    /// anew.
    pub(crate) fn set_step(&self, queue: &Queue, step: u64) -> Result<()> {
        self.step.store(step, Ordering::Relaxed);
        self.next.store(0, Ordering::Relaxed);
        queue.upload(&(step as u32).to_le_bytes(), &self.word(STEP))
    }

    /// The number of the next random operation.
    pub(crate) fn next_instance(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed).min(INSTANCES - 1)
    }

    /// The parameters of the random operation `instance`.
    pub(crate) fn key(&self, instance: u32) -> Key<View> {
        Key {
            seed_lo: self.word(SEED_LO),
            seed_hi: self.word(SEED_HI),
            instance: self.word(FIRST_INSTANCE + instance as usize),
            step: self.word(STEP),
            node: self.word(NODE),
        }
    }

    fn word(&self, at: usize) -> View {
        let storage = self.words.storage().clone();
        View { storage, dtype: DType::U32, layout: Layout::new(&[], &[], at) }
    }
}
