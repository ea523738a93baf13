//! Optimizers and learning-rate schedules against torch.optim in float64
//! (tests/golden/optimizers.json, which make_optimizers.py writes), on every device.

mod torch;

use serde_json::Value;
use starling_engine::optim::{Clip, Group, Optimizer, Rule, Schedule, clip_grad_norm};
use starling_engine::{DType, Device, Result, Tensor};
use torch::{devices, golden, number};

/// The parameters, in the order that their numbers have in make_optimizers.py.
const SHAPES: [(&str, &[usize]); 4] =
    [("w", &[3, 4]), ("b", &[4]), ("e", &[2, 2]), ("frozen", &[4])];

fn table(part: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(golden("optimizers.json")).unwrap();
    let table: Value = serde_json::from_str(&text).unwrap();
    table[part].as_array().unwrap().clone()
}

fn numbers(x: &Value) -> Vec<f64> {
    x.as_array().unwrap().iter().map(number).collect()
}

#[test]
fn schedules_give_pytorchs_rates() {
    let table = table("schedules");
    for row in &table {
        let schedule: Schedule = serde_json::from_value(row["schedule"].clone()).unwrap();
        let steps = row["steps"].as_u64().unwrap();
        let rates = numbers(&row["rates"]);
        assert_eq!(rates.len() as u64, steps);
        for (step, want) in (1..).zip(rates) {
            let got = schedule.rate(step, steps);
            // PyTorch goes from rate to rate, and so adds up roundings.
            let near = (got - want).abs() <= 1e-12 * schedule.peak;
            assert!(near, "{schedule:?}, step {step} of {steps}: {got} and not {want}");
        }
    }
    assert_eq!(table.len(), 12);
}

/// A parameter as it begins.
fn start(k: usize) -> Vec<f32> {
    let n: usize = SHAPES[k].1.iter().product();
    (0..n).map(|i| ((i * 5 + k * 3 + 3) % 11) as f32 / 4.0 - 1.25).collect()
}

/// What drags at a parameter in a step.
fn pull(k: usize, step: u64) -> Vec<f32> {
    let n: usize = SHAPES[k].1.iter().product();
    (0..n).map(|i| ((i * 7 + step as usize * 13 + k * 5) % 17) as f32 / 8.0 - 1.0).collect()
}

/// The optimizer of a row; those of matrices and vectors by [`Optimizer::new`], as users do.
fn optimizer(row: &Value, parameters: &[Tensor]) -> Optimizer {
    let rule: Rule = serde_json::from_value(row["rule"].clone()).unwrap();
    let find = |name: &str| {
        let at = SHAPES.iter().position(|s| s.0 == name).unwrap();
        (name.to_owned(), parameters[at].clone())
    };
    let groups = row["groups"].as_array().unwrap();
    let group = |g: &Value| Group {
        parameters: g["names"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| find(n.as_str().unwrap()))
            .collect(),
        rate: number(&g["rate"]),
        weight_decay: number(&g["decay"]),
    };
    let mut made = match groups.len() {
        2 => Optimizer::new(rule, ["b", "w", "e"].map(find).to_vec()).unwrap(),
        _ => Optimizer::with_groups(rule, groups.iter().map(group).collect()).unwrap(),
    };
    if let Some(name) = row["lacking"].as_str() {
        made.may_lack_gradient(&[name]).unwrap();
    }
    made
}

fn loss(row: &Value, step: u64, parameters: &[Tensor], pulls: &[Tensor]) -> Result<Tensor> {
    let mut loss = parameters[0].mul(&parameters[3])?.sum_all()?.mul_scalar(0.5)?;
    for (k, (name, _)) in SHAPES.iter().enumerate() {
        let lacks = row["lacking"].as_str() == Some(*name) && step.is_multiple_of(3);
        if *name == "frozen" || lacks {
            continue;
        }
        let dragged = parameters[k].mul(&pulls[k])?.sum_all()?;
        let held = parameters[k].sqr()?.sum_all()?.mul_scalar(0.05)?;
        loss = loss.add(&dragged)?.add(&held)?;
    }
    Ok(loss)
}

/// Fails where a number is further from PyTorch's than 20 steps in f32 explain.
fn compare(what: &str, got: &[f32], want: &Value) {
    let want = match want {
        Value::Array(_) => numbers(want),
        one => vec![number(one)],
    };
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        let near = (f64::from(*got) - want).abs() <= 1e-5 * (1.0 + want.abs());
        assert!(near, "{what}: {got} and not {want}");
    }
}

/// Trains as the row says, captured or not, and compares what it shows; the bits at the end.
fn run(device: &Device, row: &Value, captured: bool) -> Vec<u32> {
    let title = row["title"].as_str().unwrap();
    let schedule: Schedule = serde_json::from_value(row["schedule"].clone()).unwrap();
    let filled = |k: usize, data: Vec<f32>| Tensor::from_slice(device, &data, SHAPES[k].1).unwrap();
    let leaf = |k: usize| match SHAPES[k].0 {
        "frozen" => filled(k, start(k)),
        _ => filled(k, start(k)).requires_grad(),
    };
    let parameters: Vec<Tensor> = (0..4).map(leaf).collect();
    let optimizer = optimizer(row, &parameters);
    let pulls: Vec<Tensor> = (0..4).map(|k| filled(k, pull(k, 1))).collect();
    let rate = Tensor::from_slice(device, &[0f32], &[]).unwrap();
    let seen = Tensor::zeros(device, DType::F32, &[2]).unwrap();
    let clip = row["clip"].as_f64();
    let step = |number: u64| {
        optimizer.zero_grad();
        let loss = loss(row, number, &parameters, &pulls)?;
        loss.backward()?;
        let clip = clip_grad_norm(optimizer.parameters(), clip)?;
        seen.slice_assign(0, 0, &loss.detach().reshape(&[1])?)?;
        seen.slice_assign(0, 1, &clip.norm.reshape(&[1])?)?;
        optimizer.step(&rate, Some(&clip))
    };
    let mut list = None;
    for number in 1..=20 {
        rate.copy_from_slice(&[schedule.rate(number, 20) as f32]).unwrap();
        for (k, pulled) in pulls.iter().enumerate() {
            pulled.copy_from_slice(&pull(k, number)).unwrap();
        }
        match (&list, captured) {
            (_, false) => step(number).unwrap(),
            (None, true) => list = Some(device.capture(|| step(number)).unwrap().0),
            (Some(list), true) => list.replay().unwrap(),
        }
        let Some(shown) = row["shown"].as_array().unwrap().iter().find(|s| s["step"] == number)
        else {
            continue;
        };
        let both = seen.to_vec::<f32>().unwrap();
        compare(&format!("{title}, loss of step {number}"), &both[..1], &shown["loss"]);
        compare(&format!("{title}, norm of step {number}"), &both[1..], &shown["norm"]);
        for (k, parameter) in parameters.iter().enumerate() {
            let name = SHAPES[k].0;
            let got = parameter.to_vec::<f32>().unwrap();
            compare(&format!("{title}, {name} after step {number}"), &got, &shown[name]);
        }
    }
    let memory = optimizer.memory();
    for (name, want) in row["memory"].as_object().unwrap() {
        let found = memory.iter().find(|m| m.0 == *name);
        compare(&format!("{title}, {name}"), &found.unwrap().1.to_vec::<f32>().unwrap(), want);
    }
    assert_eq!(optimizer.counts().unwrap(), [20, 0], "{title}");
    let bits = |t: &Tensor| t.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect();
    parameters
        .iter()
        .chain(memory.iter().map(|m| &m.1))
        .flat_map(|t| -> Vec<u32> { bits(t) })
        .collect()
}

#[test]
fn twenty_steps_are_those_of_pytorchs_optimizers() {
    let table = table("runs");
    for (name, device) in devices() {
        for row in &table {
            let eager = run(&device, row, false);
            // A captured step does what its first run did: there nothing may lack now and then.
            if row["lacking"].is_null() {
                assert!(run(&device, row, true) == eager, "{name}: {}: replayed", row["title"]);
            }
        }
    }
    assert_eq!(table.len(), 8);
}

#[test]
fn the_norm_of_small_and_large_f16_is_right() -> Result<()> {
    for (name, device) in devices() {
        for x in [3000.0, 1e-4] {
            let w = Tensor::full(&device, DType::F16, &[4], 1.0)?.contiguous()?.requires_grad();
            w.set_grad(Some(Tensor::full(&device, DType::F16, &[4], x)?))?;
            let norm = clip_grad_norm([&w].into_iter(), Some(1.0))?.norm.item()?;
            assert!((norm / (2.0 * x as f32) - 1.0).abs() < 1e-2, "{name}: {norm} of {x} x 4");
        }
    }
    Ok(())
}

#[test]
fn what_a_step_cannot_use_is_refused_before_anything_changes() -> Result<()> {
    let device = Device::new("cpu")?;
    let number = |data: &[f32], shape: &[usize]| Tensor::from_slice(&device, data, shape);
    let w = number(&[1.0, 2.0, 3.0], &[3])?.requires_grad();
    let rule = Rule::Sgd { momentum: 0.0, weight_decay: 0.0 };
    let result = w.sqr()?.requires_grad();
    let error = Optimizer::new(rule, vec![("y".into(), result.clone())]).err().unwrap();
    assert!(error.to_string().contains("result of an operation"), "{error}");
    result.sum_all()?.backward()?;
    for norm in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(clip_grad_norm([&w].into_iter(), Some(norm)).is_err(), "{norm}");
    }
    let optimizer = Optimizer::new(rule, vec![("w".into(), w.clone())])?;
    let rates = [
        number(&[0.1; 2], &[2])?,
        number(&[0.1; 3], &[3])?,
        number(&[0.1], &[])?.to_dtype(DType::F16)?,
        number(&[0.1], &[])?.requires_grad(),
    ];
    for rate in &rates {
        assert!(optimizer.step(rate, None).is_err(), "{rate:?}");
        let clip = Clip { norm: rate.clone(), factor: rate.clone() };
        assert!(optimizer.step(0.1, Some(&clip)).is_err(), "{rate:?}");
    }
    for rate in [1e39, f64::NAN, f64::INFINITY] {
        assert!(optimizer.step(rate, None).is_err(), "{rate}");
    }
    assert_eq!((optimizer.counts()?, w.to_vec::<f32>()?), ([0, 0], vec![1.0, 2.0, 3.0]));
    optimizer.step(&number(&[0.5], &[1])?, None)?;
    assert_eq!((optimizer.counts()?, w.to_vec::<f32>()?), ([1, 0], vec![0.0; 3]));
    Ok(())
}
