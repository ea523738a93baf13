//! Runs the table on a backend and compares it with the reference.

use crate::data::{Array, Case, Problem, whole};
use crate::tolerance::allowed;
use starling_contract::{Backend, Checked, DType, Error, Stream, Support, Verb, View};
use starling_ops::bound::Enclosure;
use starling_reference::memory::decode;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How a case went.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Every element is allowed; `worst` is the largest error over the error allowed.
    Passed {
        /// 0 is exact, 1 the limit.
        worst: f64,
    },
    /// Something is not allowed.
    Failed {
        /// The largest error over the error allowed; infinite where none is allowed.
        worst: f64,
        /// What is wrong and where.
        message: String,
    },
    /// The backend does not run it, for this reason.
    Skipped {
        /// In words.
        reason: String,
    },
}

/// The results of one operation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpLine {
    /// The operation.
    pub op: String,
    /// Cases that passed or failed.
    pub cases: usize,
    /// Those that failed.
    pub failed: usize,
    /// Cases that the backend does not run.
    pub skipped: usize,
    /// The largest error over the error allowed.
    pub worst: f64,
}

/// The results of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Cases within their allowances.
    pub passed: usize,
    /// Cases that are not.
    pub failed: usize,
    /// Cases that the backend does not run.
    pub skipped: usize,
    /// A line per operation, by name.
    pub ops: Vec<OpLine>,
    /// Why cases were skipped, and how many for each reason.
    pub reasons: BTreeMap<String, usize>,
}

/// Runs those of `cases` whose title (operation and name) contains `filter`, and calls `on_result`
/// after each.
pub fn run(
    backend: &Arc<dyn Backend>,
    cases: &[Case],
    filter: Option<&str>,
    on_result: &mut dyn FnMut(&Case, &Verdict),
) -> Summary {
    let mut summary = Summary::default();
    let mut ops: BTreeMap<&str, OpLine> = BTreeMap::new();
    for case in cases.iter().filter(|c| filter.is_none_or(|f| c.title().contains(f))) {
        let verdict = run_case(backend.as_ref(), case);
        let line = ops.entry(&case.op).or_default();
        match &verdict {
            Verdict::Passed { worst } => {
                summary.passed += 1;
                line.cases += 1;
                line.worst = line.worst.max(*worst);
            }
            Verdict::Failed { worst, .. } => {
                summary.failed += 1;
                line.cases += 1;
                line.failed += 1;
                line.worst = line.worst.max(*worst);
            }
            Verdict::Skipped { reason } => {
                summary.skipped += 1;
                line.skipped += 1;
                *summary.reasons.entry(reason.clone()).or_default() += 1;
            }
        }
        on_result(case, &verdict);
    }
    let named = ops.into_iter().map(|(op, line)| OpLine { op: op.into(), ..line });
    summary.ops = named.collect();
    summary
}

fn run_case(backend: &dyn Backend, case: &Case) -> Verdict {
    match check_case(backend, case) {
        Ok(verdict) => verdict,
        Err(error) => Verdict::Failed { worst: f64::INFINITY, message: error.to_string() },
    }
}

fn check_case(backend: &dyn Backend, case: &Case) -> Result<Verdict, Error> {
    let capabilities = backend.capabilities();
    if case.special && !capabilities.special_values {
        let reason = "the device does not keep infinities and NaN".into();
        return Ok(Verdict::Skipped { reason });
    }
    let problem = case.problem();
    let host = problem.over(&problem.on_host()?);
    let expected = allowed(&host, case.exact, !capabilities.subnormals)?;
    if let Some(message) = defect(case, &expected) {
        return Ok(Verdict::Failed { worst: f64::INFINITY, message });
    }
    let stream = backend.stream()?;
    let upload = |array: &Array| array.upload(backend, stream.as_ref());
    let views = problem.arrays.iter().map(upload).collect::<Result<Vec<View>, Error>>()?;
    let verb = problem.over(&views);
    match backend.supports(&verb) {
        Support::Native => {}
        answer => return Ok(Verdict::Skipped { reason: skip_reason(backend, &verb, answer) }),
    }
    let verb = with_workspace(backend, verb.check()?)?;
    stream.submit(&verb)?;
    pollster::block_on(stream.sync())?;
    compare(&problem, &views, &verb, &expected, stream.as_ref())
}

/// The bytes of every array of a case after its verb has run, guards included: for comparing two
/// ways of running it bit by bit. `None` where the backend does not run it itself.
///
/// # Errors
/// What the backend reports.
pub fn bytes_after(
    backend: &dyn Backend,
    problem: &Problem,
) -> Result<Option<Vec<Vec<u8>>>, Error> {
    let stream = backend.stream()?;
    let upload = |array: &Array| array.upload(backend, stream.as_ref());
    let views = problem.arrays.iter().map(upload).collect::<Result<Vec<View>, Error>>()?;
    let verb = problem.over(&views);
    if backend.supports(&verb) != Support::Native {
        return Ok(None);
    }
    stream.submit(&with_workspace(backend, verb.check()?)?)?;
    arrays(problem, &views, stream.as_ref()).map(Some)
}

/// The bytes of every array.
fn arrays(problem: &Problem, views: &[View], stream: &dyn Stream) -> Result<Vec<Vec<u8>>, Error> {
    let download = |(array, view): (&Array, &View)| {
        let mut bytes = vec![0; array.bytes.len()];
        let source = whole(view, bytes.len());
        pollster::block_on(stream.download(&source, &mut bytes))?;
        Ok(bytes)
    };
    problem.arrays.iter().zip(views).map(download).collect()
}

fn skip_reason(backend: &dyn Backend, verb: &Verb, answer: Support) -> String {
    let how = match answer {
        Support::Composed => "leaves it to the engine to compose",
        _ => "has no",
    };
    format!("{} {how} {} on {}", backend.name(), verb.name(), verb.dtype())
}

/// Allocates the working memory that the backend wants.
fn with_workspace(backend: &dyn Backend, verb: Checked) -> Result<Checked, Error> {
    let bytes = backend.workspace_bytes(&verb);
    if bytes == 0 {
        return Ok(verb);
    }
    let elements = bytes.div_ceil(4);
    let storage = backend.alloc(elements * 4)?;
    verb.with_workspace(View::contiguous(storage, DType::F32, &[elements]))
}

/// What is wrong with the allowances themselves: they must not accept an output of zeros where
/// the truth is something else, nor anything at all.
fn defect(case: &Case, expected: &[Vec<Enclosure>]) -> Option<String> {
    for (output, elements) in expected.iter().enumerate() {
        let mut matters = elements.iter().filter(|e| e.value != 0.0).peekable();
        if matters.peek().is_some() && matters.all(|e| e.contains(0.0)) {
            return Some(format!("the allowance for output {output} accepts zeros"));
        }
        let open = elements.iter().filter(|e| e.error().is_infinite() || !e.value.is_finite());
        let open = open.count();
        if !case.special && open > 0 {
            return Some(format!(
                "output {output}: {open} elements are special or may be anything"
            ));
        }
    }
    None
}

/// The largest error over the error allowed, and where it is.
#[derive(Clone, Copy)]
struct Worst {
    ratio: f64,
    output: usize,
    element: usize,
    got: f64,
    expected: Enclosure,
}

fn compare(
    problem: &Problem,
    views: &[View],
    verb: &Verb,
    expected: &[Vec<Enclosure>],
    stream: &dyn Stream,
) -> Result<Verdict, Error> {
    let found = arrays(problem, views, stream)?;
    let mut worst: Option<Worst> = None;
    for (output, view) in verb.results().into_iter().enumerate() {
        let Some(at) = views.iter().position(|v| v.same_storage(view)) else { continue };
        for (element, (got, &expected)) in
            elements(view, &found[at]).zip(&expected[output]).enumerate()
        {
            let ratio = error_ratio(got, &expected);
            if worst.is_none_or(|w| ratio > w.ratio) {
                worst = Some(Worst { ratio, output, element, got, expected });
            }
        }
    }
    if let Some(message) = touched(problem, views, verb, &found) {
        return Ok(Verdict::Failed { worst: f64::INFINITY, message });
    }
    Ok(match worst {
        Some(w) if w.ratio > 1.0 => {
            let Enclosure { value, lo, hi, .. } = w.expected;
            let message = format!(
                "output {} element {}: {:e} where {value:e} in {lo:e} ..= {hi:e} is right",
                w.output, w.element, w.got
            );
            Verdict::Failed { worst: w.ratio, message }
        }
        Some(w) => Verdict::Passed { worst: w.ratio },
        None => Verdict::Passed { worst: 0.0 },
    })
}

/// The elements of a view in the downloaded bytes of its storage.
fn elements<'a>(view: &View, bytes: &'a [u8]) -> impl Iterator<Item = f64> + use<'a> {
    let (dtype, size) = (view.dtype, view.dtype.size());
    view.layout.positions().map(move |at| {
        let mut element = [0; 4];
        element[..size].copy_from_slice(&bytes[at * size..][..size]);
        decode(dtype, element).value()
    })
}

/// The error over the error allowed on its side; infinite for what is not allowed where nothing
/// but one value is.
fn error_ratio(got: f64, e: &Enclosure) -> f64 {
    if e.contains(got) {
        let side = if got > e.value { e.hi - e.value } else { e.value - e.lo };
        let error = (got - e.value).abs();
        let ratio = error / side;
        return if error == 0.0 || !ratio.is_finite() { 0.0 } else { ratio.min(1.0) };
    }
    let side = if got > e.value { e.hi - e.value } else { e.value - e.lo };
    let ratio = (got - e.value).abs() / side;
    if ratio.is_finite() { ratio.max(1.000001) } else { f64::INFINITY }
}

/// Looks for bytes that changed although no output element lies there.
fn touched(problem: &Problem, views: &[View], verb: &Verb, found: &[Vec<u8>]) -> Option<String> {
    for (i, (array, found)) in problem.arrays.iter().zip(found).enumerate() {
        let mut may_change = vec![false; found.len()];
        for view in verb.results().into_iter().filter(|v| v.same_storage(&views[i])) {
            let size = view.dtype.size();
            for at in view.layout.positions() {
                may_change[at * size..][..size].fill(true);
            }
        }
        let changed = (0..found.len()).find(|&b| !may_change[b] && found[b] != array.bytes[b]);
        if let Some(byte) = changed {
            return Some(format!("array {i}: byte {byte} outside the outputs was written"));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_tell_inside_from_outside() {
        let e = Enclosure { value: 1.0, lo: 0.5, hi: 2.0, nan: false };
        assert_eq!(error_ratio(1.5, &e), 0.5);
        assert_eq!(error_ratio(0.75, &e), 0.5);
        assert!(error_ratio(2.1, &e) > 1.0 && error_ratio(5.0, &e) == 4.0);
        assert_eq!(error_ratio(f64::NAN, &e), f64::INFINITY);
        assert_eq!(error_ratio(1.0 + 1e-9, &Enclosure::exact(1.0)), f64::INFINITY);
        assert_eq!(error_ratio(f64::NAN, &Enclosure::exact(f64::NAN)), 0.0);
        assert_eq!(error_ratio(f64::INFINITY, &Enclosure::exact(f64::INFINITY)), 0.0);
        assert_eq!(error_ratio(0.0, &Enclosure::exact(f64::INFINITY)), f64::INFINITY);
    }
}
