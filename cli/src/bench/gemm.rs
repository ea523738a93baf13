//! `bench gemm`

use super::{Bench, Work, check, sizes};
use serde_json::{Map, Value};
use starling_engine::{Error, Result, Tensor};

/// How many rows and columns of the product are checked.
const CHECKED: usize = 16;

pub fn run(mut bench: Bench, shape: &str) -> Result<Map<String, Value>> {
    let (dims, layout) = shape.split_once(':').unwrap_or((shape, "nn"));
    let [m, n, k] = sizes(dims)?;
    let transposed = match layout {
        "nn" => [false, false],
        "nt" => [false, true],
        "tn" => [true, false],
        "tt" => [true, true],
        _ => {
            let message = format!("--shape is {shape:?}: after the colon nn, nt, tn or tt");
            return Err(Error::Invalid(message));
        }
    };
    bench.check_memory(&[&[m, k], &[k, n], &[m, n]])?;
    let mut operand = |rows: usize, cols: usize, transposed: bool| -> Result<Tensor> {
        if transposed {
            bench.random(&[cols, rows])?.transpose(0, 1)
        } else {
            bench.random(&[rows, cols])
        }
    };
    let (a, b) = (operand(m, k, transposed[0])?, operand(k, n, transposed[1])?);
    let c = a.matmul(&b)?;
    // The corner where the last, partial blocks are, and the first one.
    let (rows, cols) = (m.min(CHECKED), n.min(CHECKED));
    for (row, col) in [(0, 0), (m - rows, n - cols)] {
        let slow = check::reference()?;
        let a = check::moved(&slow, &a.narrow(0, row, rows)?)?;
        let b = check::moved(&slow, &b.narrow(1, col, cols)?)?;
        check::same("gemm", &c.narrow(0, row, rows)?.narrow(1, col, cols)?, &a.matmul(&b)?)?;
    }
    let times = bench.time(|| a.matmul(&b).map(drop))?;
    let (m, n, k) = (m as f64, n as f64, k as f64);
    let work = Work { flops: 2.0 * m * n * k, bytes: 4.0 * (m * k + k * n + m * n) };
    Ok(bench.report("gemm", &format!("{dims}:{layout}"), &times, Some(work)))
}
