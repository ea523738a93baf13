//! The table of cases on the first adapter, in every variant, with the shader compiler's checks and
//! without them.
//!
//! Compiling shaders takes nearly all of the time. So each device compiles what it runs once, for
//! the verdict and for the comparison with checks; and a case is left out in a variant in which its
//! launches (texts with their constants, parameters, grids) are those of a variant that has run it:
//! on one adapter they have the same results. What is run is thus every launch that any variant
//! plans, in both ways.
//!
//! `STARLING_WEBGPU=plain starling verify --device webgpu:0 --tier full` runs the full tier.

use starling_conformance::{Array, Case, Problem, Tier, Verdict, bytes_after, cases, run};
use starling_contract::{
    Backend, Capabilities, DType, DeviceId, HostStorage, Result, Storage, Stream, Support, Verb,
    View,
};
use starling_webgpu::{Options, WebGpuBackend};
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::slice;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

fn open(options: &str, checked: bool) -> Arc<WebGpuBackend> {
    let options = Options { checked, ..options.parse().unwrap() };
    WebGpuBackend::with(0, options).unwrap_or_else(|e| {
        panic!("{e}\n`cargo xtask test` installs a software driver where there is no GPU")
    })
}

/// A backend that says that it keeps special values: attention must treat hidden keys right
/// whether or not the device promises that for arithmetic.
struct Special(Arc<dyn Backend>, Capabilities);

impl Backend for Special {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn device(&self) -> DeviceId {
        self.0.device()
    }
    fn capabilities(&self) -> &Capabilities {
        &self.1
    }
    fn supports(&self, verb: &Verb) -> Support {
        self.0.supports(verb)
    }
    fn workspace_bytes(&self, verb: &Verb) -> usize {
        self.0.workspace_bytes(verb)
    }
    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Storage>> {
        self.0.alloc(bytes)
    }
    fn stream(&self) -> Result<Box<dyn Stream>> {
        self.0.stream()
    }
}

/// The bytes with every NaN made the same: which of them an operation gives is nobody's promise.
fn canonical(problem: &Problem, arrays: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let one = |(array, mut bytes): (&Array, Vec<u8>)| {
        // Sign and quiet bit aside, a NaN is above the bits of infinity.
        let (size, infinity): (usize, u32) = match array.dtype {
            DType::F32 => (4, 0x7f80_0000),
            DType::F16 => (2, 0x7c00),
            DType::BF16 => (2, 0x7f80),
            _ => return bytes,
        };
        for element in bytes.chunks_exact_mut(size) {
            let bits = element.iter().rev().fold(0u32, |bits, &b| bits << 8 | u32::from(b));
            if bits & (u32::MAX >> (33 - 8 * size)) > infinity {
                element.fill(0xff);
            }
        }
        bytes
    };
    problem.arrays.iter().zip(arrays).map(one).collect()
}

/// Cases with what is launched for them, as hashes.
static LAUNCHED: LazyLock<Mutex<HashSet<u64>>> = LazyLock::new(Mutex::default);

/// True when the case's launches on `backend` are met for the first time.
fn is_new(backend: &WebGpuBackend, case: &Case, problem: &Problem) -> bool {
    let mut verb = problem.over(&problem.on_host().unwrap());
    assert_eq!(backend.supports(&verb), Support::Native, "{}", case.title());
    let bytes = backend.workspace_bytes(&verb);
    if let (true, Some(slot)) = (bytes > 0, verb.workspace_mut()) {
        *slot = Some(View::contiguous(HostStorage::new(bytes).unwrap(), DType::U8, &[bytes]));
    }
    let mut hasher = DefaultHasher::new();
    // The operands' values follow from the title.
    case.title().hash(&mut hasher);
    backend.planned(&verb).unwrap().hash(&mut hasher);
    LAUNCHED.lock().unwrap_or_else(PoisonError::into_inner).insert(hasher.finish())
}

/// The checks may cost time and nothing else.
fn same_when_checked(backends: [&WebGpuBackend; 2], case: &Case, problem: &Problem) -> bool {
    let [unchecked, checked] = backends
        .map(|b| bytes_after(b, problem).unwrap().expect("it is native"))
        .map(|arrays| canonical(problem, arrays));
    assert_eq!(unchecked.len(), checked.len(), "{}", case.title());
    unchecked == checked
}

fn holds(variant: &str) {
    let table = cases(Tier::Quick);
    let (backend, checked) = (open(variant, false), open(variant, true));
    let says = Capabilities { special_values: true, ..backend.capabilities().clone() };
    let special: Arc<dyn Backend> = Arc::new(Special(backend.clone(), says));
    let plain: Arc<dyn Backend> = backend.clone();
    let (mut passed, mut alike, mut unkept) = (0, 0, 0);
    let mut failures = Vec::new();
    for case in &table {
        let problem = case.problem();
        if !is_new(&backend, case, &problem) {
            alike += 1;
            continue;
        }
        // Attention keeps what is hidden away whatever the device promises for arithmetic.
        let judged = if case.op.starts_with("attention") { &special } else { &plain };
        run(judged, slice::from_ref(case), None, &mut |case, verdict| match verdict {
            Verdict::Passed { .. } => passed += 1,
            Verdict::Failed { message, .. } => {
                failures.push(format!("{}: {message}", case.title()));
            }
            Verdict::Skipped { reason } => {
                assert_eq!(reason, "the device does not keep infinities and NaN");
                unkept += 1;
            }
        });
        if !same_when_checked([&backend, &checked], case, &problem) {
            failures.push(format!("{} differs when checked", case.title()));
        }
    }
    println!("{variant}: {passed} cases passed, {unkept} need infinities, {alike} as elsewhere");
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(passed + unkept + alike, table.len(), "every case is accounted for");
}

macro_rules! variants {
    ($($name:ident $options:literal;)*) => {$(
        #[test]
        fn $name() {
            holds($options);
        }
    )*};
}

// A driver on the processor gets tiles of its own unless it is told to plan for hardware.
variants! {
    plain "plain";
    subgroup "subgroup";
    plain_for_hardware "plain+hardware";
    subgroup_for_hardware "subgroup+hardware";
    f16_for_hardware "f16+hardware";
}
