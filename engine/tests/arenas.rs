//! Parameters that are updated together lie side by side: fewer launches, and nothing else changes.

use half::bf16;
use starling_contract::Backend;
use starling_engine::optim::{Clip, Group, Optimizer, Rule, clip_grad_norm};
use starling_engine::{DType, Device, Downloads, Error, Result, Tensor, WeightLayout};
use std::sync::Arc;

const ADAMW: Rule = Rule::AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };

fn devices() -> Vec<Device> {
    let reference: Arc<dyn Backend> = Arc::new(starling_reference::ReferenceBackend::new());
    let mut all = vec![Device::new("cpu").unwrap(), Device::from_backend(reference).unwrap()];
    let gpus = Device::probe().into_iter().filter(|p| p.name.starts_with("webgpu"));
    all.extend(gpus.filter(|p| p.status.is_ok()).map(|p| Device::new(&p.name).unwrap()));
    all
}

fn cpu() -> Device {
    Device::new("cpu").unwrap()
}

fn filled(device: &Device, shape: &[usize], salt: usize) -> Tensor {
    let n: usize = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|i| ((i * 7 + salt * 5) % 23) as f32 / 16.0 - 0.6875).collect();
    Tensor::from_slice(device, &data, shape).unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// An embedding, a norm, two layers; sizes that leave gaps between them.
struct Model(Vec<(String, Tensor)>);

const SHAPES: [(&str, &[usize]); 7] = [
    ("table", &[5, 12]),
    ("norm.weight", &[12]),
    ("norm.bias", &[12]),
    ("up.weight", &[12, 20]),
    ("up.bias", &[20]),
    ("down.weight", &[3, 20]),
    ("down.bias", &[3]),
];

impl Model {
    /// With `apart`, every parameter is a view of a larger tensor, which no optimizer moves.
    fn new(device: &Device, apart: bool) -> Self {
        let parameter = |(salt, (name, shape)): (usize, &(&str, &[usize]))| {
            let value = filled(device, shape, salt);
            let value = match apart {
                false => value,
                true => {
                    let room = Tensor::stack(&[&value, &value], 0).unwrap();
                    room.narrow(0, 0, 1).unwrap().squeeze(0).unwrap()
                }
            };
            ((*name).to_owned(), value.requires_grad())
        };
        Self(SHAPES.iter().enumerate().map(parameter).collect())
    }

    fn get(&self, name: &str) -> &Tensor {
        &self.0.iter().find(|p| p.0 == name).unwrap().1
    }

    fn loss(&self, tokens: &Tensor) -> Result<Tensor> {
        let x = self.get("table").embedding(tokens)?;
        let x = x.layer_norm(Some(self.get("norm.weight")), Some(self.get("norm.bias")), 1e-5)?;
        let (w, b) = (self.get("up.weight"), self.get("up.bias"));
        let x = x.linear(w, Some(b), WeightLayout::InOut, None)?.gelu()?;
        let (w, b) = (self.get("down.weight"), self.get("down.bias"));
        x.linear(w, Some(b), WeightLayout::OutIn, None)?.sqr()?.mean_all()
    }

    fn values(&self) -> Vec<Vec<u32>> {
        self.0.iter().map(|p| bits(&p.1)).collect()
    }
}

fn tokens(device: &Device) -> Tensor {
    Tensor::from_slice(device, &[0i32, 3, 1, 3], &[4]).unwrap()
}

/// What backward, clipping and a step launch.
fn launches(device: &Device, apart: bool) -> [u64; 3] {
    let (model, tokens) = (Model::new(device, apart), tokens(device));
    let optimizer = Optimizer::new(ADAMW, model.0.clone()).unwrap();
    let rate = Tensor::from_slice(device, &[0.01f32], &[]).unwrap();
    let loss = model.loss(&tokens).unwrap();
    let count = || device.counters().launches;
    let start = count();
    loss.backward().unwrap();
    let after_backward = count();
    let clip = clip_grad_norm(optimizer.parameters(), Some(1.0)).unwrap();
    let factor = clip.factor.to_vec::<f32>();
    let after_clip = count();
    optimizer.step(&rate, Some(&clip)).unwrap();
    assert!(factor.is_ok());
    [after_backward - start, after_clip - after_backward, count() - after_clip]
}

#[test]
fn a_step_is_a_launch_a_group_and_backward_copies_nothing() {
    // What rounds no step fuses none: the reference launches each operation.
    for device in devices().into_iter().filter(|d| d.capabilities().rounds_every_step) {
        let ([back, clip, step], [back_apart, clip_apart, step_apart]) =
            (launches(&device, false), launches(&device, true));
        let name = device.name();
        // Zeros between the gradients: a launch for the matrices and one for the vectors.
        assert_eq!(back, back_apart + 2, "{name}");
        assert_eq!((step, step_apart), (1 + 2, 1 + 7), "{name}");
        assert!(clip <= 2 + 2 && clip_apart >= 7, "{name}: {clip} and {clip_apart}");
    }
}

fn train(
    model: &Model,
    optimizer: &Optimizer,
    tokens: &Tensor,
    limit: Option<f64>,
) -> Result<Clip> {
    optimizer.zero_grad();
    model.loss(tokens)?.backward()?;
    let clip = clip_grad_norm(optimizer.parameters(), limit)?;
    optimizer.step(0.05, Some(&clip))?;
    Ok(clip)
}

#[test]
fn the_bits_are_those_of_parameters_that_lie_apart() {
    for device in devices() {
        let tokens = tokens(&device);
        let run = |apart| {
            let model = Model::new(&device, apart);
            let optimizer = Optimizer::new(ADAMW, model.0.clone()).unwrap();
            let mut norm = 0.0;
            for _ in 0..4 {
                let clip = train(&model, &optimizer, &tokens, None).unwrap();
                norm = clip.norm.item().unwrap();
            }
            let memory: Vec<_> = optimizer.memory().iter().map(|(_, t)| bits(t)).collect();
            let mut names: Vec<_> = optimizer.memory().into_iter().map(|m| m.0).collect();
            names.sort();
            (model.values(), memory, names, norm)
        };
        let (together, apart) = (run(false), run(true));
        assert!(together.0 == apart.0 && together.1 == apart.1, "{}", device.name());
        assert_eq!(together.2, apart.2);
        // Only the order of additions differs.
        assert!((together.3 - apart.3).abs() <= 1e-6 * apart.3, "{} {}", together.3, apart.3);
    }
}

#[test]
fn replays_give_the_bits_of_eager_steps_and_share_no_memory_with_other_work() {
    for device in devices() {
        let tokens = tokens(&device);
        let run = |captured: bool| {
            let model = Model::new(&device, false);
            let mut optimizer = Optimizer::new(ADAMW, model.0.clone()).unwrap();
            // A step that leaves places of its gradients empty.
            optimizer.may_lack_gradient(&["table", "norm.weight", "norm.bias"]).unwrap();
            let x = filled(&device, &[2, 12], 9);
            let step = || {
                optimizer.zero_grad();
                let (w, b) = (model.get("up.weight"), model.get("up.bias"));
                let x = x.linear(w, Some(b), WeightLayout::InOut, None)?;
                let (w, b) = (model.get("down.weight"), model.get("down.bias"));
                let y = x.linear(w, Some(b), WeightLayout::OutIn, None)?;
                y.sqr()?.mean_all()?.backward()?;
                let clip = clip_grad_norm(optimizer.parameters(), Some(0.5))?;
                optimizer.step(0.05, Some(&clip))
            };
            let list = captured.then(|| device.capture(step).unwrap().0);
            if !captured {
                step().unwrap();
            }
            let mut seen = Vec::new();
            for _ in 0..3 {
                // Gradients of other work, some of which lack one in the list.
                model.loss(&tokens).unwrap().backward().unwrap();
                let gradient = model.get("table").grad().unwrap();
                let before = bits(&gradient);
                model.0.iter().for_each(|p| p.1.zero_grad());
                match &list {
                    Some(list) => list.replay().unwrap(),
                    None => step().unwrap(),
                }
                assert_eq!(bits(&gradient), before);
                seen.push(before);
            }
            (model.values(), seen, optimizer.counts().unwrap())
        };
        assert!(run(true) == run(false), "{}", device.name());
    }
}

#[test]
fn views_and_waiting_readers_notice_nothing() -> Result<()> {
    let device = cpu();
    let p = filled(&device, &[4, 3], 1).requires_grad();
    let q = filled(&device, &[5, 2], 2).requires_grad();
    let start = p.to_vec::<f32>()?;
    let (view, waiting) = (p.detach().transpose(0, 1)?, p.detach().mul_scalar(2.0)?);
    let (row, _) = (p.detach().narrow(0, 1, 1)?, q.detach().transpose(0, 1)?.to_vec::<f32>()?);
    assert_eq!(row.to_vec::<f32>()?, start[3..6]);
    let saved = p.sqr()?.sum_all()?;
    let optimizer = Optimizer::new(ADAMW, vec![("p".into(), p.clone()), ("q".into(), q.clone())])?;
    assert_eq!((p.to_vec::<f32>()?, row.to_vec::<f32>()?), (start.clone(), start[3..6].to_vec()));
    // What was saved of a parameter before it moved is still its value.
    saved.backward()?;
    q.sqr()?.sum_all()?.backward()?;
    optimizer.step(0.1, None)?;
    let now = p.to_vec::<f32>()?;
    assert!(now.iter().zip(&start).all(|(a, b)| a != b));
    assert_eq!(row.to_vec::<f32>()?, now[3..6]);
    let turned: Vec<f32> = (0..12).map(|i| now[i % 4 * 3 + i / 4]).collect();
    assert_eq!(view.to_vec::<f32>()?, turned);
    let doubled: Vec<f32> = start.iter().map(|x| x * 2.0).collect();
    assert_eq!(waiting.to_vec::<f32>()?, doubled);
    Ok(())
}

#[test]
fn a_write_changes_only_the_parameters_that_it_touches() -> Result<()> {
    let device = cpu();
    let [a, b] = [1, 2].map(|salt| filled(&device, &[2, 2], salt).requires_grad());
    let optimizer = Optimizer::new(ADAMW, vec![("a".into(), a.clone()), ("b".into(), b.clone())])?;
    let (of_a, of_b) = (a.sqr()?.sum_all()?, b.sqr()?.sum_all()?);
    a.copy_from_slice(&[1f32; 4])?;
    // Saved of the neighbour, and of what was overwritten.
    of_b.backward()?;
    assert!(matches!(of_a.backward(), Err(Error::Modified { .. })));
    let arenas = optimizer.arenas();
    assert_eq!(arenas.len(), 1);
    assert_eq!(arenas[0].ranges, [("a".to_owned(), 0..4), ("b".to_owned(), 64..68)]);
    let (of_a, waiting) = (a.sqr()?.sum_all()?, b.detach().mul_scalar(2.0)?);
    let old = b.to_vec::<f32>()?;
    let all: Vec<f32> = (0..68).map(|i| i as f32).collect();
    arenas[0].parameters.copy_from_slice(&all)?;
    assert_eq!((a.to_vec::<f32>()?, b.to_vec::<f32>()?), (all[..4].to_vec(), all[64..].to_vec()));
    assert_eq!(waiting.to_vec::<f32>()?, old.iter().map(|x| x * 2.0).collect::<Vec<_>>());
    assert!(matches!(of_a.backward(), Err(Error::Modified { .. })));
    // And the other way round.
    let waiting = arenas[0].parameters.mul_scalar(2.0)?;
    b.copy_from_slice(&[-1f32; 4])?;
    assert_eq!(arenas[0].parameters.to_vec::<f32>()?[64..], [-1.0; 4]);
    assert_eq!(waiting.to_vec::<f32>()?[64..], [128.0, 130.0, 132.0, 134.0]);
    Ok(())
}

#[test]
fn what_lies_in_one_buffer_is_downloaded_at_once() -> Result<()> {
    for device in devices() {
        let [a, b, c] = [3, 4, 5].map(|n| filled(&device, &[n, 2], n).requires_grad());
        let named = [("a", &a), ("b", &b), ("c", &c)].map(|(n, t)| (n.into(), t.clone()));
        let optimizer = Optimizer::new(ADAMW, named.to_vec())?;
        let apart = filled(&device, &[7], 6);
        let turned = b.detach().transpose(0, 1)?;
        let lazy = apart.add_scalar(1.0)?;
        let mut all = vec![apart.clone(), c.clone(), a.clone(), turned.clone(), lazy, b.clone()];
        all.extend(optimizer.memory().into_iter().map(|m| m.1));
        let one_by_one: Vec<Vec<u32>> = all.iter().map(bits).collect();
        let downloads = Downloads::<f32>::new(all.clone())?;
        for round in 0..3u32 {
            let before = device.counters().downloads;
            for (at, right) in one_by_one.iter().enumerate() {
                let got: Vec<u32> = downloads.read(at)?.into_iter().map(f32::to_bits).collect();
                assert_eq!(&got, right, "{}: {at}, round {round}", device.name());
            }
            // Parameters, both means; apart, turned, lazy and two counts alone.
            assert_eq!(device.counters().downloads - before, 3 + 5, "{}", device.name());
        }
        // What is read anew is what is there now, also out of turn.
        downloads.read(1)?;
        c.copy_from_slice(&[9f32; 10])?;
        assert_eq!(downloads.read(1)?, [9.0; 10]);
        assert!(Downloads::<half::f16>::new([a.clone()])?.read(0).is_err(), "another type");
        assert!(downloads.read(all.len()).is_err(), "no such tensor");
    }
    Ok(())
}

#[test]
fn a_gradient_that_somebody_holds_stays_what_it_is() -> Result<()> {
    let device = cpu();
    let [a, b] = [1, 2].map(|salt| filled(&device, &[2, 2], salt).requires_grad());
    let named = vec![("a".into(), a.clone()), ("b".into(), b.clone())];
    let optimizer = Optimizer::new(Rule::Sgd { momentum: 0.0, weight_decay: 0.0 }, named)?;
    let backward = |factor: f64| -> Result<()> {
        a.mul_scalar(factor)?.add(&b.mul_scalar(2.0 * factor)?)?.sum_all()?.backward()
    };
    backward(1.0)?;
    let (held, view) = (a.grad().unwrap(), b.grad().unwrap().reshape(&[4])?);
    assert_eq!(view.to_vec::<f32>()?, [2.0; 4]);
    backward(1.0)?;
    assert_eq!((held.to_vec::<f32>()?, view.to_vec::<f32>()?), (vec![1.0; 4], vec![2.0; 4]));
    assert_eq!(a.grad().unwrap().to_vec::<f32>()?, [2.0; 4]);
    optimizer.zero_grad();
    backward(3.0)?;
    assert_eq!((held.to_vec::<f32>()?, view.to_vec::<f32>()?), (vec![1.0; 4], vec![2.0; 4]));
    // Gradients in and out of their places make one step.
    b.set_grad(Some(filled(&device, &[2, 2], 7)))?;
    let (before, given) = ([bits(&a), bits(&b)], b.grad().unwrap().to_vec::<f32>()?);
    optimizer.step(0.5, None)?;
    let expected = |old: &[u32], g: &[f32]| -> Vec<f32> {
        old.iter().zip(g).map(|(&x, g)| f32::from_bits(x) - 0.5 * g).collect()
    };
    assert_eq!(a.to_vec::<f32>()?, expected(&before[0], &[3.0; 4]));
    assert_eq!(b.to_vec::<f32>()?, expected(&before[1], &given));
    Ok(())
}

#[test]
fn a_missing_gradient_leaves_its_range_alone() -> Result<()> {
    for device in devices() {
        let all: Vec<Tensor> =
            (0..3).map(|salt| filled(&device, &[3, 3], salt).requires_grad()).collect();
        let named = ["a", "b", "c"].into_iter().map(str::to_owned).zip(all.clone()).collect();
        let mut optimizer = Optimizer::new(ADAMW, named)?;
        total(&[&all[0], &all[1], &all[2]])?.backward()?;
        optimizer.step(0.1, None)?;
        optimizer.zero_grad();
        total(&[&all[0], &all[2]])?.backward()?;
        assert!(optimizer.step(0.1, None).unwrap_err().to_string().contains("\"b\""));
        optimizer.may_lack_gradient(&["b"])?;
        let of_b = || {
            let memory = optimizer.memory().into_iter().filter(|m| m.0.ends_with(".b"));
            memory.map(|m| bits(&m.1)).chain([bits(&all[1])]).collect::<Vec<_>>()
        };
        let (before, others) = (of_b(), [bits(&all[0]), bits(&all[2])]);
        let waits = all[1].sqr()?.sum_all()?;
        let clip = clip_grad_norm(optimizer.parameters(), Some(1e3))?;
        optimizer.step(0.1, Some(&clip))?;
        assert_eq!(of_b(), before);
        assert!(bits(&all[0]) != others[0] && bits(&all[2]) != others[1]);
        let squares = 18f64.sqrt() as f32;
        assert!((clip.norm.item()? - squares).abs() < 1e-5);
        // It was not written, so what was saved of it holds.
        waits.backward()?;
    }
    Ok(())
}

fn total(parts: &[&Tensor]) -> Result<Tensor> {
    let mut sum = parts[0].sum_all()?;
    for part in &parts[1..] {
        sum = sum.add(&part.sum_all()?)?;
    }
    Ok(sum)
}

#[test]
fn the_norm_of_what_several_groups_have_counts_every_gradient_once() -> Result<()> {
    let device = cpu();
    let all: Vec<Tensor> =
        (0..3).map(|salt| filled(&device, &[2, 2], salt).requires_grad()).collect();
    let group = |names: &[usize]| Group {
        parameters: names.iter().map(|&i| (i.to_string(), all[i].clone())).collect(),
        rate: 1.0,
        weight_decay: 0.0,
    };
    let optimizer = Optimizer::with_groups(ADAMW, vec![group(&[0]), group(&[1, 2])])?;
    // The first of the second group lacks its gradient: the last one has the next place, elsewhere.
    for (t, x) in [(&all[0], 2.0), (&all[2], 3.0)] {
        t.mul_scalar(x)?.sum_all()?.backward()?;
    }
    let squares = 4.0 * (2.0 * 2.0 + 3.0 * 3.0);
    for order in [[0, 1, 2], [2, 1, 0]] {
        let clip = clip_grad_norm(order.iter().map(|&i| &all[i]), None)?;
        assert!((clip.norm.item()?.powi(2) - squares).abs() < 1e-3, "{order:?}");
    }
    assert!(optimizer.step(0.1, None).is_err());
    Ok(())
}

#[test]
fn a_tied_weight_appears_once_and_shared_memory_is_refused() -> Result<()> {
    let device = cpu();
    let sgd = Rule::Sgd { momentum: 0.0, weight_decay: 0.0 };
    let w = Tensor::from_slice(&device, &[1f32, 2.0], &[1, 2])?.requires_grad();
    let tied = vec![("wte".into(), w.clone()), ("head".into(), w.clone())];
    let optimizer = Optimizer::new(sgd, tied)?;
    assert_eq!(optimizer.parameters().count(), 1);
    w.add(&w.clone())?.sum_all()?.backward()?;
    optimizer.step(0.25, None)?;
    assert_eq!(w.to_vec::<f32>()?, [0.5, 1.5]);
    let group = |name: &str| {
        let parameters = vec![(name.into(), w.clone())];
        Group { parameters, rate: 1.0, weight_decay: 0.0 }
    };
    let twice = Optimizer::with_groups(sgd, vec![group("a"), group("b")]).err().unwrap();
    assert!(twice.to_string().contains("\"a\"") && twice.to_string().contains("\"b\""), "{twice}");
    let other = w.detach().transpose(0, 1)?.requires_grad();
    let shared = vec![("a".into(), w.clone()), ("b".into(), other)];
    let shared = Optimizer::new(sgd, shared).err().unwrap().to_string();
    assert!(shared.contains("share memory"), "{shared}");
    Ok(())
}

#[test]
fn narrow_and_wide_parameters_each_have_their_arena() -> Result<()> {
    let device = cpu();
    let wide: Vec<Tensor> = (0..2).map(|s| filled(&device, &[3, 2], s).requires_grad()).collect();
    let narrow = |salt| -> Result<Tensor> {
        Ok(filled(&device, &[3, 2], salt).to_dtype(DType::BF16)?.contiguous()?.requires_grad())
    };
    let narrow = [narrow(2)?, narrow(3)?];
    // Taken in turns: what is of one type comes together.
    let all = [&wide[0], &narrow[0], &wide[1], &narrow[1]];
    let names = ["a", "b", "c", "d"].map(str::to_owned);
    let optimizer = Optimizer::new(ADAMW, names.into_iter().zip(all.map(Clone::clone)).collect())?;
    let arenas = optimizer.arenas();
    let names = |at: usize| arenas[at].ranges.iter().map(|r| r.0.as_str()).collect::<Vec<_>>();
    assert_eq!((arenas.len(), names(0), names(1)), (2, vec!["a", "c"], vec!["b", "d"]));
    let before: Vec<f32> = narrow[1].to_dtype(DType::F32)?.to_vec()?;
    for t in all {
        t.sqr()?.to_dtype(DType::F32)?.sum_all()?.backward()?;
    }
    let start = device.counters().launches;
    optimizer.step(&Tensor::from_slice(&device, &[0.5f32], &[])?, None)?;
    assert_eq!(device.counters().launches - start, 3);
    // The first step of AdamW moves by the rate against the sign, beside the decay.
    for (x, y) in before.iter().zip(narrow[1].to_vec::<bf16>()?) {
        let want = x * (1.0 - 0.05) - 0.5 * if *x == 0.0 { 0.0 } else { x.signum() };
        assert!((y.to_f32() - want).abs() <= 0.01 * (1.0 + want.abs()), "{x}: {y} and not {want}");
    }
    Ok(())
}

#[test]
fn a_captured_step_that_reads_a_parameter_keeps_reading_it() -> Result<()> {
    let device = cpu();
    let [a, b] = [1, 2].map(|salt| filled(&device, &[2, 2], salt).requires_grad());
    let (list, sum) = device.capture(|| a.detach().sum_all())?;
    let optimizer = Optimizer::new(ADAMW, vec![("a".into(), a.clone()), ("b".into(), b.clone())])?;
    a.add(&b)?.sum_all()?.backward()?;
    optimizer.step(0.5, None)?;
    list.replay()?;
    let now: f32 = a.to_vec::<f32>()?.iter().sum();
    assert!((sum.item()? - now).abs() < 1e-6, "{} and not {now}", sum.item()?);
    Ok(())
}

#[test]
fn optimizers_may_follow_each_other_and_share_parameters() -> Result<()> {
    let device = cpu();
    let model = Model::new(&device, false);
    let tokens = tokens(&device);
    let first = Optimizer::new(ADAMW, model.0.clone())?;
    train(&model, &first, &tokens, Some(1.0))?;
    let second = Optimizer::new(ADAMW, model.0.clone())?;
    let pieces = |o: &Optimizer| o.arenas().into_iter().map(|a| a.ranges).collect::<Vec<_>>();
    assert_eq!(pieces(&first), pieces(&second));
    for optimizer in [&second, &first] {
        let before = model.values();
        train(&model, optimizer, &tokens, Some(1.0))?;
        assert!(model.values().iter().zip(&before).all(|(now, before)| now != before));
    }
    // A part of them: what lies between is none of its business.
    let some: Vec<_> = model.0.iter().filter(|p| p.0 != "up.weight").cloned().collect();
    let third = Optimizer::new(ADAMW, some)?;
    let before = bits(model.get("up.weight"));
    train(&model, &third, &tokens, Some(1.0))?;
    assert_eq!(bits(model.get("up.weight")), before);
    assert_eq!(pieces(&third).len(), 3);
    Ok(())
}

#[test]
fn zeros_between_parameters_stay_zeros() -> Result<()> {
    for eps in [1e-8, 0.0] {
        let model = Model::new(&cpu(), false);
        let rule = Rule::AdamW { beta1: 0.9, beta2: 0.99, eps, weight_decay: 0.1 };
        let optimizer = Optimizer::new(rule, model.0.clone())?;
        for (_, t) in &model.0 {
            t.set_grad(Some(Tensor::ones(t.device(), DType::F32, t.shape())?))?;
        }
        optimizer.step(0.1, None)?;
        for arena in optimizer.arenas() {
            let mut all = arena.parameters.to_vec::<f32>()?;
            assert!(all.iter().all(|x| x.is_finite()));
            arena.ranges.iter().for_each(|(_, range)| all[range.clone()].fill(0.0));
            assert!(all.iter().all(|x| *x == 0.0));
        }
    }
    Ok(())
}

#[test]
fn an_arena_ends_where_a_binding_of_webgpu_does() -> Result<()> {
    let device = cpu();
    let zeros = vec![0f32; 17 << 20];
    let large = || Tensor::from_slice(&device, &zeros, &[1 << 10, 17 << 10]);
    let small = filled(&device, &[2, 2], 1).requires_grad();
    let all = [small, large()?.requires_grad(), large()?.requires_grad()];
    let names = ["a", "b", "c"].map(str::to_owned);
    let rule = Rule::Sgd { momentum: 0.0, weight_decay: 0.0 };
    let optimizer = Optimizer::new(rule, names.into_iter().zip(all).collect())?;
    let arenas = optimizer.arenas();
    assert_eq!(arenas.iter().map(|a| a.ranges.len()).collect::<Vec<_>>(), [2, 1]);
    Ok(())
}
