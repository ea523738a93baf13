//! An opened device: its handles, what went wrong on it, and its counters.

use crate::error::driver;
use crate::limits::{Arithmetic, Limits};
use crate::pipeline::Pipelines;
use crate::plan::Scope;
use crate::storage::GpuStorage;
use crate::variant::{Options, Variant};
use crate::wait::caught;
use starling_contract::{Capabilities, DeviceId, Error, Result, Storage, View};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The usages of memory for kernels, uploads and downloads.
const BUFFER: wgpu::BufferUsages = wgpu::BufferUsages::STORAGE
    .union(wgpu::BufferUsages::COPY_SRC)
    .union(wgpu::BufferUsages::COPY_DST);

/// What happened to the device beyond the control of a single call.
#[derive(Clone, Debug)]
enum Fault {
    Lost,
    Memory,
    Driver(String),
}

/// Shared by a backend, its streams and its storages.
pub struct Gpu {
    pub(crate) name: String,
    /// Of this opening: two of one adapter share no memory.
    pub(crate) id: DeviceId,
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) capabilities: Capabilities,
    pub(crate) variant: Variant,
    /// Kernels are planned for a driver that computes on the processor.
    pub(crate) software: bool,
    pub(crate) limits: Limits,
    pub(crate) pipelines: Pipelines,
    arithmetic: OnceLock<Arithmetic>,
    fault: Arc<Mutex<Option<Fault>>>,
}

impl Gpu {
    pub(crate) fn new(
        name: String,
        device: wgpu::Device,
        queue: wgpu::Queue,
        capabilities: Capabilities,
        variant: Variant,
        matrix: usize,
        options: Options,
    ) -> Result<Arc<Self>> {
        let fault: Arc<Mutex<Option<Fault>>> = Arc::default();
        let lost = fault.clone();
        device.set_device_lost_callback(move |_, _| {
            note(&lost, Fault::Lost);
        });
        let failed = fault.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            note(
                &failed,
                match error {
                    wgpu::Error::OutOfMemory { .. } => Fault::Memory,
                    other => Fault::Driver(other.to_string()),
                },
            );
        }));
        let l = device.limits();
        let lanes = if variant.subgroups { device.adapter_info().subgroup_min_size } else { 1 };
        let limits = Limits {
            slots: l.max_storage_buffers_per_shader_stage as usize,
            binding_bytes: l.max_storage_buffer_binding_size as usize,
            buffer_bytes: l.max_buffer_size as usize,
            workgroup_bytes: l.max_compute_workgroup_storage_size as usize,
            invocations: l.max_compute_invocations_per_workgroup as usize,
            lanes: lanes as usize,
            matrix: if variant.matrix { matrix } else { 0 },
        };
        let software = capabilities.software && !options.hardware;
        let gpu = Arc::new(Self {
            id: DeviceId::opened(&name),
            name,
            pipelines: Pipelines::new(&device, options.checked),
            device,
            queue,
            capabilities,
            variant,
            software,
            limits,
            arithmetic: OnceLock::new(),
            fault,
        });
        gpu.check()?;
        Ok(gpu)
    }

    /// Notes what the device's arithmetic does. Until then the least is assumed, so that the probe
    /// itself can run.
    pub(crate) fn learn(&self, arithmetic: Arithmetic) {
        // It is learnt once, when the device is opened.
        let _ = self.arithmetic.set(arithmetic);
    }

    /// What the device's arithmetic does.
    pub(crate) fn arithmetic(&self) -> Arithmetic {
        self.arithmetic.get().copied().unwrap_or(Arithmetic::LEAST)
    }

    /// What plans on this device may use.
    pub(crate) fn scope<'a>(
        &'a self,
        alloc: &'a dyn Fn(usize) -> Result<Arc<dyn Storage>>,
        faults: &'a View,
    ) -> Scope<'a> {
        Scope {
            limits: &self.limits,
            variant: self.variant,
            software: self.software,
            turns: self.arithmetic().turns,
            alloc,
            faults,
        }
    }

    /// What went wrong since the last call, once; a lost device stays lost.
    pub(crate) fn check(&self) -> Result<()> {
        let mut slot = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            None => Ok(()),
            Some(Fault::Lost) => Err(Error::DeviceLost(self.name.clone())),
            Some(_) => match slot.take() {
                Some(Fault::Driver(message)) => Err(driver(message)),
                _ => Err(self.out_of_memory(0)),
            },
        }
    }

    fn out_of_memory(&self, requested_bytes: usize) -> Error {
        Error::OutOfMemory { requested_bytes, in_use_bytes: 0, device: self.name.clone() }
    }

    /// A buffer for kernels, uploads and downloads.
    pub(crate) fn alloc(&self, bytes: usize) -> Result<GpuStorage> {
        self.check()?;
        // A download takes one step more.
        let padded = bytes
            .max(1)
            .checked_next_multiple_of(GpuStorage::STEP)
            .filter(|&padded| padded <= self.limits.buffer_bytes.saturating_sub(GpuStorage::STEP));
        let Some(padded) = padded else { return Err(self.out_of_memory(bytes)) };
        let buffer = self.buffer(padded, BUFFER).map_err(|e| match e {
            Error::OutOfMemory { .. } => self.out_of_memory(bytes),
            other => other,
        })?;
        Ok(GpuStorage::new(buffer, bytes, self.id))
    }

    /// A buffer of any usage; running out of memory is this call's error and nobody else's.
    pub(crate) fn buffer(&self, bytes: usize, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
        let description = wgpu::BufferDescriptor {
            label: None,
            size: bytes as u64,
            usage,
            mapped_at_creation: false,
        };
        let (buffer, failed) = caught(&self.device, &[wgpu::ErrorFilter::OutOfMemory], || {
            self.device.create_buffer(&description)
        });
        if failed.is_some() {
            return Err(self.out_of_memory(bytes));
        }
        self.check()?;
        Ok(buffer)
    }

    /// Done when everything submitted until now is done.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) async fn done(&self) -> Result<()> {
        // Somebody must ask the driver.
        self.wait()
    }

    /// Done when everything submitted until now is done: a browser calls back.
    #[cfg(target_arch = "wasm32")]
    pub(crate) fn done(&self) -> impl Future<Output = Result<()>> {
        let mapped = crate::answer::Mapped::default();
        let signal = mapped.clone();
        self.queue.on_submitted_work_done(move || signal.set(true));
        async move {
            mapped.wait().await;
            self.check()
        }
    }

    /// Waits for everything submitted: nothing that a browser's thread may do.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn wait(&self) -> Result<()> {
        self.check()?;
        let polled = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.check()?;
        polled.map(|_| ()).map_err(driver)
    }
}

/// The first fault is kept, but a loss outranks everything.
fn note(slot: &Mutex<Option<Fault>>, fault: Fault) {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if slot.is_none() || matches!(fault, Fault::Lost) {
        *slot = Some(fault);
    }
}
