//! What the passes over a captured list do with what users write, and what is said about a list.

use starling_engine::{Device, Passes, Result, Tensor};

fn cpu() -> Device {
    Device::new("cpu").unwrap()
}

fn ramp(device: &Device, shape: &[usize]) -> Tensor {
    let n = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|i: usize| (i * 37 % 64) as f32 / 32.0 - 1.0).collect();
    Tensor::from_slice(device, &data, shape).unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.to_vec::<f32>().unwrap().iter().map(|x| x.to_bits()).collect()
}

/// The launches of a step without passes and with them; replays of both give the same bits.
fn launches(device: &Device, step: impl Fn() -> Result<Tensor>) -> [usize; 2] {
    let run = |passes| {
        let (captured, out) = device.capture_with(passes, &step).unwrap();
        let first = bits(&out);
        captured.replay().unwrap();
        assert_eq!(bits(&out), first, "{passes:?}");
        (captured.launches(), first)
    };
    let (plain, made) = (run(Passes::NONE), run(Passes::ALL));
    assert_eq!(plain.1, made.1);
    [plain.0, made.0]
}

#[test]
fn an_activation_and_a_residual_move_into_the_product() {
    let device = cpu();
    let (x, w, r) = (ramp(&device, &[6, 8]), ramp(&device, &[8, 4]), ramp(&device, &[6, 4]));
    let step = || x.matmul(&w)?.gelu()?.add(&r)?.contiguous();
    assert_eq!(launches(&device, step), [2, 1]);
    // The product that somebody else reads as well is stored too.
    let both = || {
        let c = x.matmul(&w)?;
        let y = c.gelu()?.contiguous()?;
        y.matmul(&c.transpose(0, 1)?)
    };
    assert_eq!(launches(&device, both), [3, 2]);
}

#[test]
fn what_was_stored_for_nothing_is_not() {
    let device = cpu();
    let x = ramp(&device, &[6, 8]);
    let chain = || x.exp()?.contiguous()?.sqr()?.contiguous()?.sum(&[1], false);
    assert_eq!(launches(&device, chain), [3, 2]);
    let unused = || {
        x.matmul(&x.transpose(0, 1)?)?;
        x.exp()?.contiguous()
    };
    assert_eq!(launches(&device, unused), [2, 1]);
}

#[test]
fn maps_that_share_an_operand_become_one() {
    let device = cpu();
    let (x, y) = (ramp(&device, &[6, 8]), ramp(&device, &[6, 8]));
    let step = || {
        let (a, b) = (x.mul(&y)?.contiguous()?, x.sub(&y)?.contiguous()?);
        a.matmul(&b.transpose(0, 1)?)
    };
    assert_eq!(launches(&device, step), [3, 2]);
}

#[test]
fn a_map_does_not_move_past_a_write_of_what_it_reads() {
    let device = cpu();
    let x = ramp(&device, &[4]);
    let step = || {
        let old = x.exp()?.contiguous()?;
        x.slice_assign(0, 0, &x.mul_scalar(0.5)?)?;
        old.sqr()?.add(&x)?.contiguous()
    };
    let (captured, out) = device.capture_with(Passes::ALL, step).unwrap();
    for _ in 0..3 {
        let before = x.to_vec::<f32>().unwrap();
        captured.replay().unwrap();
        let want: Vec<f32> = before.iter().map(|x| x.exp().powi(2) + x * 0.5).collect();
        for (found, want) in out.to_vec::<f32>().unwrap().iter().zip(want) {
            assert!((found - want).abs() < 1e-5, "{found} and {want}");
        }
    }
}

#[test]
fn an_index_outside_its_table_is_reported_even_if_nobody_looks() {
    let device = cpu();
    let table = ramp(&device, &[4, 2]);
    let index = Tensor::from_slice(&device, &[0i32, 3], &[2]).unwrap();
    let step = || {
        table.embedding(&index)?;
        table.exp()?.contiguous()
    };
    let (captured, _) = device.capture_with(Passes::ALL, step).unwrap();
    index.copy_from_slice(&[0i32, 4]).unwrap();
    assert!(captured.replay().is_err());
}

#[test]
fn a_list_is_explained() {
    let device = cpu();
    let (x, w) = (ramp(&device, &[6, 8]), ramp(&device, &[8, 4]));
    let step = || {
        let hidden = x.matmul(&w)?.tanh()?.contiguous()?;
        let scale = hidden.sqr()?.contiguous()?;
        let (a, b) = (scale.sum(&[1], true)?, scale.sum(&[0], true)?);
        hidden.mul(&a.add(&b)?)?.contiguous()
    };
    let (captured, out) = device.capture_with(Passes::ALL, step).unwrap();
    let explanation = captured.explain([("x", &x), ("w", &w), ("out", &out)]).unwrap();
    assert_eq!(explanation.len(), captured.launches());
    let text = explanation.to_string();
    println!("{text}");
    for part in [
        "gemm with",
        "x [6, 8], w [8, 4]",
        "-> out [6, 4]",
        "#2, #3 read it",
        "#2 [6, 4]",
        "launches",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("a part of"), "{text}");
    assert!(explanation.temporary_bytes() >= 6 * 4 * 4 && explanation.bytes() > 0);
}

#[test]
fn what_a_pass_that_is_off_would_join_is_explained() {
    let device = cpu();
    let x = ramp(&device, &[8]);
    let step = || x.exp()?.contiguous()?.sqr()?.contiguous();
    let text = |passes| {
        let (captured, _out) = device.capture_with(passes, step).unwrap();
        captured.explain([("x", &x)]).unwrap().to_string()
    };
    let plain = text(Passes::NONE);
    assert!(plain.contains("joining it with #1 is off"), "{plain}");
    assert!(!text(Passes::ALL).contains("is off"));
}
