//! Backends that are wrong on purpose are caught: by the zeros, factors and missing rows that a
//! broken kernel leaves, by writes outside the output, and by a silent loss of precision.

use half::bf16;
use starling_conformance::{Case, Tier, Verdict, cases, run};
use starling_contract::{
    Backend, Capabilities, Checked, DType, DeviceId, Download, HostStorage, Pending, Result,
    Storage, Stream, Support, Verb, View,
};
use starling_reference::memory::{read, write};
use starling_reference::{ReferenceBackend, execute};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is done to the first output of every verb.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Damage {
    Zeros,
    /// Times 1.001.
    Scaled,
    /// The last row keeps what was there.
    LastRowMissing,
    /// One element of the output off by a thousandth of the largest, or by one.
    OneElement,
    /// The element behind the output is written too.
    Overrun,
    /// gemm rounds its operands to bf16.
    Downcast,
}

struct Broken {
    inner: ReferenceBackend,
    damage: Damage,
}

struct BrokenStream {
    inner: Box<dyn Stream>,
    damage: Damage,
}

impl Backend for Broken {
    fn name(&self) -> &str {
        "broken"
    }
    fn device(&self) -> DeviceId {
        self.inner.device()
    }
    fn capabilities(&self) -> &Capabilities {
        self.inner.capabilities()
    }
    fn supports(&self, verb: &Verb) -> Support {
        self.inner.supports(verb)
    }
    fn alloc(&self, bytes: usize) -> Result<Arc<dyn Storage>> {
        self.inner.alloc(bytes)
    }
    fn stream(&self) -> Result<Box<dyn Stream>> {
        Ok(Box::new(BrokenStream { inner: self.inner.stream()?, damage: self.damage }))
    }
}

impl Stream for BrokenStream {
    fn submit(&self, verb: &Checked) -> Result<()> {
        let Some(view) = verb.results().first().copied().cloned() else { return Ok(()) };
        let before = read(&view)?;
        if self.damage == Damage::Downcast {
            return downcast(verb);
        }
        self.inner.submit(verb)?;
        let mut x = read(&view)?;
        let largest = x.iter().filter(|x| x.is_finite()).fold(0.0f64, |m, x| m.max(x.abs()));
        let width = view.shape().last().copied().unwrap_or(1);
        match self.damage {
            Damage::Zeros => x.fill(0.0),
            Damage::Scaled => x.iter_mut().for_each(|x| *x *= 1.001),
            Damage::LastRowMissing => {
                let start = x.len().saturating_sub(width);
                x[start..].copy_from_slice(&before[start..]);
            }
            Damage::OneElement => {
                let middle = x.len() / 2;
                let off = if view.dtype.is_float() { 1e-3 * largest.max(1e-3) } else { 1.0 };
                if let Some(x) = x.get_mut(middle) {
                    *x += off;
                }
            }
            Damage::Overrun => return overrun(&view),
            Damage::Downcast => {}
        }
        write(&view, &x)
    }
    fn upload(&self, bytes: &[u8], to: &View) -> Result<()> {
        self.inner.upload(bytes, to)
    }
    fn download<'a>(&'a self, from: &'a View, bytes: &'a mut [u8]) -> Download<'a> {
        self.inner.download(from, bytes)
    }
    fn sync(&self) -> Pending<'_, ()> {
        self.inner.sync()
    }
}

/// Clears the byte behind the highest element.
fn overrun(view: &View) -> Result<()> {
    let size = view.dtype.size();
    let behind = view.layout.positions().max().map_or(0, |at| (at + 1) * size);
    let start = HostStorage::of(view).expect("host memory");
    assert!(behind < view.storage.bytes());
    // SAFETY: `behind` was just checked to lie inside the storage.
    unsafe { start.add(behind).write(0) };
    Ok(())
}

/// What a silent bf16 or tf32 path does.
fn downcast(verb: &Verb) -> Result<()> {
    let Verb::Gemm(gemm) = verb else { return execute(verb) };
    let mut narrow = gemm.clone();
    for view in [&mut narrow.a, &mut narrow.b] {
        let rounded: Vec<f64> =
            read(view)?.into_iter().map(|x| bf16::from_f64(x).to_f64()).collect();
        let storage = HostStorage::on(view.device(), rounded.len().max(1) * 4)?;
        *view = View::contiguous(storage, DType::F32, view.shape());
        write(view, &rounded)?;
    }
    execute(&narrow.into())
}

/// Cases and failures per operation, and the titles of those that passed.
fn damaged(damage: Damage, table: &[Case]) -> (BTreeMap<String, [usize; 2]>, Vec<String>) {
    let broken = Broken { inner: ReferenceBackend::new(), damage };
    let backend: Arc<dyn Backend> = Arc::new(broken);
    let (mut ops, mut passed) = (BTreeMap::<String, [usize; 2]>::new(), Vec::new());
    run(&backend, table, None, &mut |case, verdict| {
        let counts = ops.entry(case.op.clone()).or_default();
        counts[0] += 1;
        match verdict {
            Verdict::Failed { .. } => counts[1] += 1,
            _ => passed.push(case.title()),
        }
    });
    (ops, passed)
}

/// Operations whose every right result a damage leaves as it is.
fn unaffected(op: &str, damage: Damage) -> bool {
    match damage {
        // Steps have no slope, and truth values stay what they are.
        Damage::Zeros => ["floor'", "round'"].contains(&op),
        Damage::Scaled => ["floor'", "round'", "argmax", "argmin"].contains(&op),
        Damage::Downcast => op != "gemm",
        _ => false,
    }
}

fn catches(damage: Damage) -> Vec<String> {
    let (ops, passed) = damaged(damage, &cases(Tier::Quick));
    for (op, [count, failed]) in ops {
        assert!(unaffected(&op, damage) || failed > 0, "{damage:?}: all {count} of {op} passed");
    }
    passed
}

#[test]
fn zeros_are_caught() {
    // Only where zero is right, or where there is nothing.
    let passed = catches(Damage::Zeros);
    for title in passed {
        let table = cases(Tier::Quick);
        let case = table.iter().find(|c| c.title() == title).expect("the case");
        let problem = case.problem();
        let verb = problem.over(&problem.on_host().expect("host memory"));
        let truth = starling_conformance::tolerance::allowed(&verb, case.exact, false);
        let first = &truth.expect("a verb")[0];
        let silent = first.iter().all(|e| e.value == 0.0);
        assert!(silent, "{title} accepts zeros");
    }
}

#[test]
fn a_factor_of_1_001_is_caught() {
    catches(Damage::Scaled);
}

#[test]
fn a_missing_row_is_caught() {
    catches(Damage::LastRowMissing);
}

#[test]
fn one_wrong_element_is_caught() {
    catches(Damage::OneElement);
}

#[test]
fn writes_outside_the_output_are_caught() {
    catches(Damage::Overrun);
}

#[test]
fn a_silent_downcast_is_caught() {
    let (ops, _) = damaged(Damage::Downcast, &cases(Tier::Quick));
    let [count, failed] = ops["gemm"];
    assert!(2 * failed > count, "{failed} of {count} products failed");
}
