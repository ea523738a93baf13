//! Gradients of the engine's operations against central differences.
//!
//! The reference backend accumulates in f64 and rounds once, so with steps of 1e-2 the differences
//! are good to about 1e-4. Every other device must give the reference's gradients.

use starling_contract::Backend;
use starling_engine::{
    AttentionBlocks, AttentionOptions, AttentionScore, DType, Device, Error, Result,
    SequenceLengths, Tensor, WeightLayout, checkpoint, no_grad,
};
use starling_ops::defs::{Def, Definition};
use starling_ops::philox::HostStream;
use starling_ops::{Gradient, definition};
use std::sync::{Arc, OnceLock};

fn reference() -> Device {
    let backend: Arc<dyn Backend> = Arc::new(starling_reference::ReferenceBackend::new());
    Device::from_backend(backend).unwrap()
}

/// The devices whose gradients are compared with the reference's.
fn others() -> &'static [Device] {
    static OTHERS: OnceLock<Vec<Device>> = OnceLock::new();
    OTHERS.get_or_init(|| ["cpu", "webgpu:0"].map(|name| Device::new(name).unwrap()).into())
}

/// The gradients of `f`, summed with random weights to a scalar.
fn gradients(
    device: &Device,
    data: &[Vec<f32>],
    shapes: &[&[usize]],
    f: &impl Fn(&[Tensor]) -> Result<Tensor>,
) -> Result<Vec<Option<Vec<f32>>>> {
    let leaf =
        |(d, s): (&Vec<f32>, &&[usize])| Ok(Tensor::from_slice(device, d, s)?.requires_grad());
    let leaves = data.iter().zip(shapes).map(leaf).collect::<Result<Vec<Tensor>>>()?;
    let y = f(&leaves)?;
    let w = Tensor::from_slice(device, &values(y.shape(), 99), y.shape())?;
    y.mul(&w)?.sum_all()?.backward()?;
    let gradient = |leaf: &Tensor| match leaf.grad() {
        Some(g) => {
            assert_eq!(g.shape(), leaf.shape());
            g.to_vec::<f32>().map(Some)
        }
        None => Ok(None),
    };
    leaves.iter().map(gradient).collect()
}

fn values(shape: &[usize], seed: u32) -> Vec<f32> {
    let mut stream = HostStream::seeded(11, seed);
    (0..shape.iter().product::<usize>()).map(|_| stream.uniform() * 2.0 - 1.0).collect()
}

/// Compares the gradients of `f` with differences, and those of other devices with them.
fn check(name: &str, shapes: &[&[usize]], f: impl Fn(&[Tensor]) -> Result<Tensor>) {
    let device = reference();
    let data: Vec<Vec<f32>> = shapes.iter().enumerate().map(|(i, s)| values(s, i as u32)).collect();
    let tensors = |data: &[Vec<f32>]| -> Vec<Tensor> {
        data.iter().zip(shapes).map(|(d, s)| Tensor::from_slice(&device, d, s).unwrap()).collect()
    };
    let truth = gradients(&device, &data, shapes, &f).unwrap();
    for other in others() {
        let found = gradients(other, &data, shapes, &f);
        let found = found.unwrap_or_else(|e| panic!("{name} on {}: {e}", other.name()));
        for (i, (truth, found)) in truth.iter().zip(&found).enumerate() {
            let pairs = truth.iter().flatten().zip(found.iter().flatten());
            assert_eq!(truth.is_some(), found.is_some(), "{name}: input {i} on {}", other.name());
            for (t, g) in pairs {
                let close = (t - g).abs() <= 2e-5 * (1.0 + t.abs());
                assert!(close, "{name}: input {i} on {}: {g} and not {t}", other.name());
            }
        }
    }
    let value = |data: &[Vec<f32>]| -> f64 {
        no_grad(|| {
            let y = f(&tensors(data)).unwrap();
            let w = values(y.shape(), 99);
            y.to_vec::<f32>()
                .unwrap()
                .iter()
                .zip(w)
                .map(|(&a, b)| f64::from(a) * f64::from(b))
                .sum()
        })
    };
    for (i, gradient) in truth.into_iter().enumerate() {
        let gradient = gradient.unwrap_or_else(|| panic!("{name}: input {i} has no gradient"));
        for (j, g) in gradient.into_iter().enumerate() {
            let h = 1e-2f32;
            let at = |x: f32| {
                let mut moved = data.clone();
                moved[i][j] = x;
                value(&moved)
            };
            let x = data[i][j];
            let numeric = (at(x + h) - at(x - h)) / f64::from((x + h) - (x - h));
            let error = (numeric - f64::from(g)).abs();
            assert!(
                error <= 2e-3 * (1.0 + numeric.abs()),
                "{name}: input {i}[{j}]: {g} and not {numeric}"
            );
        }
    }
}

#[test]
fn elementwise_with_broadcast() {
    check("mul", &[&[3, 4], &[4]], |t| t[0].mul(&t[1]));
    check("div", &[&[2, 1, 3], &[4, 1]], |t| t[0].div(&t[1].add_scalar(3.0)?));
    check("sub", &[&[3], &[2, 3]], |t| t[0].sub(&t[1]));
    check("chain", &[&[3, 4], &[4], &[3, 1]], |t| {
        t[0].mul(&t[1])?.gelu()?.add(&t[2])?.tanh()?.mul(&t[0])?.sigmoid()
    });
    check("select", &[&[5], &[5]], |t| {
        let mask = t[0].detach().gt(&t[1].detach())?;
        mask.select(&t[0].sqr()?, &t[1].exp()?)
    });
    check("masked_fill", &[&[5]], |t| {
        t[0].masked_fill(&t[0].detach().gt(&t[0].zeros_like()?)?, 3.0)
    });
}

#[test]
fn views() {
    check("reshape", &[&[2, 6]], |t| t[0].reshape(&[3, 4])?.sqr());
    check("permute", &[&[2, 3, 4]], |t| t[0].permute(&[2, 0, 1])?.sqr());
    check("reshape of a permuted", &[&[2, 3]], |t| t[0].transpose(0, 1)?.reshape(&[6])?.sqr());
    check("slice", &[&[5, 3]], |t| t[0].slice(0, 4, 2, -2)?.sqr());
    check("broadcast_to", &[&[3, 1]], |t| t[0].sqr()?.broadcast_to(&[2, 3, 4]));
    check("cat", &[&[2, 3], &[2, 1]], |t| Tensor::cat(&[&t[0], &t[1], &t[0]], 1)?.sqr());
    check("stack", &[&[3], &[3]], |t| Tensor::stack(&[&t[0], &t[1]], 1)?.sqr());
}

#[test]
fn reductions() {
    check("sum", &[&[3, 4]], |t| t[0].sqr()?.sum(&[0], false));
    check("mean", &[&[3, 4, 2]], |t| t[0].sqr()?.mean(&[0, -1], true));
    check("max", &[&[3, 4]], |t| t[0].max(&[1], false));
    check("min", &[&[3, 4]], |t| t[0].min(&[0], false));
    check("var", &[&[3, 4]], |t| t[0].var(&[1], 1, false));
}

#[test]
fn products() {
    check("matmul", &[&[3, 4], &[4, 2]], |t| t[0].matmul(&t[1]));
    check("batched", &[&[2, 3, 4], &[4, 2]], |t| t[0].matmul(&t[1]));
    check("batch broadcast", &[&[1, 3, 4], &[2, 4, 2]], |t| t[0].matmul(&t[1]));
    check("shared matrix", &[&[2, 3, 2, 4], &[4, 2]], |t| t[0].matmul(&t[1]));
    check("shared operands", &[&[2, 1, 3, 4], &[1, 3, 4, 2]], |t| t[0].matmul(&t[1]));
    check("fewer axes", &[&[3, 4], &[2, 4, 2]], |t| t[0].matmul(&t[1]));
    check("transposed", &[&[4, 2, 3], &[2, 4]], |t| {
        t[0].permute(&[1, 2, 0])?.matmul(&t[1].transpose(0, 1)?)
    });
    check("vector", &[&[4], &[4, 2]], |t| t[0].matmul(&t[1]));
    check("dot", &[&[4], &[4]], |t| t[0].matmul(&t[1]));
    let gelu = Definition::find("gelu_tanh");
    for layout in [WeightLayout::InOut, WeightLayout::OutIn] {
        let shape: &[usize] = if layout == WeightLayout::InOut { &[4, 3] } else { &[3, 4] };
        check("linear", &[&[2, 2, 4], shape, &[3]], |t| {
            t[0].linear(&t[1], Some(&t[2]), layout, None)
        });
        check("linear with gelu", &[&[2, 2, 4], shape, &[3]], |t| {
            t[0].linear(&t[1], Some(&t[2]), layout, gelu)
        });
        check("linear without bias", &[&[2, 4], shape], |t| t[0].linear(&t[1], None, layout, gelu));
    }
}

#[test]
fn rows() {
    check("softmax", &[&[2, 5]], |t| t[0].softmax(-1));
    check("softmax over the first axis", &[&[3, 2]], |t| t[0].softmax(0));
    check("log_softmax", &[&[2, 5]], |t| t[0].log_softmax(1));
    check("layer_norm", &[&[2, 6], &[6], &[6]], |t| {
        t[0].mul_scalar(3.0)?.layer_norm(Some(&t[1]), Some(&t[2]), 1e-5)
    });
    check("rms_norm", &[&[2, 6], &[6]], |t| t[0].rms_norm(Some(&t[1]), 1e-5));
    check("cross_entropy", &[&[4, 5]], |t| {
        let targets = Tensor::from_slice(t[0].device(), &[0i32, -100, 4, 2], &[4])?;
        t[0].cross_entropy(&targets, Some(-100))
    });
}

#[test]
fn attention() {
    let causal = AttentionOptions { causal: true, ..Default::default() };
    check("attention", &[&[1, 2, 3, 4], &[1, 1, 5, 4], &[1, 1, 5, 4]], |t| {
        t[0].attention(&t[1], &t[2], &causal)
    });
    check("packed attention", &[&[2, 3, 4 * 4]], |t| t[0].attention_packed(2, 1, &causal));
}

#[test]
fn a_mask_that_requires_a_gradient_does_not_lose_it() {
    let device = reference();
    let make = |shape: &[usize]| Tensor::from_slice(&device, &values(shape, 1), shape).unwrap();
    let half = make(&[3, 3]).to_dtype(starling_engine::DType::BF16).unwrap().requires_grad();
    let options = AttentionOptions { mask: Some(half), ..Default::default() };
    let heads = make(&[1, 2, 3, 4]);
    assert!(heads.attention(&heads, &heads, &options).is_err());
    // Masks that broadcast, and one that is itself a result.
    for shape in [&[3, 5][..], &[2, 3, 1], &[2, 1, 1, 5], &[2, 2, 3, 5], &[1]] {
        let operands: [&[usize]; 4] = [&[2, 2, 3, 4], &[2, 1, 5, 4], &[2, 1, 5, 4], shape];
        check(&format!("attention's mask {shape:?}"), &operands, |t| {
            let mask = Some(t[3].add_scalar(0.25)?);
            let options = AttentionOptions { causal: true, mask, ..Default::default() };
            t[0].attention(&t[1], &t[2], &options)
        });
    }
    check("a packed mask", &[&[2, 3, 4 * 4], &[3, 3]], |t| {
        let options = AttentionOptions { mask: Some(t[1].clone()), ..Default::default() };
        t[0].attention_packed(2, 1, &options)
    });
}

#[test]
fn attention_options() {
    let operands: [&[usize]; 4] = [&[2, 2, 3, 4], &[2, 1, 5, 4], &[2, 1, 5, 4], &[2]];
    let whole =
        |t: &Tensor, data: &[i32], shape: &[usize]| Tensor::from_slice(t.device(), data, shape);
    check("attention over key lengths, in a window", &operands[..3], |t| {
        let lengths = SequenceLengths::Keys(whole(&t[0], &[5, 2], &[2])?);
        let causal = true;
        let options = AttentionOptions { causal, lengths, window: Some(2), ..Default::default() };
        t[0].attention(&t[1], &t[2], &options)
    });
    check("attention of packed sequences with slopes", &operands, |t| {
        let queries = whole(&t[0], &[0, 2, 3, 0, 1, 3], &[2, 3])?;
        let keys = whole(&t[0], &[0, 3, 5, 0, 1, 4], &[2, 3])?;
        let lengths = SequenceLengths::Packed { queries, keys };
        let score = Some(AttentionScore::linear_bias(&t[3])?);
        let options = AttentionOptions { lengths, score, ..Default::default() };
        t[0].attention(&t[1], &t[2], &options)
    });
    check("attention with a soft cap in blocks", &operands[..3], |t| {
        let keep = Tensor::from_slice(t[0].device(), &[1u8, 0, 0, 1, 1, 1], &[2, 3])?;
        let blocks = Some(AttentionBlocks { keep, size: [2, 2] });
        let score = Some(AttentionScore::soft_cap(0.5));
        t[0].attention(&t[1], &t[2], &AttentionOptions { blocks, score, ..Default::default() })
    });
    check("attention with dropout", &operands[..3], |t| {
        t[0].device().seed(3)?;
        let options = AttentionOptions { dropout: 0.25, ..Default::default() };
        t[0].attention(&t[1], &t[2], &options)
    });
    let device = reference();
    let x = Tensor::from_slice(&device, &values(&[1, 1, 2, 4], 1), &[1, 1, 2, 4]).unwrap();
    let options = AttentionOptions { dropout: 1.0, ..Default::default() };
    assert!(x.attention(&x, &x, &options).is_err());
}

#[test]
fn indices() {
    check("embedding", &[&[4, 3]], |t| {
        let ids = Tensor::from_slice(t[0].device(), &[1u32, 3, 1, 0, 1, 2], &[2, 3])?;
        t[0].embedding(&ids)?.sqr()
    });
    check("gather", &[&[2, 3]], |t| {
        let index = Tensor::from_slice(t[0].device(), &[0i32, 2, 2, 1], &[2, 2])?;
        t[0].gather(1, &index)?.sqr()
    });
    check("scatter_add", &[&[3], &[4]], |t| {
        let index = Tensor::from_slice(t[0].device(), &[0i32, 2, 2, 1], &[4])?;
        t[0].scatter_add(0, &index, &t[1])?.sqr()
    });
}

#[test]
fn recomputation_gives_the_same_gradients() {
    let block = |t: &[Tensor]| t[0].matmul(&t[1])?.gelu()?.matmul(&t[1]);
    check("checkpoint", &[&[2, 3], &[3, 3]], |t| checkpoint(block, t));
    // With dropout the numbers drawn again must be those of the forward pass.
    let device = reference();
    device.seed(5).unwrap();
    let x = Tensor::from_slice(&device, &values(&[8, 8], 0), &[8, 8]).unwrap().requires_grad();
    let y = checkpoint(|t| t[0].dropout(0.5), std::slice::from_ref(&x)).unwrap();
    let kept: Vec<bool> = y.to_vec::<f32>().unwrap().iter().map(|&v| v != 0.0).collect();
    y.sum_all().unwrap().backward().unwrap();
    let g = x.grad().unwrap().to_vec::<f32>().unwrap();
    assert!(g.iter().zip(&kept).all(|(&g, &k)| g == if k { 2.0 } else { 0.0 }));
    assert!(kept.contains(&true) && kept.contains(&false));
}

definition! {
    /// `|x|`, whose author knows of no gradient.
    opaque Opaque(x: Real) [] Gradient::NotDifferentiable("nobody worked it out"), |m| m.abs(x)
}

#[test]
fn a_layers_activation_without_a_gradient_says_so_too() {
    let device = reference();
    let x = Tensor::ones(&device, DType::F32, &[2, 3]).unwrap().requires_grad();
    let w = Tensor::ones(&device, DType::F32, &[3, 2]).unwrap();
    let alone = Tensor::apply(Opaque::DEFINITION, &[&x], &[]).unwrap();
    let layer = x.linear(&w, None, WeightLayout::InOut, Some(Opaque::DEFINITION)).unwrap();
    for y in [alone, layer] {
        let error = y.sum_all().unwrap().backward();
        assert!(matches!(error, Err(Error::NotDifferentiable { .. })), "{error:?}");
    }
    assert!(x.grad().is_none());
}

#[test]
fn what_has_no_gradient_says_so() {
    let device = reference();
    let x = Tensor::from_slice(&device, &[1f32, 2.0], &[2]).unwrap().requires_grad();
    // What depends on integers that require a gradient.
    let whole = Tensor::from_slice(&device, &[1i32, 2], &[2]).unwrap().requires_grad();
    let sum = whole.to_dtype(starling_engine::DType::F32).unwrap().add(&x).unwrap().sum_all();
    let error = sum.unwrap().backward();
    assert!(matches!(error, Err(Error::NotDifferentiable { .. })), "{error:?}");
    let error = x.detach().sum_all().unwrap().backward();
    assert!(matches!(error, Err(Error::Backward(_))), "{error:?}");
    let y = x.sqr().unwrap().sum_all().unwrap();
    y.backward().unwrap();
    assert!(matches!(y.backward(), Err(Error::Backward(_))));
}

#[test]
fn gradients_add_up_and_overwritten_values_are_noticed() {
    let device = reference();
    let x = Tensor::from_slice(&device, &[3f32], &[1]).unwrap().requires_grad();
    for _ in 0..2 {
        x.sqr().unwrap().backward().unwrap();
    }
    assert_eq!(x.grad().unwrap().item().unwrap(), 12.0);
    let y = x.sqr().unwrap().sum_all().unwrap();
    x.copy_from_slice(&[5f32]).unwrap();
    assert!(matches!(y.backward(), Err(Error::Modified { .. })));
}

#[test]
fn pending_readers_see_the_value_from_before_an_in_place_write() {
    let device = reference();
    let x = Tensor::from_slice(&device, &[3f32], &[1]).unwrap();
    let lazy = x.add_scalar(1.0).unwrap().mul_scalar(2.0).unwrap();
    x.copy_from_slice(&[100f32]).unwrap();
    assert_eq!(lazy.item().unwrap(), 8.0);
    assert_eq!(x.item().unwrap(), 100.0);
}

#[test]
fn a_graph_a_hundred_thousand_operations_deep_neither_overflows_nor_leaks() {
    let device = reference();
    let x = Tensor::from_slice(&device, &[1f32], &[1]).unwrap().requires_grad();
    let mut y = x.clone();
    for _ in 0..100_000 {
        y = y.add_scalar(1e-5).unwrap();
    }
    y.backward().unwrap();
    assert_eq!(x.grad().unwrap().item().unwrap(), 1.0);
    let mut y = x.clone();
    for _ in 0..100_000 {
        y = y.add_scalar(1e-5).unwrap();
    }
    drop(y);
}
