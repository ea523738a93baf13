//! `bench rows`

use super::{Bench, Work, check, sizes};
use serde_json::{Map, Value};
use starling_engine::{Device, Error, Result, Tensor};

/// How many rows are checked at either end.
const CHECKED: usize = 4;

/// The parts of an operation on rows: `x` and what belongs to all rows or to each.
struct Operands {
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Vec<i32>,
}

impl Operands {
    fn part(&self, to: &Device, start: usize, count: usize) -> Result<Self> {
        Ok(Self {
            x: check::moved(to, &self.x.narrow(0, start, count)?)?,
            weight: check::moved(to, &self.weight)?,
            bias: check::moved(to, &self.bias)?,
            targets: self.targets[start..start + count].to_vec(),
        })
    }
}

type Op = fn(&Operands, &Tensor) -> Result<Tensor>;

pub fn run(mut bench: Bench, op: &str, shape: &str) -> Result<Map<String, Value>> {
    let [rows, cols] = sizes(shape)?;
    // Bytes read and written per element; the last operand holds the targets on the device.
    let (compute, touched): (Op, f64) = match op {
        "softmax" => (|o, _| o.x.softmax(-1), 8.0),
        "log_softmax" => (|o, _| o.x.log_softmax(-1), 8.0),
        "layer_norm" => (|o, _| o.x.layer_norm(Some(&o.weight), Some(&o.bias), 1e-5), 8.0),
        "rms_norm" => (|o, _| o.x.rms_norm(Some(&o.weight), 1e-5), 8.0),
        "cross_entropy" => (|o, targets| o.x.cross_entropy_rows(targets, None), 4.0),
        _ => {
            return Err(Error::Invalid(format!(
                "unknown operation {op:?}: use softmax, log_softmax, layer_norm, rms_norm or \
                 cross_entropy"
            )));
        }
    };
    Bench::check_tokens("the number of columns", cols)?;
    bench.check_memory(&[&[rows, cols], &[rows, cols]])?;
    let targets = (0..rows).map(|_| bench.stream.below(cols as u32) as i32).collect();
    let (x, weight, bias) =
        (bench.random(&[rows, cols])?, bench.random(&[cols])?, bench.random(&[cols])?);
    let all = Operands { x, weight, bias, targets };
    let upload = |o: &Operands| Tensor::from_slice(o.x.device(), &o.targets, &[o.targets.len()]);
    let targets = upload(&all)?;
    let result = compute(&all, &targets)?;
    let count = rows.min(CHECKED);
    for start in [0, rows - count] {
        let part = all.part(&check::reference()?, start, count)?;
        let truth = compute(&part, &upload(&part)?)?;
        check::same(op, &result.narrow(0, start, count)?, &truth)?;
    }
    let times = bench.time(|| compute(&all, &targets).map(drop))?;
    let elements = (rows * cols) as f64;
    let work = Work { flops: 5.0 * elements, bytes: touched * elements };
    Ok(bench.report(op, shape, &times, Some(work)))
}
