//! Bytes on their way from the device, and the notes of misplaced indices that come with them.

use crate::error::driver;
use crate::gpu::Gpu;
use crate::storage::GpuStorage;
use crate::stream::Queue;
use starling_contract::{Error, Result};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

/// Bytes of the notes of misplaced indices, which come with every download.
pub(crate) const NOTES: u64 = GpuStorage::STEP as u64;

/// The operations that note an index outside its table, by their numbers in the notes.
const REPORTING: [&str; 4] = ["gather", "scatter_add", "cross_entropy", "cross_entropy_backward"];

/// What the four words of the notes say.
fn misplaced(words: &[u32]) -> Result<()> {
    let [flag, index, bound, operation] = *words else { return Ok(()) };
    if flag == 0 {
        return Ok(());
    }
    let op = REPORTING.get(operation as usize).copied().unwrap_or("gather");
    Err(Error::Index { op, index: i64::from(index as i32), bound: bound as usize })
}

/// Memory that the device fills: `size` bytes, and the notes behind them.
#[derive(Clone)]
pub(crate) struct Staged {
    staging: wgpu::Buffer,
    mapped: Mapped,
    size: usize,
}

impl Staged {
    /// Asks for what the buffer holds when all that was submitted is done.
    pub fn new(staging: wgpu::Buffer, size: usize) -> Self {
        let mapped = Mapped::default();
        let signal = mapped.clone();
        staging.map_async(wgpu::MapMode::Read, .., move |result| signal.set(result.is_ok()));
        Self { staging, mapped, size }
    }

    /// The bytes, and what the notes say.
    async fn read(&self, gpu: &Gpu) -> Result<(Vec<u8>, Result<()>)> {
        let ok = self.mapped.wait().await;
        gpu.check()?;
        if !ok {
            return Err(driver("the device did not give the bytes back"));
        }
        let range = self.staging.get_mapped_range(..).map_err(driver)?;
        let mut bytes = range.to_vec();
        let notes: Vec<u32> = bytemuck::pod_collect_to_vec(&bytes[self.size..]);
        bytes.truncate(self.size);
        Ok((bytes, misplaced(&notes)))
    }
}

/// A request for bytes. One that is dropped before its answer leaves the notes that the answer
/// would have brought, and which the device no longer has, to the next answer of the queue.
pub(crate) struct Request {
    pub queue: Arc<Queue>,
    pub staged: Staged,
    /// A kernel that may note a misplaced index ran before, and the notes were not read yet.
    pub suspect: bool,
}

impl Drop for Request {
    fn drop(&mut self) {
        if self.suspect {
            self.queue
                .unread
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(self.staged.clone());
        }
    }
}

impl Request {
    pub async fn answer(mut self) -> Result<Vec<u8>> {
        let queue = self.queue.clone();
        // A browser answers by itself; elsewhere somebody must ask the driver.
        #[cfg(not(target_arch = "wasm32"))]
        queue.gpu.wait()?;
        // What was noted earlier is told first. It stays in its place until it is read, so that
        // this answer may be dropped too.
        while let Some(earlier) = queue.first_unread() {
            let read = earlier.read(&queue.gpu).await;
            queue.forget(&earlier);
            read?.1?;
        }
        let read = self.staged.read(&queue.gpu).await;
        self.suspect = false;
        let (bytes, notes) = read?;
        notes.map(|()| bytes)
    }
}

impl Queue {
    fn first_unread(&self) -> Option<Staged> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }

    fn forget(&self, read: &Staged) {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        unread.retain(|staged| staged.staging != read.staging);
    }

    /// True when notes of dropped requests wait to be read.
    pub(crate) fn has_unread(&self) -> bool {
        self.first_unread().is_some()
    }
}

/// The driver's answer, to a request to map a buffer say, when it calls back.
#[derive(Clone, Default)]
pub(crate) struct Mapped(Arc<Mutex<(Option<bool>, Vec<Waker>)>>);

impl Mapped {
    pub(crate) fn set(&self, ok: bool) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 = Some(ok);
        let wakers = std::mem::take(&mut state.1);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) async fn wait(&self) -> bool {
        poll_fn(|context| {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match state.0 {
                Some(ok) => Poll::Ready(ok),
                None => {
                    if !state.1.iter().any(|waker| waker.will_wake(context.waker())) {
                        state.1.push(context.waker().clone());
                    }
                    Poll::Pending
                }
            }
        })
        .await
    }
}
