//! Values that are computed again in backward instead of being kept.

use super::Tensor;
use super::autograd::{Backward, Operation, Saved, propagate, record_tapes};
use super::tape::{
    Draw, Draws, Found, Recording, Tape, find, note_draws, note_found, recording, with_draws,
    with_recording,
};
use crate::error::{Error, Result};
use starling_contract::{MaybeSend, MaybeSync};
use std::collections::HashMap;
use std::sync::Arc;

const NAME: &str = "checkpoint";

/// An operation that was not saved but will be run again in backward.
struct Recompute<F> {
    f: F,
    inputs: Vec<Saved>,
    /// What `f` took of the graph around it, which follows `inputs` among the recorded ones.
    captured: Vec<(u64, Saved)>,
    /// What dropout drew, so that it draws the same again.
    draws: Vec<Draw>,
}

impl<F: Fn(&[Tensor]) -> Result<Tensor> + MaybeSend + MaybeSync + 'static> Operation
    for Recompute<F>
{
    fn name(&self) -> &'static str {
        NAME
    }

    fn backward(&self, upstream: &Tensor, wanted: &[bool]) -> Result<Backward> {
        for (_, value) in &self.captured {
            value.get(NAME)?;
        }
        let mut places: Vec<Option<u64>> = Vec::new();
        let mut inputs = Vec::new();
        for (saved, &wanted) in self.inputs.iter().zip(wanted) {
            let mut input = saved.get(NAME)?;
            if wanted {
                input = input.requires_grad();
            }
            places.push(input.tape().map(|t| t.id));
            inputs.push(input);
        }
        places.extend(self.captured.iter().map(|(id, _)| Some(*id)));
        let draws = Draws { again: Some(self.draws.iter().cloned().collect()), noted: None };
        let (output, left) =
            with_draws(draws, || with_recording(Recording::On, || (self.f)(&inputs)));
        let output = output?;
        if left.again.is_some_and(|left| !left.is_empty()) {
            return Err(Error::Backward(
                "a checkpointed function drew fewer random numbers when it ran again: it must do \
                 the same both times"
                    .into(),
            ));
        }
        let mut ends: HashMap<u64, Option<Tensor>> =
            places.iter().flatten().map(|&id| (id, None)).collect();
        if let Some(tape) = output.tape() {
            propagate(tape, upstream.clone(), &mut ends)?;
        }
        let gradients = places.iter().map(|id| ends.get(id.as_ref()?)?.clone()).collect();
        Ok(Backward::Reached(gradients))
    }
}

/// Runs `f(inputs)` and keeps only the inputs: backward runs `f` again, which trades time for the
/// memory of everything inside (Chen et al. 2016, "Training deep nets with sublinear memory cost").
/// What `f` captures, parameters above all, receives its gradient as if `f` had been called
/// directly. `f` must do the same both times; dropout draws the same numbers.
///
/// # Errors
/// Those of `f`.
pub fn checkpoint<F>(f: F, inputs: &[Tensor]) -> Result<Tensor>
where
    F: Fn(&[Tensor]) -> Result<Tensor> + MaybeSend + MaybeSync + 'static,
{
    let detached: Vec<Tensor> = inputs.iter().map(Tensor::detach).collect();
    let outer = recording();
    if outer == Recording::Off {
        return f(&detached);
    }
    let ((output, mut captured), draws) = note_draws(|| find(|| f(&detached)));
    let mut output = output?;
    if !output.dtype().is_float() {
        return Ok(output.detach());
    }
    // The function may hand on a tensor of the graph as it is.
    if let Some(tape) = output.tape()
        && captured.iter().all(|c| c.tape.id != tape.id)
    {
        captured.push(Found { tape: tape.clone(), value: Saved::new(&output) });
    }
    output = output.detach();
    let explicit = inputs.iter().map(|t| t.tape().cloned());
    if outer == Recording::Finding {
        let found = inputs.iter().filter_map(|t| Some(Found::new(t.tape()?, t))).chain(captured);
        note_found(found);
        return Ok(output);
    }
    let tapes: Vec<Option<Arc<Tape>>> =
        explicit.chain(captured.iter().map(|c| Some(c.tape.clone()))).collect();
    let operation = || Recompute {
        f,
        inputs: inputs.iter().map(Saved::new).collect(),
        captured: captured.into_iter().map(|c| (c.tape.id, c.value)).collect(),
        draws,
    };
    Ok(record_tapes(output.node().clone(), tapes, operation))
}
