use super::*;
use crate::device::Device;

fn cpu() -> Device {
    Device::new("cpu").unwrap()
}

/// Runs five steps on `f(p) = sum(p^2)` and returns the parameter.
fn five_steps(rule: Rule, start: &[f32], shape: &[usize], lr: f64) -> Vec<f32> {
    let p = Tensor::from_slice(&cpu(), start, shape).unwrap().requires_grad();
    let optimizer = Optimizer::new(rule, vec![("p".into(), p.clone())]).unwrap();
    for step in 1..=5 {
        optimizer.zero_grad();
        p.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        optimizer.prepare(step, lr).unwrap();
        optimizer.step(None).unwrap();
    }
    p.to_vec().unwrap()
}

/// The same in plain f64, straight from the papers.
fn expected(rule: Rule, start: &[f32], decays: bool, lr: f64) -> Vec<f64> {
    let mut all = Vec::new();
    for &p in start {
        let (mut p, mut m, mut v) = (f64::from(p), 0.0, 0.0);
        for t in 1..=5 {
            let mut g = 2.0 * p;
            match rule {
                Rule::Sgd { momentum, weight_decay } => {
                    g += if decays { weight_decay * p } else { 0.0 };
                    m = momentum * m + g;
                    p -= lr * m;
                }
                Rule::Adam { beta1, beta2, eps, weight_decay }
                | Rule::AdamW { beta1, beta2, eps, weight_decay } => {
                    let decay = if decays { weight_decay } else { 0.0 };
                    if matches!(rule, Rule::Adam { .. }) {
                        g += decay * p;
                    } else {
                        p -= lr * decay * p;
                    }
                    m = beta1 * m + (1.0 - beta1) * g;
                    v = beta2 * v + (1.0 - beta2) * g * g;
                    let (mh, vh) = (m / (1.0 - beta1.powi(t)), v / (1.0 - beta2.powi(t)));
                    p -= lr * mh / (vh.sqrt() + eps);
                }
            }
        }
        all.push(p);
    }
    all
}

#[test]
fn updates_follow_the_papers() {
    let (beta1, beta2, eps, weight_decay) = (0.9, 0.99, 1e-8, 0.1);
    let rules = [
        Rule::Sgd { momentum: 0.9, weight_decay },
        Rule::Adam { beta1, beta2, eps, weight_decay },
        Rule::AdamW { beta1, beta2, eps, weight_decay },
    ];
    let start = [1.0f32, -2.0, 0.5, 3.0];
    for rule in rules {
        for (shape, decays) in [(&[2usize, 2][..], true), (&[4], false)] {
            let got = five_steps(rule, &start, shape, 0.01);
            for (g, e) in got.iter().zip(expected(rule, &start, decays, 0.01)) {
                assert!((f64::from(*g) - e).abs() < 2e-6, "{rule:?} {decays}: {g} and not {e}");
            }
        }
    }
}

#[test]
fn clipping_is_pytorchs() {
    let device = cpu();
    let a = Tensor::from_slice(&device, &[1f32, 2.0], &[2]).unwrap().requires_grad();
    let b = Tensor::from_slice(&device, &[2f32], &[1]).unwrap().requires_grad();
    let half = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().mul_scalar(0.5).unwrap();
    half(&a).add(&half(&b)).unwrap().backward().unwrap();
    let clip = clip_grad_norm([&a, &b].into_iter(), Some(1.5)).unwrap();
    assert!((clip.norm.item().unwrap() - 3.0).abs() < 1e-6);
    assert!((clip.factor.item().unwrap() - 1.5 / 3.000001).abs() < 1e-6);
    let loose = clip_grad_norm([&a, &b].into_iter(), Some(30.0)).unwrap();
    assert_eq!(loose.factor.item().unwrap(), 1.0);
    let rule = Rule::Sgd { momentum: 0.0, weight_decay: 0.0 };
    let parameters = vec![("a".into(), a.clone()), ("b".into(), b.clone())];
    let optimizer = Optimizer::new(rule, parameters).unwrap();
    optimizer.prepare(1, 1.0).unwrap();
    optimizer.step(Some(&clip)).unwrap();
    let got = a.to_vec::<f32>().unwrap();
    assert!((got[0] - 0.5).abs() < 1e-6 && (got[1] - 1.0).abs() < 1e-6, "{got:?}");
}

#[test]
fn impossible_constants_are_refused() {
    let p = Tensor::from_slice(&cpu(), &[1f32], &[1]).unwrap().requires_grad();
    let with = |beta1: f64, weight_decay: f64| {
        let rule = Rule::AdamW { beta1, beta2: 0.9, eps: 1e-8, weight_decay };
        Optimizer::new(rule, vec![("p".into(), p.clone())]).err().map(|e| e.to_string())
    };
    assert!(with(1.0, 0.1).unwrap().contains("beta1"));
    assert!(with(0.9, f64::NAN).unwrap().contains("weight decay"));
    assert!(with(0.9, 0.1).is_none());
    assert!(Optimizer::new(Rule::Sgd { momentum: 0.9, weight_decay: 0.0 }, Vec::new()).is_err());
}
