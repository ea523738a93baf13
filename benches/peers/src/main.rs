//! Our matrix product and those of other libraries, timed call by call in one process.
//!
//! Usage: `starling-peers [--threads N] [--secs S] MxNxK[:nn|nt|tn|tt]...`, everything f32 and
//! row-major. The `gemm` crate is always a peer; OpenBLAS and MKL are when `OPENBLAS_LIB` and
//! `MKL_LIB` name their shared libraries. One JSON object a line: first what each library says of
//! itself, then a line per shape and peer, whose `ratio` is the median, over the rounds, of the
//! peer's time over ours: above 1 we are faster. `cpu_ratio` is that of processor time, which other
//! programs cannot lengthen; it says nothing with more than one thread.

mod blas;

use blas::Blas;
use serde_json::json;
use starling_contract::{Backend, DType, Gemm, HostStorage, Layout, Stream, Verb, View};
use starling_cpu::CpuBackend;
use starling_kernels_cpu::Isa;
use starling_ops::philox::HostStream;
use std::time::Instant;

type Error = Box<dyn std::error::Error>;

/// A product `C[m, n] = A B` whose operands may be stored transposed.
pub struct Product {
    m: usize,
    n: usize,
    k: usize,
    a_transposed: bool,
    b_transposed: bool,
    a: View,
    b: View,
    c: View,
}

impl Product {
    /// Fresh random operands for a shape such as `512x256x128:nt`.
    fn new(shape: &str) -> Result<Self, Error> {
        let (sizes, order) = shape.split_once(':').unwrap_or((shape, "nn"));
        let sizes: Vec<usize> = sizes.split('x').map(str::parse).collect::<Result<_, _>>()?;
        let (&[m, n, k], [a_order @ (b'n' | b't'), b_order @ (b'n' | b't')]) =
            (sizes.as_slice(), order.as_bytes())
        else {
            return Err(format!("the shape {shape:?} is not like 512x256x128:nt").into());
        };
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let mut stream = HostStream::seeded(seed.as_nanos() as u64, 0);
        let mut matrix = |rows: usize, columns: usize, transposed: bool| {
            let stored = if transposed { [columns, rows] } else { [rows, columns] };
            let storage = HostStorage::new(rows * columns * 4)?;
            let view = View::contiguous(storage, DType::F32, &stored);
            for i in 0..rows * columns {
                // SAFETY: the storage has just been made with room for as many numbers.
                unsafe { pointer(&view).add(i).write(stream.uniform() - 0.5) };
            }
            let axes = if transposed { [1, 0] } else { [0, 1] };
            Ok::<_, Error>(view.with(view.layout.permute(&axes)))
        };
        let (a_transposed, b_transposed) = (*a_order == b't', *b_order == b't');
        let a = matrix(m, k, a_transposed)?;
        let (b, c) = (matrix(k, n, b_transposed)?, matrix(m, n, false)?);
        Ok(Self { m, n, k, a_transposed, b_transposed, a, b, c })
    }

    /// Looks at elements of C all over the matrix.
    fn check(&self, name: &str) -> Result<(), Error> {
        for probe in 0..31 {
            let (i, j) = (probe * 7919 % self.m, (probe * 104_729 + 13) % self.n);
            let term = |l: usize| {
                let (a, b) = (element(&self.a, i, l), element(&self.b, l, j));
                f64::from(a) * f64::from(b)
            };
            let expected: f64 = (0..self.k).map(term).sum();
            let found = f64::from(element(&self.c, i, j));
            // Operands are below 1/2: partial sums grow like sqrt(k) / 12.
            let off = (found - expected).abs();
            if off.is_nan() || off > 2e-7 * self.k as f64 {
                return Err(format!("{name}: C[{i}, {j}] is {found}, not {expected}").into());
            }
        }
        Ok(())
    }

    /// Forgets the result.
    fn spoil(&self) {
        for i in 0..self.m * self.n {
            // SAFETY: C is row-major with m * n elements.
            unsafe { pointer(&self.c).add(i).write(f32::NAN) };
        }
    }
}

fn pointer(view: &View) -> *mut f32 {
    HostStorage::of(view).map_or(std::ptr::null_mut(), <*mut u8>::cast)
}

fn element(view: &View, row: usize, column: usize) -> f32 {
    let at = view.layout.position(row * view.shape()[1] + column);
    // SAFETY: callers stay inside the view's shape.
    unsafe { pointer(view).add(at).read() }
}

fn strides(layout: &Layout) -> [isize; 2] {
    [layout.strides()[0], layout.strides()[1]]
}

type Call<'a> = Box<dyn Fn() + 'a>;

fn ours<'a>(stream: &'a dyn Stream, p: &Product) -> Call<'a> {
    let (a, b, c) = (p.a.clone(), p.b.clone(), p.c.clone());
    let verb = Verb::from(Gemm { a, b, c, alpha: 1.0, beta: 0.0, epilogue: None, workspace: None })
        .check();
    // A failure shows as a wrong result in `check`.
    Box::new(move || {
        let done = verb
            .as_ref()
            .map_err(ToString::to_string)
            .and_then(|verb| stream.submit(verb).map_err(|e| e.to_string()));
        done.unwrap_or_else(|error| eprintln!("{error}"))
    })
}

fn gemm_crate(p: &Product, threads: usize) -> Call<'_> {
    let parallelism = match threads {
        1 => gemm::Parallelism::None,
        _ => gemm::Parallelism::Rayon(threads),
    };
    let ([a_rs, a_cs], [b_rs, b_cs]) = (strides(&p.a.layout), strides(&p.b.layout));
    let [c_rs, c_cs] = strides(&p.c.layout);
    let (a, b, c) = (pointer(&p.a), pointer(&p.b), pointer(&p.c));
    // SAFETY: pointers and strides are those of matrices with these sizes, and C is apart.
    Box::new(move || unsafe {
        gemm::gemm(
            p.m,
            p.n,
            p.k,
            c,
            c_cs,
            c_rs,
            false,
            a,
            a_cs,
            a_rs,
            b,
            b_cs,
            b_rs,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    })
}

fn median(x: impl Iterator<Item = f64>) -> f64 {
    let mut x: Vec<f64> = x.collect();
    x.sort_by(f64::total_cmp);
    x[x.len() / 2]
}

/// Milliseconds of one call.
struct Sample {
    wall: f64,
    /// Of all threads: what a busy machine cannot lengthen, to be compared with one thread only.
    cpu: f64,
}

/// Milliseconds on processors since the program started.
fn cpu_now() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock exists on every Unix and `time` is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 * 1e3 + time.tv_nsec as f64 * 1e-6
}

/// The mean of `calls` calls after one to warm up.
fn sample(call: &Call<'_>, calls: usize) -> Sample {
    call();
    let (start, cpu) = (Instant::now(), cpu_now());
    (0..calls).for_each(|_| call());
    let (wall, cpu) = (start.elapsed().as_secs_f64() * 1e3, cpu_now() - cpu);
    Sample { wall: wall / calls as f64, cpu: cpu / calls as f64 }
}

/// Samples of each contender in turn, each of about a millisecond.
fn time(contenders: &[(String, Call<'_>)], secs: f64) -> Vec<Vec<Sample>> {
    let fastest = |call| (0..3).map(|_| sample(call, 1).wall).fold(f64::INFINITY, f64::min);
    let calls: Vec<usize> = contenders
        .iter()
        .map(|(_, call)| (1.0 / fastest(call).max(1e-6)).ceil().clamp(1.0, 2000.0) as usize)
        .collect();
    let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
    let start = Instant::now();
    while samples[0].len() < 7 || start.elapsed().as_secs_f64() < secs {
        for (i, (_, call)) in contenders.iter().enumerate() {
            samples[i].push(sample(call, calls[i]));
        }
    }
    samples
}

fn measure(
    shape: &str,
    stream: &dyn Stream,
    isa: &str,
    libraries: &[Blas],
    threads: usize,
    secs: f64,
) -> Result<(), Error> {
    let p = Product::new(shape)?;
    let mut contenders = vec![
        ("starling".to_owned(), ours(stream, &p)),
        ("gemm".to_owned(), gemm_crate(&p, threads)),
    ];
    for library in libraries {
        contenders.push((library.name.into(), library.call(&p)));
    }
    for (name, call) in &contenders {
        p.spoil();
        call();
        p.check(name)?;
    }
    let samples = time(&contenders, secs);
    let work = 2e-6 * (p.m * p.n * p.k) as f64;
    let wall = |of: &[Sample]| median(of.iter().map(|s| s.wall));
    let least = |of: &[Sample]| of.iter().map(|s| s.wall).fold(f64::INFINITY, f64::min);
    let ours = &samples[0];
    for ((peer, _), theirs) in contenders.iter().zip(&samples).skip(1) {
        let pairs = || theirs.iter().zip(ours);
        let line = json!({
            "op": "gemm", "dtype": "f32", "shape": shape, "threads": threads, "isa": isa,
            "peer": peer, "rounds": ours.len(),
            "ratio": rounded(median(pairs().map(|(peer, ours)| peer.wall / ours.wall))),
            "cpu_ratio": rounded(median(pairs().map(|(peer, ours)| peer.cpu / ours.cpu))),
            "median_ms": rounded(wall(ours)), "peer_median_ms": rounded(wall(theirs)),
            "min_ms": rounded(least(ours)), "peer_min_ms": rounded(least(theirs)),
            "best_gflops": rounded(work / least(ours)),
            "peer_best_gflops": rounded(work / least(theirs)),
        });
        println!("{line}");
    }
    Ok(())
}

/// Five digits are more than a clock gives.
fn rounded(x: f64) -> f64 {
    let unit = 10f64.powf(4.0 - x.abs().log10().floor());
    (x * unit).round() / unit
}

fn main() -> Result<(), Error> {
    let (mut threads, mut secs, mut shapes) = (1, 3.0, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--threads" => threads = value()?.parse()?,
            "--secs" => secs = value()?.parse()?,
            _ => shapes.push(argument),
        }
    }
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    let backend = CpuBackend::new(Isa::from_env()?, Some(threads))?;
    let stream = backend.stream()?;
    let mut libraries = Vec::new();
    for (name, variable) in [("openblas", "OPENBLAS_LIB"), ("mkl", "MKL_LIB")] {
        if let Some(path) = std::env::var_os(variable) {
            let library = Blas::open(name, &path, threads)?;
            println!("{}", json!({ "peer": name, "says": library.description }));
            libraries.push(library);
        }
    }
    let isa = &backend.capabilities().variant;
    shapes.iter().try_for_each(|s| measure(s, stream.as_ref(), isa, &libraries, threads, secs))
}
