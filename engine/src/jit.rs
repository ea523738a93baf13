//! Functions of tensors that are captured once for each shape of their inputs.

use crate::capture::Captured;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::tensor::{Tensor, is_recording_operations};
use starling_contract::DType;
use std::sync::{Mutex, PoisonError};

/// Captured steps that are kept; the one that was called longest ago goes.
const MAX_STEPS: usize = 16;

/// What decides whether a captured step may be replayed for these inputs.
#[derive(PartialEq, Eq)]
struct Key {
    inputs: Vec<(DType, Vec<usize>)>,
    /// Whether operations are recorded for backward.
    grad: bool,
}

struct Step {
    key: Key,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
    captured: Captured,
}

/// A function of tensors that runs as a captured step: called with inputs of new shapes or types it
/// is captured anew, with known ones the list is replayed. The results are bit for bit those of
/// calling the function.
///
/// The function must depend on its inputs, on tensors that it holds, and on the device's random
/// numbers alone; what else it does (counting, printing) happens once a shape. It may write tensors
/// that it holds in place, as a training step does, but not replace them by others. Its inputs must
/// lie on the device, and those that require a gradient are refused, because the graph ends at a
/// replay: compute gradients inside.
///
/// ```
/// use starling_engine::{Device, Jit, Tensor};
/// # fn main() -> starling_engine::Result<()> {
/// let device = Device::new("cpu")?;
/// let twice = Jit::new(&device, |x: &[Tensor]| Ok(vec![x[0].add(&x[0])?]));
/// let x = Tensor::from_slice(&device, &[1f32, 2.0], &[2])?;
/// for _ in 0..3 {
///     assert_eq!(twice.call(&[&x])?[0].to_vec::<f32>()?, [2.0, 4.0]);
/// }
/// assert_eq!(twice.captured(), 1);
/// # Ok(())
/// # }
/// ```
pub struct Jit<F> {
    device: Device,
    function: F,
    /// The one that was called last stands last.
    steps: Mutex<Vec<Step>>,
}

impl<F: Fn(&[Tensor]) -> Result<Vec<Tensor>>> Jit<F> {
    /// Nothing is captured yet.
    pub fn new(device: &Device, function: F) -> Self {
        Self { device: device.clone(), function, steps: Mutex::default() }
    }

    /// Captured steps that are kept.
    pub fn captured(&self) -> usize {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The function's results. They are the caller's: later calls do not overwrite them. Within a
    /// capture on the same queue the function's verbs become part of that one. Threads that call
    /// the same one take turns.
    ///
    /// # Errors
    /// Those of the function; [`Error::Invalid`] for inputs that require a gradient.
    pub fn call(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        let grad = is_recording_operations();
        if grad && inputs.iter().any(|t| t.tape().is_some()) {
            return Err(Error::invalid(
                "a captured function ends the graph, so its inputs cannot have gradients: \
                 detach() them, or call backward() inside the function",
            ));
        }
        if self.device.queue().is_recording() {
            return (self.function)(&inputs.iter().map(|t| t.detach()).collect::<Vec<_>>());
        }
        let described = inputs.iter().map(|t| (t.dtype(), t.shape().to_vec())).collect();
        let key = Key { inputs: described, grad };
        // A panic inside the function leaves the list as it was.
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        match steps.iter().position(|s| s.key == key) {
            Some(at) => {
                let step = steps.remove(at);
                let result = step.replay(inputs);
                steps.push(step);
                result
            }
            None => {
                let step = self.capture(key, inputs)?;
                let result = step.results();
                if steps.len() == MAX_STEPS {
                    steps.remove(0);
                }
                steps.push(step);
                result
            }
        }
    }

    fn capture(&self, key: Key, inputs: &[&Tensor]) -> Result<Step> {
        let own = |input: &&Tensor| {
            let (own, _) = Tensor::output(&self.device, input.dtype(), input.shape())?;
            own.overwrite(input)?;
            Ok(own)
        };
        let inputs: Vec<Tensor> = inputs.iter().map(own).collect::<Result<_>>()?;
        let (captured, outputs) = self.device.capture(|| {
            let outputs = (self.function)(&inputs)?;
            Ok(outputs.iter().map(Tensor::detach).collect::<Vec<_>>())
        })?;
        Ok(Step { key, inputs, outputs, captured })
    }
}

impl Step {
    fn replay(&self, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
        for (own, input) in self.inputs.iter().zip(inputs) {
            own.overwrite(input)?;
        }
        self.captured.replay()?;
        self.results()
    }

    /// Copies that wait: a result that is used before the next call is read where it lies, and the
    /// next replay first computes those that somebody still has.
    fn results(&self) -> Result<Vec<Tensor>> {
        self.outputs.iter().map(Tensor::copied_when_overwritten).collect()
    }
}
