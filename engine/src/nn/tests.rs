use super::*;
use crate::device::Device;
use crate::error::Result;
use crate::tensor::WeightLayout;
use starling_ops::Definition;

fn fresh() -> Fresh {
    Fresh::new(&Device::new("cpu").unwrap(), 3)
}

fn numbers(source: &dyn Source, shape: &[usize]) -> Tensor {
    let n: usize = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|i| ((i * 37 % 19) as f32 - 9.0) * 0.1).collect();
    Tensor::from_slice(source.device(), &data, shape).unwrap()
}

fn names(module: &dyn Module) -> Vec<String> {
    module.parameters().into_iter().map(|p| p.0).collect()
}

fn close(a: &Tensor, b: &Tensor) {
    assert_eq!(a.shape(), b.shape());
    let (a, b) = (a.to_vec::<f32>().unwrap(), b.to_vec::<f32>().unwrap());
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
}

#[test]
fn both_weight_layouts_are_the_same_layer() -> Result<()> {
    let mut source = fresh();
    let normal = Init::Normal(0.5);
    let a = Linear::new(&mut source, "a", [3, 5], WeightLayout::InOut, normal, true)?;
    let b = Linear::new(&mut source, "b", [3, 5], WeightLayout::OutIn, normal, true)?;
    let [(_, wa), (_, ba)] = <[_; 2]>::try_from(a.parameters()).unwrap();
    let [(_, wb), (_, bb)] = <[_; 2]>::try_from(b.parameters()).unwrap();
    assert_eq!((wa.shape(), wb.shape()), (&[3, 5][..], &[5, 3][..]));
    wb.copy_from_slice(&wa.detach().transpose(0, 1)?.to_vec::<f32>()?)?;
    for bias in [ba, bb] {
        bias.copy_from_slice(&[0.1f32, 0.2, 0.3, 0.4, 0.5])?;
    }
    let x = numbers(&source, &[2, 4, 3]);
    close(&a.forward(&x)?, &b.forward(&x)?);
    assert_eq!(a.forward(&x)?.shape(), [2, 4, 5]);
    let gelu = Definition::find("gelu").unwrap();
    close(&a.forward_then(&x, gelu)?, &a.forward(&x)?.gelu()?);
    Ok(())
}

#[test]
fn every_parameter_is_named_once_and_gets_a_gradient() -> Result<()> {
    let mut source = fresh();
    let normal = Init::Normal(0.1);
    let mut linear = |name: &str, sizes: [usize; 2]| {
        Linear::new(&mut source, name, sizes, WeightLayout::InOut, normal, true)
    };
    let (qkv, out) = (linear("qkv", [8, 24])?, linear("out", [8, 8])?);
    let (up, down) = (linear("up", [8, 16])?, linear("down", [16, 8])?);
    let relu = Definition::find("relu").unwrap();
    let attention = CausalSelfAttention::new(qkv, out, 2, None, ["qkv", "out"]);
    let mlp = Mlp::new(up, down, relu, ["up", "down"]);
    let norm = LayerNorm::new(&mut source, "norm", 8, 1e-5)?;
    let rms = RmsNorm::new(&mut source, "rms", 8, 1e-5)?;
    let table = Embedding::new(&mut source, "table", [5, 8], normal)?;
    let ids = Tensor::from_slice(source.device(), &[0i32, 3, 4, 1, 2, 2], &[2, 3])?;
    let x = table.forward(&ids)?.add(&table.rows(1, 3)?)?;
    let x = mlp.forward(&norm.forward(&attention.forward(&x, Mode::Eval)?)?)?;
    table.logits(&rms.forward(&x)?)?.sqr()?.sum_all()?.backward()?;
    assert_eq!(names(&attention), ["qkv.weight", "qkv.bias", "out.weight", "out.bias"]);
    assert_eq!(names(&mlp), ["up.weight", "up.bias", "down.weight", "down.bias"]);
    assert_eq!(names(&rms), ["weight"]);
    for module in [&attention as &dyn Module, &mlp, &norm, &rms, &table] {
        for (name, tensor) in module.parameters() {
            let gradient = tensor.grad().map(|g| g.to_vec::<f32>().unwrap());
            let gradient = gradient.unwrap_or_else(|| panic!("{name} has no gradient"));
            assert!(gradient.iter().any(|g| *g != 0.0) || name == "qkv.bias", "{name}");
        }
    }
    Ok(())
}

#[test]
fn dropout_works_in_training_only_and_follows_the_seed() -> Result<()> {
    let source = fresh();
    let (x, dropout) = (numbers(&source, &[1000]).abs()?.add_scalar(1.0)?, Dropout::new(0.25)?);
    close(&dropout.forward(&x, Mode::Eval)?, &x);
    let drop = |seed: u64| -> Result<Vec<f32>> {
        source.device().seed(seed)?;
        dropout.forward(&x, Mode::Train)?.to_vec()
    };
    let (a, b) = (drop(1)?, drop(2)?);
    assert_eq!(a, drop(1)?);
    assert_ne!(a, b);
    let zeros = a.iter().filter(|v| **v == 0.0).count();
    assert!((200..300).contains(&zeros), "{zeros}");
    let whole = x.to_vec::<f32>()?;
    assert!(a.iter().zip(&whole).all(|(a, x)| *a == 0.0 || (a - x / 0.75).abs() < 1e-5));
    for p in [1.0, -0.1, f64::NAN] {
        assert!(Dropout::new(p).is_err());
    }
    Ok(())
}

#[test]
fn a_full_cache_is_refused() -> Result<()> {
    let mut source = fresh();
    let mut linear = |sizes: [usize; 2]| {
        Linear::new(&mut source, "x", sizes, WeightLayout::InOut, Init::Normal(0.1), true)
    };
    let (qkv, out) = (linear([8, 24])?, linear([8, 8])?);
    let attention = CausalSelfAttention::new(qkv, out, 2, None, ["qkv", "out"]);
    let cache = KvCache::new(source.device(), 1, 2, 4, 4)?;
    assert_eq!(cache.capacity(), 4);
    let x = numbers(&source, &[1, 3, 8]);
    let cached = crate::no_grad(|| attention.forward_cached(&x, &cache, 0))?;
    close(&cached, &attention.forward(&x, Mode::Eval)?);
    let error = crate::no_grad(|| attention.forward_cached(&x, &cache, 3)).unwrap_err();
    assert!(error.to_string().contains("6 tokens"), "{error}");
    Ok(())
}
