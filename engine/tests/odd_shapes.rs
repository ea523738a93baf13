//! Shapes that nobody should ask for: every method answers with a value or a typed error, and never
//! with a panic.

use starling_engine::nn::KvCache;
use starling_engine::{
    AttentionOptions, AttentionScore, DType, Device, Math, Result, Tensor, WeightLayout,
};
use starling_ops::defs::Def;
use starling_ops::philox::HostStream;
use starling_ops::{Definition, Gradient, definition};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Numbers that decide what is tried.
struct Dice(HostStream);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        (self.0.uniform() * n as f32) as usize % n
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Mostly small, sometimes beyond all memory.
    fn size(&mut self) -> usize {
        if self.below(12) == 0 {
            return self.pick(&[usize::MAX, usize::MAX / 2, 1 << 63, 1 << 62, usize::MAX - 1]);
        }
        self.pick(&[0, 1, 1, 1, 2, 2, 3, 4])
    }

    fn sizes(&mut self, most: usize) -> Vec<usize> {
        (0..self.below(most + 1)).map(|_| self.size()).collect()
    }

    fn axis(&mut self) -> usize {
        self.pick(&[0, 0, 1, 1, 2, 3, 7, 8, 9, usize::MAX])
    }

    fn signed(&mut self) -> isize {
        self.pick(&[-1, -1, -2, 0, 0, 1, 2, 3, -9, 9, isize::MIN, isize::MAX])
    }

    /// An operand of few elements and up to eight axes, sometimes a view.
    fn tensor(&mut self, device: &Device, dtype: DType) -> Result<Tensor> {
        let rank = self.pick(&[0, 1, 2, 2, 3, 3, 4, 4, 7, 8]);
        let shape: Vec<usize> = (0..rank).map(|_| self.pick(&[0, 1, 1, 2, 2, 3])).collect();
        let t = match self.below(3) {
            0 => Tensor::ones(device, dtype, &shape)?,
            _ => Tensor::ones(device, dtype, &shape)?.contiguous()?,
        };
        let t = match self.below(4) {
            0 if rank > 1 => t.transpose(0, -1)?,
            1 if rank < 8 => t.broadcast_to(&[&[2], &shape[..]].concat())?,
            _ => t,
        };
        Ok(if self.below(2) == 0 { t.requires_grad() } else { t })
    }
}

/// One call with random arguments; its name is noted first.
fn call(dice: &mut Dice, device: &Device, name: &mut String) -> Result<Vec<Tensor>> {
    let dtype =
        dice.pick(&[DType::F32, DType::F32, DType::F32, DType::BF16, DType::I32, DType::U8]);
    let (x, y) = (dice.tensor(device, dtype)?, dice.tensor(device, dtype)?);
    let z = match dice.below(2) {
        0 => dice.tensor(device, dtype)?,
        _ => y.clone(),
    };
    let options = AttentionOptions { causal: dice.below(2) == 0, ..Default::default() };
    let number = dice.below(48);
    let sizes = dice.sizes(10);
    *name = format!("call {number} on {x:?}, {y:?}, {z:?} with {sizes:?}");
    let one = |t: Result<Tensor>| t.map(|t| vec![t]);
    match number {
        0 => one(x.reshape(&sizes)),
        1 => one(x.broadcast_to(&sizes)),
        2 => one(x.unsqueeze(dice.axis())),
        3 => one(x.squeeze(dice.axis())),
        4 => one(x.permute(&sizes)),
        5 => one(x.transpose(dice.signed(), dice.signed())),
        6 => one(x.narrow(dice.axis(), dice.size(), dice.size())),
        7 => one(x.slice(dice.axis(), dice.size(), dice.size(), dice.signed())),
        8 => one(Tensor::cat(&[&x, &y, &z], dice.axis())),
        9 => one(Tensor::stack(&[&x, &y], dice.axis())),
        10 => one(Tensor::stack(&[&x, &x], dice.axis())),
        11 => one(Tensor::full(device, dtype, &sizes, 2.0)),
        12 => one(Tensor::from_slice(device, &[1f32, 2.0], &sizes)),
        13 => one(Tensor::randn(device, &mut dice.0, &sizes, 0.0, 1.0)),
        14 => one(Tensor::rand(device, &mut dice.0, &sizes)),
        15 => one(Tensor::arange(device, dice.size())),
        16 => one(x.matmul(&y)),
        17 => one(x.add(&y)),
        18 => one(x.fma(&y, &z)),
        19 => one(x.gt(&y).and_then(|m| m.select(&y, &z))),
        20 => one(x.sum(&[dice.signed(), dice.signed()], dice.below(2) == 0)),
        21 => one(x.max(&[dice.signed()], false)),
        22 => one(x.var(&[dice.signed()], dice.size() as u32, true)),
        23 => one(x.argmax(dice.signed(), false)),
        24 => one(x.softmax(dice.signed())),
        25 => one(x.layer_norm(Some(&y), Some(&z), 1e-5)),
        26 => one(x.rms_norm(None, 1e-5)),
        27 => one(x.linear(&y, Some(&z), WeightLayout::OutIn, None)),
        28 => one(x.linear(&y, None, WeightLayout::InOut, Definition::find("gelu"))),
        29 => one(x.attention(&y, &z, &options)),
        30 => one(x.attention_packed(dice.size(), dice.size(), &options)),
        31 => one(x.gather(dice.axis(), &dice.tensor(device, DType::I32)?)),
        32 => one(x.embedding(&dice.tensor(device, DType::I32)?)),
        33 => one(x.scatter_add(dice.axis(), &dice.tensor(device, DType::U32)?, &z)),
        34 => one(x.cross_entropy(&dice.tensor(device, DType::I32)?, Some(1))),
        35 => x.split(dice.axis(), &sizes),
        36 => x.chunk(dice.axis(), dice.size()),
        37 => x.unbind(dice.axis()),
        38 => one(x.dropout(0.5)),
        39 => one(x.flatten()?.contiguous()),
        40 => one(x.to_dtype(DType::F16)),
        41 => x.slice_assign(dice.axis(), dice.size(), &y).map(|()| vec![x]),
        42 => x.copy_from_slice(&[1f32, 2.0]).map(|()| vec![x]),
        43 => x.backward_with(&y).map(|()| vec![]),
        44 => x.set_grad(Some(y)).map(|()| x.grad().into_iter().collect()),
        45 => {
            let size = [(); 4].map(|()| dice.size());
            KvCache::new(device, size[0], size[1], size[2], size[3]).map(|_| vec![])
        }
        46 => one(x.broadcast_to(&sizes)?.matmul(&y.broadcast_to(&dice.sizes(10))?)),
        _ => one(x.broadcast_to(&sizes)?.add(&y.broadcast_to(&dice.sizes(10))?)),
    }
}

#[test]
fn no_shape_makes_a_method_panic() {
    let backend = Device::new("cpu").unwrap().backend().clone();
    let device = Device::with_memory_limit(backend, 1 << 24).unwrap();
    let mut tried = [0; 2];
    for seed in 0..40_000 {
        let mut dice = Dice(HostStream::seeded(23, seed));
        let mut name = String::new();
        let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<()> {
            for t in call(&mut dice, &device, &mut name)? {
                t.to_dtype(DType::F32)?.to_vec::<f32>()?;
                if t.dtype().is_float() {
                    // Without a leaf among the operands this is an error.
                    let _ = t.backward_with(&t.detach());
                }
            }
            Ok(())
        }));
        let outcome = outcome.unwrap_or_else(|_| panic!("seed {seed}: {name} panicked"));
        tried[usize::from(outcome.is_ok())] += 1;
    }
    assert!(tried[0] > 5000 && tried[1] > 5000, "{tried:?}");
}

#[test]
fn a_product_of_nothing_may_have_any_number_of_batches() -> Result<()> {
    let device = Device::new("cpu")?;
    let a = Tensor::zeros(&device, DType::F32, &[1 << 40, 0, 3])?;
    let b = Tensor::zeros(&device, DType::F32, &[1, 3, 2])?;
    assert_eq!(a.matmul(&b)?.shape(), [1 << 40, 0, 2]);
    Ok(())
}

#[test]
fn memory_beyond_counting_is_an_error_on_a_planned_device() -> Result<()> {
    let plan = Device::new("cpu")?.planned()?;
    let quarter = Tensor::zeros(&plan, DType::F32, &[1 << 60])?;
    let held: Vec<_> = (0..6).map(|_| quarter.add_scalar(1.0)?.contiguous()).collect();
    assert!(held.iter().any(Result::is_ok) && held.iter().any(Result::is_err));
    for large in [&quarter, &Tensor::zeros(&plan, DType::F32, &[1 << 50])?] {
        assert!(large.to_vec::<f32>().is_err());
        assert!(large.to_device(&Device::new("cpu")?).is_err());
    }
    Ok(())
}

definition! {
    /// A number without an operand.
    number Number() [x = 1.0] Gradient::Derived, |m| x
}

#[test]
fn programs_of_users_that_cannot_run_are_errors() -> Result<()> {
    assert!(Tensor::apply(Number::DEFINITION, &[], &[2.0]).is_err());
    let q = Tensor::ones(&Device::new("cpu")?, DType::F32, &[1, 1, 2, 2])?;
    for leaf in [0, 1, 2] {
        let score = AttentionScore::new(&[], |t, terms, _| match leaf {
            0 => t.input(9),
            1 => t.add(terms.product, t.param(0)),
            _ => t.add(terms.product, t.to_real(t.index())),
        });
        let options = AttentionOptions { score: Some(score), ..Default::default() };
        let error = q.attention(&q, &q, &options).unwrap_err().to_string();
        assert!(error.contains("a score is computed from its terms"), "{error}");
    }
    Ok(())
}

#[test]
fn an_ignored_class_that_f32_cannot_name_is_refused() -> Result<()> {
    let device = Device::new("cpu")?;
    let classes = (1 << 24) + 4;
    // Nothing is computed.
    let logits = Tensor::zeros(&device, DType::F32, &[2, classes])?;
    let targets = Tensor::from_slice(&device, &[1i32 << 24, (1 << 24) + 1], &[2])?;
    let error = logits.cross_entropy(&targets, Some((1 << 24) + 1)).unwrap_err().to_string();
    assert!(error.contains("2^24"), "{error}");
    Ok(())
}
