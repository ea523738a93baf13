//! The queue: verbs become launches, launches are gathered into few submissions.

use crate::answer::{NOTES, Request, Staged};
use crate::error::driver;
use crate::gpu::Gpu;
use crate::kernel::Kernel;
use crate::pipeline::Pipeline;
use crate::plan::plan;
use crate::storage::GpuStorage;
use starling_contract::{
    Checked, Copy, DType, Download, Error, Event, Passed, Pending, Replay, Result, Storage, Stream,
    StreamCounters, Verb, View,
};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Launches after which a batch is submitted without being asked for.
const MAX_PENDING: usize = 256;
/// Operations, by the shapes of verbs, of one submission. A watchdog resets a device that works on
/// one for about two seconds. A slow GPU with 50 GFLOP/s needs 0.7 for these, and a fast one with
/// 10 TFLOP/s 3 milliseconds, to which a submission adds some hundredths of one. A kernel that is
/// more work is submitted alone.
const MAX_WORK: u64 = 1 << 35;
/// Bytes of uploads that the driver keeps in memory of its own before they are submitted.
const MAX_UPLOADED: usize = 64 << 20;
/// Bytes of parameters of one batch.
const PARAMETER_BYTES: usize = 128 << 10;
/// Parameters of a launch begin at a multiple of this on every device.
const PARAMETER_ALIGN: usize = 256;

/// A launch that can be encoded without further thought.
struct Ready {
    pipeline: Arc<Pipeline>,
    group: wgpu::BindGroup,
    grid: [u32; 3],
    work: u64,
}

/// How many launches, from the first, make one submission.
fn first_submission(ready: &[Ready]) -> usize {
    let mut work = 0u64;
    let fits = |r: &&Ready| {
        work = work.saturating_add(r.work);
        work <= MAX_WORK
    };
    ready.iter().take_while(fits).count().max(1)
}

/// Launches that wait for their submission, and their parameters.
#[derive(Default)]
struct Batch {
    ready: Vec<Ready>,
    parameters: Vec<u8>,
    work: u64,
    /// A kernel that may note a misplaced index ran since the notes were last read.
    suspect: bool,
}

/// An in-order queue on a device.
pub struct WebGpuStream(Arc<Queue>);

pub(crate) struct Queue {
    pub gpu: Arc<Gpu>,
    uniforms: wgpu::Buffer,
    /// Where kernels note an index outside its table.
    notes: View,
    batch: Mutex<Batch>,
    /// Notes that were fetched by requests which were then dropped, the oldest first.
    pub unread: Mutex<Vec<Staged>>,
    /// Bytes of uploads since the last submission.
    uploaded: AtomicUsize,
    submissions: AtomicU64,
    dispatches: AtomicU64,
    compilations: AtomicU64,
}

impl Drop for Queue {
    /// What was asked for is done, although nobody waits for it on this queue.
    fn drop(&mut self) {
        let mut batch = std::mem::take(&mut *self.batch());
        self.flush(&mut batch);
    }
}

fn uniforms(gpu: &Gpu, bytes: usize) -> Result<wgpu::Buffer> {
    gpu.buffer(bytes, wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST)
}

impl WebGpuStream {
    pub(crate) fn new(gpu: &Arc<Gpu>) -> Result<Self> {
        let uniforms = uniforms(gpu, PARAMETER_BYTES)?;
        let notes = Arc::new(gpu.alloc(GpuStorage::STEP)?);
        let notes = View::contiguous(notes, DType::U32, &[4]);
        Ok(Self(Arc::new(Queue {
            gpu: gpu.clone(),
            uniforms,
            notes,
            batch: Mutex::default(),
            unread: Mutex::default(),
            uploaded: AtomicUsize::new(0),
            submissions: AtomicU64::new(0),
            dispatches: AtomicU64::new(0),
            compilations: AtomicU64::new(0),
        })))
    }
}

impl Queue {
    fn plan(&self, verb: &Verb) -> Result<Vec<Kernel>> {
        let gpu = &self.gpu;
        let alloc = |bytes| Ok(Arc::new(gpu.alloc(bytes)?) as Arc<dyn Storage>);
        plan(verb, gpu.scope(&alloc, &self.notes))
    }

    fn batch(&self) -> MutexGuard<'_, Batch> {
        // A batch is consistent between statements.
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory of a view of this device.
    fn storage<'a>(&self, op: &'static str, view: &'a View) -> Result<&'a GpuStorage> {
        let (device, found) = (self.gpu.id, view.device());
        let storage = GpuStorage::of(view).filter(|_| found == device);
        storage.ok_or(Error::Devices { op, device, found })
    }

    /// Submits what waits.
    fn flush(&self, batch: &mut Batch) {
        if batch.ready.is_empty() {
            return;
        }
        self.gpu.queue.write_buffer(&self.uniforms, 0, &batch.parameters);
        self.encode(&batch.ready);
        batch.ready.clear();
        batch.parameters.clear();
        batch.work = 0;
    }

    /// Hands commands to the driver, and with them the uploads that wait.
    fn submit(&self, commands: Option<wgpu::CommandBuffer>, dispatches: usize) {
        self.uploaded.store(0, Ordering::Relaxed);
        self.gpu.queue.submit(commands);
        self.submissions.fetch_add(1, Ordering::Relaxed);
        self.dispatches.fetch_add(dispatches as u64, Ordering::Relaxed);
    }

    /// Writes whole words to a buffer from byte `offset`. What was submitted before may still read
    /// the old contents.
    fn write(&self, buffer: &wgpu::Buffer, offset: usize, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let room = MAX_UPLOADED - self.uploaded.load(Ordering::Relaxed).min(MAX_UPLOADED);
            let n = room.max(4).min(bytes.len() - done);
            self.gpu.queue.write_buffer(buffer, (offset + done) as u64, &bytes[done..][..n]);
            done += n;
            if self.uploaded.fetch_add(n, Ordering::Relaxed) + n >= MAX_UPLOADED {
                self.submit(None, 0);
                // The driver gives back what earlier uploads took. An error is the next call's.
                let _ = self.gpu.device.poll(wgpu::PollType::Poll);
            }
        }
    }

    /// Encodes launches and submits them, in as few parts as their work allows.
    fn encode(&self, mut ready: &[Ready]) {
        while !ready.is_empty() {
            let (part, rest) = ready.split_at(first_submission(ready));
            self.submit(Some(encoded(&self.gpu, part)), part.len());
            ready = rest;
        }
    }

    /// Submits what waits and asks for `size` bytes of `storage` as they then are, and for the
    /// notes of misplaced indices with them.
    fn request(self: &Arc<Self>, storage: &GpuStorage, start: u64, size: u64) -> Result<Request> {
        let gpu = &self.gpu;
        gpu.check()?;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = gpu.buffer((size + NOTES) as usize, usage)?;
        let suspect = {
            let mut batch = self.batch();
            self.flush(&mut batch);
            let mut encoder = gpu.device.create_command_encoder(&Default::default());
            encoder.copy_buffer_to_buffer(storage.buffer(), start, &staging, 0, size);
            if let Some(notes) = GpuStorage::of(&self.notes) {
                // This answer brings the notes; whatever comes later is noted anew.
                encoder.copy_buffer_to_buffer(notes.buffer(), 0, &staging, size, NOTES);
                encoder.clear_buffer(notes.buffer(), 0, None);
            }
            self.submit(Some(encoder.finish()), 0);
            std::mem::take(&mut batch.suspect)
        };
        let staged = Staged::new(staging, size as usize);
        Ok(Request { queue: self.clone(), staged, suspect })
    }

    /// Asks for the notes of misplaced indices, whose answer is an error if a kernel noted one.
    fn requested_notes(self: &Arc<Self>) -> Result<Request> {
        let notes = GpuStorage::of(&self.notes).ok_or_else(|| driver("the notes are lost"))?;
        self.request(notes, 0, 4)
    }

    /// Asks for the bytes of a view; also where in the answer they begin. `None` for no bytes.
    fn requested(self: &Arc<Self>, from: &View, bytes: usize) -> Result<Option<(Request, usize)>> {
        self.gpu.check()?;
        let storage = self.storage("download", from)?;
        let range = from.contiguous_range("download", bytes)?;
        if bytes == 0 {
            return Ok(None);
        }
        // Queues copy whole words.
        let first = range.start;
        let start = first / 4 * 4;
        let size = (first + bytes).next_multiple_of(4) - start;
        let request = self.request(storage, start as u64, size as u64)?;
        Ok(Some((request, first - start)))
    }
}

/// The commands of launches, in one pass.
fn encoded(gpu: &Gpu, ready: &[Ready]) -> wgpu::CommandBuffer {
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for r in ready {
            pass.set_pipeline(&r.pipeline.pipeline);
            pass.set_bind_group(0, &r.group, &[]);
            let [x, y, z] = r.grid;
            pass.dispatch_workgroups(x, y, z);
        }
    }
    encoder.finish()
}

/// Puts a kernel's parameters behind `parameters` and binds its storages.
fn prepare(
    queue: &Queue,
    kernel: &Kernel,
    grid: [u32; 3],
    uniforms: &wgpu::Buffer,
    parameters: &mut Vec<u8>,
) -> Result<Ready> {
    let gpu = &queue.gpu;
    let (pipeline, is_new) = gpu.pipelines.get(kernel, gpu.arithmetic().fma)?;
    queue.compilations.fetch_add(u64::from(is_new), Ordering::Relaxed);
    gpu.check()?;
    let words = kernel.parameters();
    let offset = parameters.len();
    parameters.extend_from_slice(bytemuck::cast_slice(&words));
    let size = wgpu::BufferSize::new((parameters.len() - offset) as u64);
    parameters.resize(parameters.len().next_multiple_of(PARAMETER_ALIGN), 0);
    let mut entries = vec![wgpu::BindGroupEntry {
        binding: 0,
        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
            buffer: uniforms,
            offset: offset as u64,
            size,
        }),
    }];
    for b in &kernel.bindings {
        let Some(storage) = b.storage.downcast_ref::<GpuStorage>() else {
            return Err(Error::shape(kernel.name(), "an operand lies on another device"));
        };
        for shard in 0..b.shards() {
            let from = b.from + shard * b.shard_bytes;
            let bytes = b.shard_bytes.min(b.from + b.bytes - from);
            entries.push(wgpu::BindGroupEntry {
                binding: b.slot + shard as u32,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: storage.buffer(),
                    offset: from as u64,
                    size: wgpu::BufferSize::new(bytes as u64),
                }),
            });
        }
    }
    let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some(kernel.name()),
        layout: &pipeline.layout,
        entries: &entries,
    });
    Ok(Ready { pipeline, group, grid, work: kernel.work() })
}

impl WebGpuStream {
    /// Adds kernels to the batch; their storages are bound already.
    pub(crate) fn launch(&self, kernels: &[Kernel]) -> Result<()> {
        self.0.gpu.check()?;
        let mut batch = self.0.batch();
        for kernel in kernels {
            let Some(grid) = kernel.dispatch() else { continue };
            let needs = kernel.parameters().len() * 4;
            let full = batch.parameters.len() + needs > PARAMETER_BYTES;
            let enough = batch.work.saturating_add(kernel.work()) > MAX_WORK;
            if full || enough || batch.ready.len() >= MAX_PENDING {
                self.0.flush(&mut batch);
            }
            batch.suspect |= kernel.is_reporting();
            let ready = prepare(&self.0, kernel, grid, &self.0.uniforms, &mut batch.parameters)?;
            batch.work = batch.work.saturating_add(ready.work);
            batch.ready.push(ready);
        }
        Ok(())
    }
}

impl Stream for WebGpuStream {
    fn submit(&self, verb: &Checked) -> Result<()> {
        verb.must_be_on(self.0.gpu.id)?;
        self.launch(&self.0.plan(verb)?)
    }

    fn upload(&self, bytes: &[u8], to: &View) -> Result<()> {
        self.0.gpu.check()?;
        let storage = self.0.storage("upload", to)?;
        let range = to.contiguous_range("upload", bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        let offset = range.start;
        if offset.is_multiple_of(4) && bytes.len().is_multiple_of(4) {
            self.0.flush(&mut self.0.batch());
            self.0.write(storage.buffer(), offset, bytes);
            return self.0.gpu.check();
        }
        // Queues write whole words: the rest goes through memory of its own and a copy.
        let staged = Arc::new(self.0.gpu.alloc(bytes.len())?);
        let mut padded = bytes.to_vec();
        padded.resize(bytes.len().next_multiple_of(4), 0);
        self.0.write(staged.buffer(), 0, &padded);
        let src = View::contiguous(staged, DType::U8, &[bytes.len()]);
        let layout = starling_contract::Layout::new(&[bytes.len()], &[1], offset);
        let dst = View { storage: to.storage.clone(), dtype: DType::U8, layout };
        self.submit(&Verb::from(Copy { src, dst }).check()?)
    }

    fn download<'a>(&'a self, from: &'a View, bytes: &'a mut [u8]) -> Download<'a> {
        // The bytes are those of now, whenever the future is looked at.
        let request = self.0.requested(from, bytes.len());
        Box::pin(async move {
            if let Some((request, skip)) = request? {
                bytes.copy_from_slice(&request.answer().await?[skip..][..bytes.len()]);
            }
            Ok(())
        })
    }

    fn sync(&self) -> Pending<'_, ()> {
        let suspect = self.0.batch().suspect || self.0.has_unread();
        let notes = suspect.then(|| self.0.requested_notes()).transpose();
        self.0.flush(&mut self.0.batch());
        let done = self.0.gpu.done();
        Box::pin(async move {
            if let Some(notes) = notes? {
                notes.answer().await?;
            }
            done.await
        })
    }

    /// All streams share the driver's queue, which is in order: what waits here is handed to it.
    fn event(&self) -> Result<Box<dyn Event>> {
        self.0.flush(&mut self.0.batch());
        self.0.gpu.check()?;
        Ok(Box::new(Passed))
    }

    fn counters(&self) -> StreamCounters {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StreamCounters {
            submissions: count(&self.0.submissions),
            dispatches: count(&self.0.dispatches),
            compilations: count(&self.0.compilations),
        }
    }

    fn compile(&self, verbs: Vec<Checked>) -> Result<Box<dyn Replay>> {
        let mut kernels = Vec::new();
        let mut bytes = 0usize;
        for verb in &verbs {
            verb.must_be_on(self.0.gpu.id)?;
            for kernel in self.0.plan(verb)? {
                let Some(grid) = kernel.dispatch() else { continue };
                bytes += (kernel.parameters().len() * 4).next_multiple_of(PARAMETER_ALIGN);
                kernels.push((kernel, grid));
            }
        }
        let uniforms = uniforms(&self.0.gpu, bytes.max(PARAMETER_ALIGN))?;
        let mut parameters = Vec::with_capacity(bytes);
        let ready = kernels
            .iter()
            .map(|(kernel, grid)| prepare(&self.0, kernel, *grid, &uniforms, &mut parameters))
            .collect::<Result<Vec<Ready>>>()?;
        self.0.gpu.queue.write_buffer(&uniforms, 0, &parameters);
        let suspect = kernels.iter().any(|(k, _)| k.is_reporting());
        Ok(Box::new(Step { queue: self.0.clone(), ready, suspect, verbs }))
    }
}

/// A step whose pipelines, bindings and parameters are made: a run only encodes them.
struct Step {
    queue: Arc<Queue>,
    ready: Vec<Ready>,
    suspect: bool,
    /// Keeps the storages alive.
    verbs: Vec<Checked>,
}

impl Replay for Step {
    fn run(&self, _: &dyn Stream) -> Result<()> {
        let gpu = &self.queue.gpu;
        gpu.check()?;
        {
            let mut batch = self.queue.batch();
            self.queue.flush(&mut batch);
            batch.suspect |= self.suspect;
        }
        self.queue.encode(&self.ready);
        gpu.check()
    }

    fn len(&self) -> usize {
        self.verbs.len()
    }
}
