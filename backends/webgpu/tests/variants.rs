//! The table of cases on the first adapter, in every variant, with the shader compiler's checks and
//! without them.
//!
//! `STARLING_WEBGPU=plain starling verify --device webgpu:0 --tier full` runs the full tier.

use starling_conformance::{Array, Problem, Tier, Verdict, bytes_after, cases, run};
use starling_contract::{Backend, DType};
use starling_webgpu::{Options, WebGpuBackend};
use std::sync::Arc;

fn open(options: &str, checked: bool) -> Arc<WebGpuBackend> {
    let options = Options { checked, ..options.parse().unwrap() };
    WebGpuBackend::with(0, options).unwrap_or_else(|e| {
        panic!("{e}\n`cargo xtask test` installs a software driver where there is no GPU")
    })
}

fn passes(variant: &str) {
    let table = cases(Tier::Quick);
    let backend = open(variant, false);
    let mut failures = Vec::new();
    let mut special = 0;
    let summary = run(
        &(backend.clone() as Arc<dyn Backend>),
        &table,
        None,
        &mut |case, verdict| match verdict {
            Verdict::Failed { message, .. } => {
                failures.push(format!("{}: {message}", case.title()));
            }
            Verdict::Passed { .. } if case.special => special += 1,
            _ => {}
        },
    );
    println!(
        "{variant}: {} of {} cases passed, {special} of them with special values, {} skipped: {:?}",
        summary.passed,
        table.len(),
        summary.skipped,
        summary.reasons
    );
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(summary.passed + summary.skipped, table.len(), "every case is accounted for");
    let unkept = "the device does not keep infinities and NaN";
    assert!(summary.reasons.keys().all(|r| r == unkept), "{:?}", summary.reasons);
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

/// The checks may cost time and nothing else.
fn same_when_checked(variant: &str) {
    let backends = [false, true].map(|checked| open(variant, checked));
    for case in cases(Tier::Quick) {
        let problem = case.problem();
        let [unchecked, checked] =
            backends.each_ref().map(|b| bytes_after(b.as_ref(), &problem).unwrap());
        assert!(unchecked.is_some(), "{} did not run", case.title());
        let [unchecked, checked] =
            [unchecked, checked].map(|arrays| arrays.map(|a| canonical(&problem, a)));
        assert!(unchecked == checked, "{} in {variant} differs when checked", case.title());
    }
}

macro_rules! variants {
    ($($name:ident $options:literal;)*) => {$(
        mod $name {
            #[test]
            fn passes_the_table() {
                super::passes($options);
            }

            #[test]
            fn gives_the_same_bits_when_checked() {
                super::same_when_checked($options);
            }
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
