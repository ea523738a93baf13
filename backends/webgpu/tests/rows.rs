//! Reductions and row verbs: the table of cases in every variant, planned for processors and for
//! silicon; bits that do not change from run to run; targets outside the classes.

use starling_api::{Backend, CrossEntropy, CrossEntropyBackward, DType, Error, Layout, Verb, View};
use starling_conformance::{Case, Tier, Verdict, cases, run};
use starling_webgpu::{Options, WebGpuBackend};
use std::sync::Arc;

const OPS: [&str; 17] = [
    "sum",
    "mean",
    "max",
    "min",
    "argmax",
    "argmin",
    "var",
    "softmax",
    "softmax_backward",
    "log_softmax",
    "log_softmax_backward",
    "layer_norm",
    "layer_norm_backward",
    "rms_norm",
    "rms_norm_backward",
    "cross_entropy",
    "cross_entropy_backward",
];

fn open(variant: &str, checked: bool, hardware: bool) -> Arc<dyn Backend> {
    let options = Options { variant: Some(variant.parse().unwrap()), checked, hardware };
    WebGpuBackend::with(0, options).unwrap()
}

fn passes(backend: &Arc<dyn Backend>, wanted: impl Fn(&Case) -> bool) {
    let tier = if std::env::var("FULL").is_ok() { Tier::Full } else { Tier::Quick };
    let mut table = cases(tier);
    table.retain(|c| OPS.contains(&c.op.as_str()) && wanted(c));
    let filter = std::env::var("FILTER").ok();
    let mut failures = Vec::new();
    let summary = run(backend, &table, filter.as_deref(), &mut |case, verdict| {
        if let Verdict::Failed { message, .. } = verdict {
            failures.push(format!("{}: {message}", case.title()));
        }
    });
    eprintln!("{} passed, skipped {:?}", summary.passed, summary.reasons);
    assert!(failures.is_empty(), "{} failed:\n{}", failures.len(), failures.join("\n"));
    assert!(summary.passed > 0, "nothing ran");
}

#[test]
fn planned_for_silicon() {
    passes(&open("plain", false, true), |_| true);
}

#[test]
fn planned_for_silicon_with_subgroups() {
    passes(&open("subgroup+f16", false, true), |_| true);
}
