//! The bounds hold for every definition and derivative, and say something.

use super::*;
use crate::defs::{ALL, Definition, Domain};
use crate::philox::HostStream;
use crate::program::{Env, Program};

const SPECIAL: [f64; 13] = [
    0.0,
    -0.0,
    1e-30,
    -1e-30,
    1.0,
    -1.0,
    100.0,
    -100.0,
    1e4,
    -1e4,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
];

fn programs(d: &Definition) -> Vec<Program> {
    let scalars = d.default_scalars();
    let derived = d.gradient.is_derived();
    let by = 0..if derived { d.tensors.len() } else { 0 };
    let derivatives = by.map(|i| d.derivative_program(&scalars, i));
    std::iter::once(d.program(&scalars)).chain(derivatives).collect()
}

fn enclose(p: &Program, x: &[f64], flush: bool) -> Vec<Enclosure> {
    let bound = Bound { flush };
    let inputs: Vec<Enclosure> = x.iter().map(|&x| bound.input(x)).collect();
    let index = Whole { value: 0, certain: true };
    let env = Env { inputs: &inputs, params: &[], words: &[], immediates: &[], index };
    let mut out = Vec::new();
    p.eval(bound, &env, &mut Vec::new(), |_, v| out.push(v));
    out
}

fn in_f32(p: &Program, x: &[f64]) -> Vec<f64> {
    let inputs: Vec<f32> = x.iter().map(|&x| x as f32).collect();
    let env = Env { inputs: &inputs, params: &[], words: &[], immediates: &[], index: 0 };
    let mut out = Vec::new();
    p.eval(Scalar::<f32>::NEW, &env, &mut Vec::new(), |_, v| out.push(f64::from(v)));
    out
}

/// True when every f32 result is enclosed.
fn check(d: &Definition, p: &Program, x: &[f64]) -> Vec<Enclosure> {
    let enclosures = enclose(p, x, false);
    let flushed = enclose(p, x, true);
    let truth = p.eval_f64(x, &[], 0);
    for (i, y) in in_f32(p, x).into_iter().enumerate() {
        let e = enclosures[i];
        assert!(e.contains(y), "{} of {x:?}: {y:e} is not in {e:?}\n{p:?}", d.name);
        assert!(flushed[i].contains(y), "{} of {x:?}: {y:e} and {:?}", d.name, flushed[i]);
        let same = e.value == truth[i] || (e.value.is_nan() && truth[i].is_nan());
        assert!(same, "{} of {x:?}: {} is not {}", d.name, e.value, truth[i]);
    }
    enclosures
}

fn ordinary(random: &mut HostStream, domain: Domain) -> f64 {
    let u = f64::from(random.uniform());
    let x = match domain {
        Domain::Real => 8.0 * u - 4.0,
        Domain::Positive => 0.01 + 4.0 * u,
        Domain::AboveMinusOne => 4.0 * u - 0.99,
        Domain::NonZero => (0.1 + 4.0 * u) * if random.below(2) == 0 { 1.0 } else { -1.0 },
        Domain::Truth => f64::from(random.below(2)),
        Domain::Unit => u,
    };
    f64::from(x as f32)
}

#[test]
fn encloses_every_f32_result_and_is_not_vacuous() {
    let mut random = HostStream::seeded(1, 0);
    for d in ALL {
        for p in programs(d) {
            let mut errors = Vec::new();
            for _ in 0..2000 {
                let x: Vec<f64> = d.tensors.iter().map(|t| ordinary(&mut random, t.1)).collect();
                let enclosures = check(d, &p, &x);
                errors.extend(enclosures.iter().map(|e| e.error() / ulp(e.value)));
                // Far and near arguments, whatever the domain.
                let far: Vec<f64> = x.iter().map(|x| f64::from(x.powi(7) as f32)).collect();
                check(d, &p, &far);
                let near: Vec<f64> = x.iter().map(|x| f64::from((x * 1e-5) as f32)).collect();
                check(d, &p, &near);
            }
            errors.sort_by(f64::total_cmp);
            let median = errors[errors.len() / 2];
            assert!(median < 100.0, "{}: a median of {median} ulps\n{p:?}", d.name);
        }
    }
}

#[test]
fn encloses_the_results_of_special_values() {
    for d in ALL {
        let n = d.tensors.len().min(3);
        for p in programs(d) {
            for case in 0..SPECIAL.len().pow(n as u32) {
                let mut x = vec![1.0; d.tensors.len()];
                for (i, x) in x.iter_mut().enumerate().take(n) {
                    let one = SPECIAL[case / SPECIAL.len().pow(i as u32) % SPECIAL.len()];
                    *x = f64::from(one as f32);
                }
                check(d, &p, &x);
            }
        }
    }
}

#[test]
fn open_comparisons_unite_and_overflow_reaches_infinity() {
    let m = Bound::default();
    let third = m.div(m.input(1.0), m.input(3.0));
    let c = m.lt(m.mul(third, m.input(3.0)), m.input(1.0));
    assert!(c.yes && c.no && !c.value);
    let chosen = m.select(c, m.input(5.0), m.input(-5.0));
    assert_eq!((chosen.lo, chosen.hi, chosen.value), (-5.0, 5.0, -5.0));
    assert_eq!(chosen.error(), 10.0);
    let large = m.mul(m.input(1e30), m.input(1e30));
    assert_eq!((large.value, large.hi), (1e30 * 1e30, f64::INFINITY));
    assert!(m.div(m.input(1.0), large).contains(0.0));
    assert!(m.sub(large, large).nan);
    assert!(m.mul(m.input(0.0), m.input(f64::INFINITY)).is_empty());
}
