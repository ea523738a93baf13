//! What the graph keeps: gradients at its edges, in their dtype, in little memory.

use half::bf16;
use starling_contract::Backend;
use starling_engine::{
    AttentionOptions, Backward, DType, Device, Error, Operation, Result, Tensor, WeightLayout,
    checkpoint, no_grad,
};
use std::sync::Arc;

fn reference() -> Device {
    let backend: Arc<dyn Backend> = Arc::new(starling_reference::ReferenceBackend::new());
    Device::from_backend(backend).unwrap()
}

fn vector(device: &Device, data: &[f32]) -> Tensor {
    Tensor::from_slice(device, data, &[data.len()]).unwrap()
}

fn narrow(device: &Device, data: &[f32]) -> Tensor {
    let data: Vec<bf16> = data.iter().map(|&x| bf16::from_f32(x)).collect();
    Tensor::from_slice(device, &data, &[data.len()]).unwrap()
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().to_vec().unwrap()
}

fn gradient(leaf: &Tensor) -> Vec<f32> {
    let gradient = leaf.grad().unwrap_or_else(|| panic!("{leaf:?} has no gradient"));
    assert_eq!((gradient.dtype(), gradient.shape()), (leaf.dtype(), leaf.shape()));
    numbers(&gradient)
}

#[test]
fn requires_grad_on_a_result_keeps_the_graph_and_shows_its_gradient() -> Result<()> {
    let device = reference();
    let x = vector(&device, &[1.0, 2.0]).requires_grad();
    let y = x.sqr()?.requires_grad();
    let z = y.mul_scalar(3.0)?;
    z.sum_all()?.backward()?;
    assert_eq!(gradient(&y), [3.0, 3.0]);
    assert_eq!(gradient(&x), [6.0, 12.0]);
    assert!(z.grad().is_none());
    // Once more on a leaf changes nothing either: it is the same leaf.
    assert_eq!(gradient(&x.requires_grad()), [6.0, 12.0]);
    Ok(())
}

#[test]
fn what_is_written_in_place_is_no_silent_cut() -> Result<()> {
    let device = reference();
    let x = vector(&device, &[1.0, 2.0]).requires_grad();
    let room = vector(&device, &[0.0; 4]);
    let error = room.slice_assign(0, 0, &x.sqr()?);
    assert!(matches!(error, Err(Error::Backward(_))), "{error:?}");
    no_grad(|| room.slice_assign(0, 0, &x))?;
    room.slice_assign(0, 2, &x.detach())?;
    assert_eq!(numbers(&room), [1.0, 2.0, 1.0, 2.0]);
    // The value of a result follows from its operands; that of a leaf is free.
    let y = x.sqr()?;
    assert!(matches!(y.copy_from_slice(&[5f32, 5.0]), Err(Error::Backward(_))));
    let error = y.slice_assign(0, 0, &vector(&device, &[5.0]));
    assert!(matches!(error, Err(Error::Backward(_))), "{error:?}");
    assert_eq!(numbers(&y), [1.0, 4.0]);
    x.copy_from_slice(&[3f32, 4.0])?;
    x.slice_assign(0, 1, &vector(&device, &[5.0]))?;
    x.sqr()?.sum_all()?.backward()?;
    assert_eq!(gradient(&x), [6.0, 10.0]);
    Ok(())
}

#[test]
fn a_checkpoint_finds_the_parameters_that_it_uses() -> Result<()> {
    let device = reference();
    let table = Tensor::from_slice(&device, &[1f32, 2.0, 3.0, 4.0], &[2, 2])?;
    let ids = Tensor::from_slice(&device, &[1i32, 0], &[2])?;
    let frozen = table.embedding(&ids)?;
    let adapter = Tensor::from_slice(&device, &[1f32, 0.0, 0.5, -1.0], &[2, 2])?.requires_grad();
    let block = |x: &Tensor, w: &Tensor| x.matmul(w)?.tanh()?.matmul(w);
    block(&frozen, &adapter)?.sum_all()?.backward()?;
    let plain = gradient(&adapter);
    adapter.zero_grad();
    let w = adapter.clone();
    let y = checkpoint(move |t| block(&t[0], &w), std::slice::from_ref(&frozen))?;
    y.sum_all()?.backward()?;
    assert_eq!(gradient(&adapter), plain);
    Ok(())
}

#[test]
fn checkpoints_nest_and_share_parameters_and_results() -> Result<()> {
    let device = reference();
    let x = vector(&device, &[0.3, -0.7]);
    let w = vector(&device, &[0.9, 1.1]).requires_grad();
    let run = |deep: bool| -> Result<Vec<f32>> {
        w.zero_grad();
        // A result of the outer graph is captured too.
        let scaled = w.mul_scalar(2.0)?;
        let inner = {
            let (w, scaled) = (w.clone(), scaled.clone());
            move |t: &[Tensor]| t[0].mul(&w)?.tanh()?.mul(&scaled)
        };
        let outer = {
            let w = w.clone();
            move |t: &[Tensor]| {
                let middle = match deep {
                    true => checkpoint(inner.clone(), t)?,
                    false => inner(t)?,
                };
                middle.add(&w)?.sqr()?.mul(&w)
            }
        };
        let y = match deep {
            true => checkpoint(outer, std::slice::from_ref(&x))?,
            false => outer(std::slice::from_ref(&x))?,
        };
        y.mul(&w)?.mul(&scaled)?.sum_all()?.backward()?;
        Ok(gradient(&w))
    };
    let (plain, deep) = (run(false)?, run(true)?);
    for (a, b) in plain.iter().zip(&deep) {
        assert!((a - b).abs() <= 1e-6 * a.abs(), "{plain:?} and {deep:?}");
    }
    Ok(())
}

#[test]
fn a_checkpoint_without_inputs_draws_the_same_random_numbers_again() -> Result<()> {
    let device = reference();
    device.seed(3)?;
    let w = vector(&device, &[1.0; 64]).requires_grad();
    let captured = w.clone();
    let y = checkpoint(move |_| captured.dropout(0.5)?.dropout(0.25), &[])?;
    // Others draw between.
    let other = w.detach().dropout(0.5)?;
    let (kept, _) = (numbers(&y), numbers(&other));
    y.sum_all()?.backward()?;
    assert_eq!(gradient(&w), kept);
    assert!(kept.contains(&0.0) && kept.iter().any(|&x| x > 0.0));
    Ok(())
}

#[test]
fn attention_in_a_checkpoint_drops_the_same_weights_again() -> Result<()> {
    let device = reference();
    let data: Vec<f32> = (0..96).map(|i| ((i * 7) % 11) as f32 / 11.0).collect();
    let gradient_of_values = |again: bool| -> Result<Vec<f32>> {
        device.seed(1)?;
        let packed = Tensor::from_slice(&device, &data, &[1, 8, 12])?.requires_grad();
        let attend = |t: &[Tensor]| {
            let options = AttentionOptions { dropout: 0.5, ..Default::default() };
            t[0].attention_packed(1, 1, &options)
        };
        let inputs = std::slice::from_ref(&packed);
        let y = if again { checkpoint(attend, inputs)? } else { attend(inputs)? };
        y.sum_all()?.backward()?;
        Ok(gradient(&packed))
    };
    assert_eq!(gradient_of_values(true)?, gradient_of_values(false)?);
    Ok(())
}

#[test]
fn a_checkpoint_notices_that_a_parameter_was_overwritten() -> Result<()> {
    let device = reference();
    let w = vector(&device, &[1.0]).requires_grad();
    let captured = w.clone();
    let y = checkpoint(move |_| captured.sqr(), &[])?;
    w.copy_from_slice(&[2f32])?;
    assert!(matches!(y.backward(), Err(Error::Modified { .. })));
    Ok(())
}

#[test]
fn a_checkpoint_sees_no_parameter_behind_no_grad_or_detach() -> Result<()> {
    let device = reference();
    let w = vector(&device, &[2.0]).requires_grad();
    let v = vector(&device, &[3.0]).requires_grad();
    let (a, b) = (w.clone(), v.clone());
    let y = checkpoint(move |_| no_grad(|| a.sqr())?.mul(&a.detach())?.mul(&b), &[])?;
    y.backward()?;
    assert!(w.grad().is_none());
    assert_eq!(gradient(&v), [8.0]);
    Ok(())
}

#[test]
fn comparisons_and_steps_are_outside_the_graph() -> Result<()> {
    let device = reference();
    let x = vector(&device, &[1.0, -2.0, 3.5]).requires_grad();
    let y = vector(&device, &[0.5, 1.0, 4.0]).requires_grad();
    let picked = x.gt(&y)?.select(&x.sqr()?, &y.mul_scalar(3.0)?)?;
    picked.sum_all()?.backward()?;
    assert_eq!(gradient(&x), [2.0, 0.0, 0.0]);
    assert_eq!(gradient(&y), [0.0, 3.0, 3.0]);
    x.zero_grad();
    // x - floor(x), whose slope is 1, and positions.
    let index = x.argmax(0, true)?;
    let fraction = x.sub(&x.floor()?)?.add(&x.gather(0, &index)?.round()?)?;
    fraction.sum_all()?.backward()?;
    assert_eq!(gradient(&x), [1.0, 1.0, 1.0]);
    for outside in [x.floor()?, x.round()?, x.le(&y)?.to_dtype(DType::F32)?] {
        let error = outside.sum_all()?.backward();
        assert!(matches!(error, Err(Error::Backward(_))), "{error:?}");
    }
    Ok(())
}

#[test]
fn narrow_values_have_narrow_gradients() -> Result<()> {
    let device = reference();
    let x = narrow(&device, &[1.0, 3.0, 3.0, -2.0]).requires_grad();
    type Case = (&'static str, fn(&Tensor) -> Result<Tensor>, [f32; 4]);
    let cases: [Case; 8] = [
        ("max", |x| x.max(&[0], false), [0.0, 0.5, 0.5, 0.0]),
        ("min", |x| x.min(&[0], false), [0.0, 0.0, 0.0, 1.0]),
        ("var", |x| x.var(&[0], 0, false), [-0.125, 0.875, 0.875, -1.625]),
        ("mean", |x| x.mean(&[0], false), [0.25; 4]),
        ("twice", |x| x.mul(x)?.sum_all(), [2.0, 6.0, 6.0, -4.0]),
        ("two ways", |x| x.sum_all()?.add(&x.exp()?.log()?.sum_all()?), [2.0; 4]),
        (
            "gather",
            |x| x.embedding(&Tensor::from_slice(x.device(), &[1i32, 1], &[2])?)?.sum_all(),
            [0.0, 2.0, 0.0, 0.0],
        ),
        (
            "broadcast",
            |x| x.broadcast_to(&[3, 4])?.mul(&x.broadcast_to(&[3, 4])?.detach())?.sum_all(),
            [3.0, 9.0, 9.0, -6.0],
        ),
    ];
    for (name, f, expected) in cases {
        x.zero_grad();
        f(&x).and_then(|y| y.backward()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let found = gradient(&x);
        let close = found.iter().zip(expected).all(|(f, e)| (f - e).abs() <= 0.01 * e.abs());
        assert!(close, "{name}: {found:?} and not {expected:?}");
    }
    // bf16 and f32 operands of one bf16 leaf meet in its dtype.
    x.zero_grad();
    x.to_dtype(DType::F32)?
        .sum_all()?
        .add(&x.sqr()?.to_dtype(DType::F32)?.sum_all()?)?
        .backward()?;
    assert_eq!(gradient(&x), [3.0, 7.0, 7.0, -3.0]);
    Ok(())
}

#[test]
fn a_gradient_is_set_only_where_it_fits() -> Result<()> {
    let device = reference();
    let x = vector(&device, &[1.0, 2.0]).requires_grad();
    let y = x.sqr()?;
    let g = vector(&device, &[5.0, 6.0]);
    assert!(matches!(y.set_grad(Some(g.clone())), Err(Error::Backward(_))));
    assert!(matches!(g.set_grad(None), Err(Error::Backward(_))));
    for odd in [
        vector(&device, &[1.0]),
        narrow(&device, &[1.0, 2.0]),
        vector(&Device::new("cpu")?, &[1.0; 2]),
    ] {
        let error = x.set_grad(Some(odd));
        assert!(matches!(error, Err(Error::Backend(_))), "{error:?}");
    }
    x.set_grad(Some(g.clone()))?;
    y.sum_all()?.backward()?;
    assert_eq!(gradient(&x), [7.0, 10.0]);
    assert_eq!(numbers(&g), [5.0, 6.0]);
    assert!(matches!(y.backward_with(&narrow(&device, &[1.0, 2.0])), Err(Error::Backend(_))));
    Ok(())
}

#[test]
fn a_gradient_that_is_held_does_not_change() -> Result<()> {
    let device = reference();
    let x = vector(&device, &[1.0, 2.0]).requires_grad();
    x.sqr()?.sum_all()?.backward()?;
    let (first, view) = (x.grad().unwrap(), x.grad().unwrap().narrow(0, 0, 1)?);
    let lazy = x.grad().unwrap().mul_scalar(10.0)?;
    x.sqr()?.sum_all()?.backward()?;
    assert_eq!(gradient(&x), [4.0, 8.0]);
    assert_eq!((numbers(&first), numbers(&view)), (vec![2.0, 4.0], vec![2.0]));
    drop((first, view));
    x.sqr()?.sum_all()?.backward()?;
    assert_eq!(gradient(&x), [6.0, 12.0]);
    assert_eq!(numbers(&lazy), [20.0, 40.0]);
    // One upstream that reaches two leaves is one memory until more arrives.
    let (a, b) = (vector(&device, &[1.0]).requires_grad(), vector(&device, &[1.0]).requires_grad());
    let upstream = vector(&device, &[3.0]);
    for n in 1..=3 {
        a.add(&b)?.backward_with(&upstream)?;
        let expected = 3.0 * n as f32;
        assert_eq!((gradient(&a), gradient(&b)), (vec![expected], vec![expected]));
    }
    assert_eq!(numbers(&upstream), [3.0]);
    Ok(())
}

#[test]
fn eight_micro_batches_cost_one_gradient_of_memory() -> Result<()> {
    const SIDE: usize = 128;
    let device = reference();
    let square = |seed: f32| -> Result<Tensor> {
        let data: Vec<f32> = (0..SIDE * SIDE).map(|i| (i as f32 * 0.37 + seed).sin()).collect();
        Tensor::from_slice(&device, &data, &[SIDE, SIDE])
    };
    let parameters =
        [square(0.0)?.requires_grad(), square(1.0)?.requires_grad(), square(2.0)?.requires_grad()];
    let gradients = 3 * SIDE * SIDE * 4;
    let x = Tensor::ones(&device, DType::F32, &[2, SIDE])?;
    let peak = |batches: usize| -> Result<usize> {
        parameters.iter().for_each(Tensor::zero_grad);
        device.reset_peak();
        for _ in 0..batches {
            let mut h = x.clone();
            for p in &parameters {
                // An elementwise use too, whose gradient is an expression.
                h = h.matmul(&p.tanh()?)?;
            }
            h.sum_all()?.backward()?;
        }
        Ok(device.pool_stats().peak_bytes)
    };
    let (one, eight) = (peak(1)?, peak(8)?);
    assert!(eight <= one + gradients, "{eight} bytes and not {one} + {gradients}");
    Ok(())
}

#[test]
fn the_slices_of_a_tensor_share_one_gradient() -> Result<()> {
    const ROWS: usize = 64;
    const COLUMNS: usize = 256;
    let device = reference();
    let x = Tensor::ones(&device, DType::F32, &[ROWS, COLUMNS])?.requires_grad();
    let whole = ROWS * COLUMNS * 4;
    let mut sum = Tensor::zeros(&device, DType::F32, &[COLUMNS])?;
    for (i, row) in x.unbind(0)?.iter().enumerate() {
        assert_eq!(row.shape(), [COLUMNS]);
        sum = sum.add(&row.mul_scalar(i as f64)?)?;
    }
    let sum = sum.sum_all()?;
    let before = device.counters().verb_bytes;
    device.reset_peak();
    let held = device.pool_stats().in_use_bytes;
    sum.backward()?;
    let moved = device.counters().verb_bytes - before;
    assert!(moved < 20 * whole as u64, "{moved} bytes for a tensor of {whole}");
    let peak = device.pool_stats().peak_bytes - held;
    assert!(peak < 2 * whole, "{peak} bytes for a tensor of {whole}");
    let found = gradient(&x);
    assert!((0..ROWS * COLUMNS).all(|i| found[i] == (i / COLUMNS) as f32));
    // Overlapping, backwards, and beside a use of the whole, in a graph and for a leaf.
    x.zero_grad();
    let y = x.mul_scalar(1.0)?;
    for t in [&x, &y] {
        let all = t.sqr()?.mul_scalar(0.5)?.sum_all()?;
        let parts = t.narrow(0, 0, 3)?.sum_all()?.add(&t.slice(0, 3, 2, -2)?.sum_all()?)?;
        all.add(&parts)?.add(&t.sum_all()?)?.backward()?;
    }
    let found = gradient(&x);
    for (row, expected) in [(0, 6.0), (1, 8.0), (2, 6.0), (3, 6.0), (4, 4.0), (63, 4.0)] {
        assert_eq!(found[row * COLUMNS], expected, "row {row}");
    }
    Ok(())
}

#[test]
fn split_and_chunk_cut_an_axis() -> Result<()> {
    let device = reference();
    let x = Tensor::arange(&device, 10)?.requires_grad();
    let lengths = |parts: Vec<Tensor>| parts.iter().map(Tensor::len).collect::<Vec<_>>();
    assert_eq!(lengths(x.split(0, &[3, 0, 7])?), [3, 0, 7]);
    // As PyTorch: equal parts but for the last, and fewer where there is not enough.
    assert_eq!(lengths(x.chunk(0, 4)?), [3, 3, 3, 1]);
    assert_eq!(lengths(x.chunk(0, 6)?), [2; 5]);
    assert_eq!(lengths(x.chunk(0, 100)?), [1; 10]);
    assert!(x.split(0, &[3, 3]).is_err() && x.split(1, &[1]).is_err());
    assert!(x.split(0, &[usize::MAX, 11]).is_err());
    assert!(x.chunk(0, 0).is_err() && x.unbind(1).is_err());
    let parts = x.chunk(0, 4)?;
    parts[1].mul(&parts[2])?.sum_all()?.backward()?;
    assert_eq!(gradient(&x), [0.0, 0.0, 0.0, 6.0, 7.0, 8.0, 3.0, 4.0, 5.0, 0.0]);
    Ok(())
}

#[test]
fn a_product_with_a_shared_matrix_contracts_over_the_batch() -> Result<()> {
    const N: usize = 64;
    let device = reference();
    let of = |shape: &[usize]| -> Result<Tensor> {
        let n: usize = shape.iter().product();
        let data: Vec<f32> = (0..n).map(|i| (i % 13) as f32 - 6.0).collect();
        Ok(Tensor::from_slice(&device, &data, shape)?.requires_grad())
    };
    let (a, b) = (of(&[4, 8, 2, N])?, of(&[N, N])?);
    let y = a.matmul(&b)?;
    let upstream = of(&[4, 8, 2, N])?.detach();
    device.reset_peak();
    let held = device.pool_stats().in_use_bytes;
    y.backward_with(&upstream)?;
    let peak = device.pool_stats().peak_bytes - held;
    let expected = (a.len() + b.len()) * 4;
    assert!(peak <= expected + expected / 4, "{peak} bytes where results take {expected}");
    // The same sum, formed batch by batch.
    let mut sum = vec![0f32; N * N];
    let (a, g) = (numbers(&a), numbers(&upstream));
    for row in 0..64 {
        for i in 0..N {
            for j in 0..N {
                sum[i * N + j] += a[row * N + i] * g[row * N + j];
            }
        }
    }
    assert_eq!(gradient(&b), sum);
    Ok(())
}

#[test]
fn threads_add_to_one_gradient() -> Result<()> {
    const ROUNDS: usize = 50;
    let device = Device::new("cpu")?;
    let x = vector(&device, &[1.0; 512]).requires_grad();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    x.mul_scalar(2.0).unwrap().sum_all().unwrap().backward().unwrap();
                    // Now and then the memory is not the slot's alone.
                    let held = (round % 3 == 0).then(|| x.grad());
                    assert!(x.grad().is_some());
                    drop(held);
                }
            });
        }
    });
    assert_eq!(gradient(&x), [8.0 * ROUNDS as f32; 512]);
    Ok(())
}

#[test]
fn a_failed_addition_leaves_the_gradient_as_it_was() -> Result<()> {
    const BYTES: usize = 1 << 16;
    let backend: Arc<dyn Backend> = Arc::new(starling_reference::ReferenceBackend::new());
    let device = Device::with_memory_limit(backend, 7 * BYTES / 2)?;
    let x = Tensor::from_slice(&device, &[1f32; BYTES / 4], &[BYTES / 4])?.requires_grad();
    x.backward_with(&Tensor::full(&device, DType::F32, x.shape(), 2.0)?)?;
    // Held, so that the sum needs memory of its own.
    let held = x.grad().unwrap();
    let error = x.backward_with(&Tensor::full(&device, DType::F32, x.shape(), 3.0)?);
    assert!(matches!(error, Err(Error::Backend(_))), "{error:?}");
    assert_eq!(gradient(&x), [2.0; BYTES / 4]);
    drop(held);
    x.backward_with(&Tensor::full(&device, DType::F32, x.shape(), 3.0)?)?;
    assert_eq!(gradient(&x), [5.0; BYTES / 4]);
    Ok(())
}

/// Hands its input on and turns the gradient around (Ganin, Lempitsky 2015).
struct Reverse(Option<Vec<usize>>);

impl Operation for Reverse {
    fn name(&self) -> &'static str {
        "reverse"
    }

    fn backward(&self, upstream: &Tensor, _wanted: &[bool]) -> Result<Backward> {
        let gradient = upstream.neg()?.to_dtype(DType::F32)?;
        Ok(Backward::Gradients(vec![Some(match &self.0 {
            Some(shape) => gradient.broadcast_to(shape)?,
            None => gradient,
        })]))
    }
}

#[test]
fn an_operation_from_outside_loses_no_gradient() -> Result<()> {
    let device = reference();
    for x in [vector(&device, &[1.0, 2.0]), narrow(&device, &[1.0, 2.0])] {
        let x = x.requires_grad();
        let w = x.detach().requires_grad();
        let reverse = |x: &Tensor| Tensor::custom(&[x], || Ok((x.clone(), Reverse(None))));
        reverse(&x)?.sqr()?.sum_all()?.backward()?;
        assert_eq!(gradient(&x), [-2.0, -4.0]);
        // Within a checkpoint too.
        let (a, b) = (x.clone(), w.clone());
        let y = checkpoint(
            move |_| Tensor::custom(&[&a], || Ok((a.clone(), Reverse(None))))?.mul(&b),
            &[],
        )?;
        y.sum_all()?.backward()?;
        assert_eq!((gradient(&x), gradient(&w)), (vec![-3.0, -6.0], vec![1.0, 2.0]));
        // A tensor of the graph that it does not name.
        let stray = Tensor::custom(&[&x], || Ok((x.mul(&w)?, Reverse(None))));
        assert!(matches!(stray, Err(Error::Backward(_))), "{stray:?}");
        no_grad(|| Tensor::custom(&[&x], || Ok((x.mul(&w)?, Reverse(None)))))?;
        Tensor::custom(&[&x], || Ok((x.mul(&w.detach())?, Reverse(None))))?;
        // A gradient of another shape.
        let wide = Tensor::custom(&[&x], || Ok((x.clone(), Reverse(Some(vec![3, 2])))))?;
        let error = wide.sum_all()?.backward();
        assert!(matches!(error, Err(Error::Backward(_))), "{error:?}");
    }
    Ok(())
}

#[test]
fn the_gradient_of_a_largest_element_finds_it_in_an_expression() -> Result<()> {
    // The reference fuses in f64, so that recomputing the input rounds it less than the result.
    for device in [reference(), Device::new("cpu")?] {
        let values: Vec<f32> = (0..24).map(|i| ((i * 7) % 24) as f32 * 0.37 - 3.1).collect();
        let x = Tensor::from_slice(&device, &values, &[4, 6])?.requires_grad();
        let shift = Tensor::from_slice(&device, &[0.123f32; 6], &[6])?;
        let expression = x.mul_scalar(0.7)?.add(&shift)?.tanh()?;
        expression.max(&[0, 1], false)?.add(&expression.min(&[0, 1], false)?)?.backward()?;
        let moved = gradient(&x).into_iter().filter(|g| *g > 0.0 && g.is_finite()).count();
        assert_eq!(moved, 2, "{device:?}: {:?}", gradient(&x));
        assert!(gradient(&x).iter().all(|g| g.is_finite()));
    }
    Ok(())
}

#[test]
fn gradients_that_share_memory_do_not_change_each_other() -> Result<()> {
    let device = reference();
    let a = Tensor::from_slice(&device, &[1f32; 4], &[2, 2])?.requires_grad();
    let b = vector(&device, &[1.0; 4]).requires_grad();
    for pass in 1..=2 {
        // Both gradients are the upstream one, one of them under another shape.
        let sum = a.reshape(&[4])?.add(&b)?;
        sum.backward_with(&vector(&device, &[1.0, 2.0, 3.0, 4.0]))?;
        let wanted = [1.0, 2.0, 3.0, 4.0].map(|x| x * pass as f32);
        assert_eq!((gradient(&a), gradient(&b)), (wanted.to_vec(), wanted.to_vec()));
    }
    Ok(())
}

/// Gives its gradient from another device, whole or as a slice.
struct Astray(Device, bool);

impl Operation for Astray {
    fn name(&self) -> &'static str {
        "astray"
    }

    fn backward(&self, upstream: &Tensor, _wanted: &[bool]) -> Result<Backward> {
        let gradient = upstream.to_device(&self.0)?;
        Ok(match self.1 {
            true => Backward::Slice { gradient, axis: 0, start: 0, step: 1 },
            false => Backward::Gradients(vec![Some(gradient)]),
        })
    }
}

#[test]
fn a_gradient_of_another_device_is_refused() -> Result<()> {
    let (device, other) = (reference(), Device::new("cpu")?);
    for slice in [false, true] {
        let x = vector(&device, &[1.0, 2.0]).requires_grad();
        let y = Tensor::custom(&[&x], || Ok((x.neg()?, Astray(other.clone(), slice))))?;
        let error = y.sum_all()?.backward().unwrap_err().to_string();
        assert!(error.contains("cpu") && error.contains("reference"), "{error}");
        assert!(x.grad().is_none());
    }
    Ok(())
}

#[test]
fn a_layer_without_outputs_sends_zeros_back() -> Result<()> {
    let device = reference();
    for layout in [WeightLayout::InOut, WeightLayout::OutIn] {
        let shape = if layout == WeightLayout::InOut { [2, 0] } else { [0, 2] };
        let x = Tensor::from_slice(&device, &[1f32; 6], &[3, 1, 2])?.requires_grad();
        let w = Tensor::ones(&device, DType::F32, &shape)?.requires_grad();
        let b = Tensor::ones(&device, DType::F32, &[0])?.requires_grad();
        x.linear(&w, Some(&b), layout, None)?.sum_all()?.backward()?;
        assert_eq!(gradient(&x), [0.0; 6]);
        assert_eq!((gradient(&w), gradient(&b)), (vec![], vec![]));
    }
    Ok(())
}
