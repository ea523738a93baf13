//! `bench map`

use super::{Bench, Work, check};
use serde_json::{Map, Value};
use starling_engine::{Definition, Error, Result, Tensor};

/// How many elements are checked at either end.
const CHECKED: usize = 4096;

pub fn run(mut bench: Bench, op: &str, len: usize) -> Result<Map<String, Value>> {
    let Some(def) = Definition::find(op).filter(|d| d.outputs == 1) else {
        return Err(Error::Invalid(format!(
            "unknown operation {op:?}: name one such as gelu or add"
        )));
    };
    if len == 0 {
        return Err(Error::Invalid("--len is 0 and must be at least 1".into()));
    }
    bench.check_memory(&vec![&[len][..]; def.tensors.len() + 1])?;
    // Away from 0 and positive: inside every definition's domain.
    let inputs: Vec<Tensor> = def
        .tensors
        .iter()
        .map(|_| bench.random(&[len])?.abs()?.mul_scalar(0.9)?.add_scalar(0.05)?.contiguous())
        .collect::<Result<_>>()?;
    let inputs: Vec<&Tensor> = inputs.iter().collect();
    let scalars = def.default_scalars();
    // Asking for the memory layout computes a lazy result.
    let compute = |inputs: &[&Tensor]| Tensor::apply(def, inputs, &scalars)?.contiguous();
    let result = compute(&inputs)?;
    let count = len.min(CHECKED);
    for start in [0, len - count] {
        let slow = check::reference()?;
        let part: Vec<Tensor> = inputs
            .iter()
            .map(|x| check::moved(&slow, &x.narrow(0, start, count)?))
            .collect::<Result<_>>()?;
        let truth = Tensor::apply(def, &part.iter().collect::<Vec<_>>(), &scalars)?;
        let f32s = |x: Tensor| x.to_dtype(starling_engine::DType::F32);
        check::same(op, &f32s(result.narrow(0, start, count)?)?, &f32s(truth)?)?;
    }
    let times = bench.time(|| compute(&inputs).map(drop))?;
    let n = len as f64;
    let out = result.dtype().size() as f64;
    let bytes = n * (4.0 * inputs.len() as f64 + out);
    Ok(bench.report(op, &len.to_string(), &times, Some(Work { flops: n, bytes })))
}
