//! `starling bench`: one operation, fresh random data, checked once before it is timed.

mod attention;
mod check;
mod gemm;
mod map;
mod rows;
mod train;

use crate::args::{BenchArgs, BenchWhat};
use crate::output;
use serde_json::{Map, Value, json};
use starling_engine::{DType, Device, Error, Result, Tensor};
use starling_ops::philox::HostStream;
use starling_train::memory;
use std::process::ExitCode;
use std::time::Instant;

/// The longest measurement in seconds.
const A_DAY: f64 = 86_400.0;

pub fn run(args: &BenchArgs) -> Result<ExitCode> {
    if !(args.secs > 0.0 && args.secs <= A_DAY) {
        let message = format!("--secs is {} and must be above 0 and at most {A_DAY}", args.secs);
        return Err(Error::Invalid(message));
    }
    let dtype: DType = args.dtype.parse().map_err(Error::Invalid)?;
    if dtype != DType::F32 {
        let message = format!("--dtype {dtype} cannot be measured yet: use f32");
        return Err(Error::Invalid(message));
    }
    let bench = Bench { device: Device::new(&args.device)?, secs: args.secs, stream: seeded() };
    let report = match &args.what {
        BenchWhat::Gemm { shape } => gemm::run(bench, shape)?,
        BenchWhat::Attention { shape, causal, backward } => {
            attention::run(bench, shape, *causal, *backward)?
        }
        BenchWhat::Map { op, len } => map::run(bench, op, *len)?,
        BenchWhat::Rows { op, shape } => rows::run(bench, op, shape)?,
        &BenchWhat::Train { layers, dim, heads, seq, batch, vocab } => {
            train::run(bench, [layers, dim, heads, seq, batch, vocab])?
        }
    };
    if args.json {
        output::line(Value::Object(report))?
    } else {
        output::line(as_text(&report))?
    }
    Ok(ExitCode::SUCCESS)
}

/// `key value` pairs in one line.
fn as_text(report: &Map<String, Value>) -> String {
    let pair = |(k, v): (&String, &Value)| match v {
        Value::Number(n) if n.is_f64() => format!("{k} {:.4}", n.as_f64().unwrap_or(f64::NAN)),
        Value::String(s) => format!("{k} {s}"),
        v => format!("{k} {v}"),
    };
    report.iter().filter(|(_, v)| !v.is_null()).map(pair).collect::<Vec<_>>().join("  ")
}

/// A stream that differs from run to run.
fn seeded() -> HostStream {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    HostStream::seeded(since.map_or(0, |d| d.as_nanos() as u64), 0xbe9c)
}

/// What every measurement needs.
struct Bench {
    device: Device,
    secs: f64,
    stream: HostStream,
}

/// Times of single runs.
struct Times {
    sorted_ms: Vec<f64>,
}

/// What one run does.
struct Work {
    flops: f64,
    bytes: f64,
}

impl Bench {
    /// Refuses operands and results of f32 that do not fit into the device's memory, together
    /// with the host's copy of the largest of them.
    fn check_memory(&self, shapes: &[&[usize]]) -> Result<()> {
        let sizes = || shapes.iter().map(|shape| memory::product(shape));
        let copy = sizes().max().unwrap_or(0);
        let elements = sizes().fold(copy, memory::Bytes::saturating_add);
        let bytes = elements.saturating_mul(size_of::<f32>() as memory::Bytes);
        memory::check(&self.device, "a measurement of this size", bytes)
    }

    /// As many tokens as an index of 31 bits can name.
    fn check_tokens(what: &str, tokens: usize) -> Result<()> {
        if i32::try_from(tokens).is_ok() {
            return Ok(());
        }
        Err(Error::Invalid(format!("{what} is {tokens} and must be at most {}", i32::MAX)))
    }

    /// Uniform numbers in -1 .. 1.
    fn random(&mut self, shape: &[usize]) -> Result<Tensor> {
        let n = shape.iter().product();
        let data: Vec<f32> = (0..n).map(|_| 2.0 * self.stream.uniform() - 1.0).collect();
        Tensor::from_slice(&self.device, &data, shape)
    }

    /// Runs `work` a few times to warm up, then for the given time, at least three times.
    fn time(&self, mut work: impl FnMut() -> Result<()>) -> Result<Times> {
        let warm = Instant::now();
        loop {
            work()?;
            self.device.sync()?;
            if warm.elapsed().as_secs_f64() > self.secs * 0.1 {
                break;
            }
        }
        let (start, mut ms) = (Instant::now(), Vec::new());
        while ms.len() < 3 || start.elapsed().as_secs_f64() < self.secs {
            let one = Instant::now();
            work()?;
            self.device.sync()?;
            ms.push(one.elapsed().as_secs_f64() * 1e3);
        }
        ms.sort_by(f64::total_cmp);
        Ok(Times { sorted_ms: ms })
    }

    fn report(
        &self,
        op: &str,
        shape: &str,
        times: &Times,
        work: Option<Work>,
    ) -> Map<String, Value> {
        let median = times.median_ms();
        let per_second = |x: f64| json!(x / (median * 1e-3) * 1e-9);
        let fields = [
            ("op", json!(op)),
            ("dtype", json!("f32")),
            ("shape", json!(shape)),
            ("device", json!(self.device.name())),
            ("isa", json!(self.device.capabilities().variant)),
            ("threads", json!(self.device.capabilities().threads)),
            ("median_ms", json!(median)),
            ("min_ms", json!(times.sorted_ms[0])),
            ("runs", json!(times.sorted_ms.len())),
            ("gflops", work.as_ref().map_or(Value::Null, |w| per_second(w.flops))),
            ("gbps", work.as_ref().map_or(Value::Null, |w| per_second(w.bytes))),
        ];
        fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
    }
}

impl Times {
    fn median_ms(&self) -> f64 {
        let n = self.sorted_ms.len();
        (self.sorted_ms[(n - 1) / 2] + self.sorted_ms[n / 2]) * 0.5
    }
}

/// `3x4x5` as three sizes of at least 1.
fn sizes<const N: usize>(text: &str) -> Result<[usize; N]> {
    let parts: Vec<usize> = text
        .split('x')
        .map(|part| part.parse().ok().filter(|&n| n > 0))
        .collect::<Option<_>>()
        .unwrap_or_default();
    <[usize; N]>::try_from(parts).map_err(|_| {
        let example = vec!["8"; N].join("x");
        Error::Invalid(format!(
            "--shape is {text:?} and needs {N} sizes above 0, such as {example}"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_sizes_joined_by_x() {
        assert_eq!(sizes::<3>("2x3x4").unwrap(), [2, 3, 4]);
        for bad in ["2x3", "2x3x4x5", "2x0x4", "axbxc", ""] {
            assert!(sizes::<3>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(Times { sorted_ms: vec![1.0, 2.0, 4.0, 9.0] }.median_ms(), 3.0);
        assert_eq!(Times { sorted_ms: vec![1.0, 2.0, 9.0] }.median_ms(), 2.0);
    }
}
