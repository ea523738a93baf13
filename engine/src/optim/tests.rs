use super::*;
use crate::device::Device;

fn cpu() -> Device {
    Device::new("cpu").unwrap()
}

/// Runs five steps on `f(p) = sum(p^2)` and returns the parameter.
fn five_steps(rule: Rule, start: &[f32], shape: &[usize], lr: f64) -> Vec<f32> {
    let p = Tensor::from_slice(&cpu(), start, shape).unwrap().requires_grad();
    let optimizer = Optimizer::new(rule, vec![("p".into(), p.clone())]).unwrap();
    for _ in 0..5 {
        optimizer.zero_grad();
        p.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        optimizer.step(lr, None).unwrap();
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
    optimizer.step(1.0, Some(&clip)).unwrap();
    let got = a.to_vec::<f32>().unwrap();
    assert!((got[0] - 0.5).abs() < 1e-6 && (got[1] - 1.0).abs() < 1e-6, "{got:?}");
}

#[test]
fn what_no_step_can_update_is_refused() {
    let sgd = Rule::Sgd { momentum: 0.0, weight_decay: 0.0 };
    let refused = |parameters: &[&Tensor]| {
        let named = parameters.iter().enumerate().map(|(i, p)| (format!("p{i}"), (*p).clone()));
        Optimizer::new(sgd, named.collect()).err().unwrap().to_string()
    };
    let repeated = leaf(&[1.0]).detach().broadcast_to(&[3]).unwrap().requires_grad();
    assert!(refused(&[&repeated]).contains("repeats elements"));
    let other = Device::from_backend(Arc::new(starling_reference::ReferenceBackend::new()));
    let error = refused(&[&leaf(&[1.0]), &leaf_on(&other.unwrap(), &[1.0])]);
    assert!(error.contains("cpu") && error.contains("reference"), "{error}");
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

fn adamw() -> Rule {
    Rule::AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 }
}

fn leaf_on(device: &Device, data: &[f32]) -> Tensor {
    Tensor::from_slice(device, data, &[data.len()]).unwrap().requires_grad()
}

fn leaf(data: &[f32]) -> Tensor {
    leaf_on(&cpu(), data)
}

#[test]
fn a_parameter_without_a_gradient_stops_the_step_before_anything_changes() {
    let device = cpu();
    let (a, b) = (leaf_on(&device, &[1.0]), leaf_on(&device, &[2.0]));
    let named = vec![("a".into(), a.clone()), ("b".into(), b.clone())];
    let mut optimizer = Optimizer::new(adamw(), named).unwrap();
    let first = a.sqr().unwrap().sum_all().unwrap();
    first.backward().unwrap();
    let error = optimizer.step(0.1, None).unwrap_err().to_string();
    assert!(error.contains("\"b\"") && error.contains("may_lack_gradient"), "{error}");
    assert_eq!((a.to_vec::<f32>().unwrap(), optimizer.counts().unwrap()), (vec![1.0], [0, 0]));
    assert!(optimizer.may_lack_gradient(&["c"]).is_err());
    optimizer.may_lack_gradient(&["b"]).unwrap();
    optimizer.step(0.1, None).unwrap();
    assert!(a.item().unwrap() < 1.0);
    assert_eq!((b.item().unwrap(), optimizer.counts().unwrap()), (2.0, [1, 0]));
}

#[test]
fn a_frozen_tensor_and_two_of_one_name_are_refused() {
    let frozen = leaf(&[1.0]).detach();
    let error = Optimizer::new(adamw(), vec![("w".into(), frozen)]).err().unwrap().to_string();
    assert!(error.contains("\"w\"") && error.contains("requires_grad"), "{error}");
    let twice = vec![("w".into(), leaf(&[1.0])), ("w".into(), leaf(&[1.0]))];
    assert!(Optimizer::new(adamw(), twice).err().unwrap().to_string().contains("\"w\""));
}

#[test]
fn gradients_that_are_not_finite_skip_the_step_and_are_counted() {
    for rule in [adamw(), Rule::Sgd { momentum: 0.9, weight_decay: 0.1 }] {
        let p = leaf(&[1.0, 2.0]);
        let optimizer = Optimizer::new(rule, vec![("p".into(), p.clone())]).unwrap();
        let step = |gradient: [f32; 2], limit: Option<f64>| {
            p.zero_grad();
            let upstream = Tensor::from_slice(p.device(), &gradient, &[2]).unwrap();
            p.mul_scalar(1.0).unwrap().backward_with(&upstream).unwrap();
            let clip = clip_grad_norm([&p].into_iter(), limit).unwrap();
            optimizer.step(0.1, Some(&clip)).unwrap();
            let memory = optimizer.memory().into_iter().filter(|m| m.0.ends_with(".p"));
            let memory = memory.flat_map(|m| m.1.to_vec::<f32>().unwrap());
            p.to_vec::<f32>().unwrap().into_iter().chain(memory).collect::<Vec<_>>()
        };
        for (i, limit) in [Some(1.0), None].into_iter().enumerate() {
            let before = step([0.5, -0.5], limit);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert_eq!(step([bad, 1.0], limit), before, "{rule:?} {limit:?} {bad}");
            }
            let taken = i as u64 + 1;
            assert_eq!(optimizer.counts().unwrap(), [taken, 3 * taken]);
        }
    }
}

#[test]
fn a_captured_step_counts_when_it_is_replayed() {
    let device = cpu();
    let run = |captured: bool| {
        let p = leaf_on(&device, &[1.0, -2.0]);
        let rate = Tensor::from_slice(&device, &[0f32], &[]).unwrap();
        let optimizer = Optimizer::new(adamw(), vec![("p".into(), p.clone())]).unwrap();
        let step = || {
            optimizer.zero_grad();
            p.sqr()?.sum_all()?.backward()?;
            optimizer.step(&rate, None)
        };
        let mut list: Option<(crate::Captured, ())> = None;
        for lr in [0.1f32, 0.05, 0.02, 0.01] {
            rate.copy_from_slice(&[lr]).unwrap();
            match (&list, captured) {
                (Some((list, ())), true) => list.replay().unwrap(),
                (None, true) => list = Some(device.capture(step).unwrap()),
                (_, false) => step().unwrap(),
            }
        }
        (p.to_vec::<f32>().unwrap(), optimizer.counts().unwrap())
    };
    assert_eq!(run(true), run(false));
    assert_eq!(run(true).1, [4, 0]);
}

#[test]
fn groups_have_their_own_rate_and_decay() {
    let device = cpu();
    let [a, b, c] = std::array::from_fn(|_| leaf_on(&device, &[1.0]));
    let group = |name: &str, p: &Tensor, rate, weight_decay| Group {
        parameters: vec![(name.into(), p.clone())],
        rate,
        weight_decay,
    };
    let rule = Rule::Sgd { momentum: 0.0, weight_decay: 0.0 };
    let groups = vec![group("a", &a, 1.0, 0.0), group("b", &b, 0.5, 0.0), group("c", &c, 1.0, 2.0)];
    let optimizer = Optimizer::with_groups(rule, groups).unwrap();
    let sum = a.add(&b).unwrap().add(&c).unwrap().sum_all().unwrap();
    sum.backward().unwrap();
    optimizer.step(0.125, None).unwrap();
    let all: Vec<f32> = [&a, &b, &c].map(|t| t.item().unwrap()).to_vec();
    assert_eq!(all, [1.0 - 0.125, 1.0 - 0.0625, 1.0 - 0.125 * 3.0]);
    assert!(Optimizer::with_groups(rule, vec![group("a", &a, f64::NAN, 0.0)]).is_err());
}

#[test]
fn only_a_factor_other_than_1_costs_a_launch() {
    let launches = |factor: f64| {
        let device = cpu();
        let p = leaf_on(&device, &[1.0, 2.0]);
        let group =
            Group { parameters: vec![("p".into(), p.clone())], rate: factor, weight_decay: 0.0 };
        let optimizer = Optimizer::with_groups(adamw(), vec![group]).unwrap();
        let rate = Tensor::from_slice(&device, &[0.1f32], &[]).unwrap();
        p.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let before = device.counters().launches;
        optimizer.step(&rate, None).unwrap();
        device.counters().launches - before
    };
    assert_eq!((launches(1.0), launches(0.5)), (2, 3));
}

#[test]
fn the_cpus_own_loops_know_the_programs_of_the_updates() {
    use starling_contract::Verb;
    let sgd = Rule::Sgd { momentum: 0.9, weight_decay: 0.01 };
    let adam = Rule::Adam { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01 };
    let adamw = Rule::AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.01 };
    for rule in [sgd, adam, adamw] {
        let device = cpu();
        let [p, q] = [&[3usize, 2][..], &[4]]
            .map(|shape| Tensor::ones(&device, DType::F32, shape).unwrap().requires_grad());
        let named = vec![("p".into(), p.clone()), ("q".into(), q.clone())];
        let optimizer = Optimizer::new(rule, named).unwrap();
        let rate = Tensor::from_slice(&device, &[0.1f32], &[]).unwrap();
        let backward = || p.sum_all()?.add(&q.sum_all()?)?.backward();
        backward().unwrap();
        let step = || optimizer.step(&rate, None);
        let (captured, ()) = device.capture(step).unwrap();
        let updates: Vec<_> = captured
            .verbs()
            .iter()
            .filter_map(|verb| match &**verb {
                Verb::Map(map) if map.params.len() > 1 => Some(&map.program),
                _ => None,
            })
            .collect();
        // With decay and, for vectors, without.
        assert_eq!(updates.len(), 2, "{rule:?}");
        assert!(updates.iter().all(|p| starling_kernels_cpu::map::has_loop(p)), "{rule:?}");
    }
}
