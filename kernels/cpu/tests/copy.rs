//! Copies between every two dtypes and layouts, and filling.

mod views;

use half::{bf16, f16};
use starling_contract::{Copy, DType, Error, Fill, Kind, Layout, Verb, View};
use starling_kernels_cpu::{Isa, copy};
use views::{EMULATED, Random, filled, get, isas, layouts, put, same_with_any_threads, view};

fn run(isa: Isa, verb: impl Into<Verb>) -> Result<(), Error> {
    let verb = verb.into().check()?;
    match verb.kind() {
        Kind::Copy(v) => copy::copy(isa, v),
        Kind::Fill(v) => copy::fill(isa, v),
        _ => unreachable!("another verb"),
    }
}

/// An element as the contract sees it.
#[derive(Clone, Copy)]
enum Number {
    Real(f64),
    Whole(i64),
}

/// Rounds a real number to a type of `digits` significant bits and the exponent range of the given
/// smallest normal exponent, to nearest even: in integers, apart from what the kernels do.
fn nearest(x: f64, digits: i32, low: i32, largest: f64) -> f64 {
    if x == 0.0 || !x.is_finite() {
        return x;
    }
    let exponent = (x.abs().log2().floor() as i32).max(low);
    // log2 may be off by one next to a power of two.
    let exponent = if x.abs() >= 2f64.powi(exponent + 1) { exponent + 1 } else { exponent };
    let exponent = if x.abs() < 2f64.powi(exponent) { (exponent - 1).max(low) } else { exponent };
    let unit = 2f64.powi(exponent - digits + 1);
    let rounded = (x / unit).round_ties_even() * unit;
    if rounded.abs() > largest { f64::INFINITY.copysign(x) } else { rounded }
}

/// The bits of an element of `dtype` after a conversion, in the low bytes.
fn converted(x: Number, dtype: DType) -> u32 {
    let real = match x {
        Number::Real(x) => x,
        Number::Whole(x) => x as f64,
    };
    match (x, dtype) {
        (_, DType::F32) => (real as f32).to_bits(),
        (_, DType::F16) => f16::from_f64(nearest(real, 11, -14, 65504.0)).to_bits().into(),
        (_, DType::BF16) => {
            let y = nearest(real, 8, -126, 3.3895313892515355e38);
            u32::from(bf16::from_f64(y).to_bits())
        }
        (Number::Real(x), DType::I32) => x as i32 as u32,
        (Number::Real(x), DType::U32) => x as u32,
        (Number::Real(x), DType::U8) => (x as u8).into(),
        (Number::Real(x), DType::I8) => (x as i8 as u8).into(),
        (Number::Whole(x), DType::I32 | DType::U32) => x as u32,
        (Number::Whole(x), DType::U8 | DType::I8) => (x as u8).into(),
    }
}

/// The bits of each element, in the low bytes.
fn words(view: &View) -> Vec<u32> {
    match view.dtype.size() {
        4 => get::<u32>(view),
        2 => get::<u16>(view).into_iter().map(u32::from).collect(),
        _ => get::<u8>(view).into_iter().map(u32::from).collect(),
    }
}

fn put_words(view: &View, words: &[u32]) {
    match view.dtype.size() {
        4 => put(view, words),
        2 => put(view, &words.iter().map(|&w| w as u16).collect::<Vec<_>>()),
        _ => put(view, &words.iter().map(|&w| w as u8).collect::<Vec<_>>()),
    }
}

fn number(word: u32, dtype: DType) -> Number {
    match dtype {
        DType::F32 => Number::Real(f32::from_bits(word).into()),
        DType::F16 => Number::Real(f16::from_bits(word as u16).into()),
        DType::BF16 => Number::Real(bf16::from_bits(word as u16).into()),
        DType::I32 => Number::Whole((word as i32).into()),
        DType::U32 => Number::Whole(word.into()),
        DType::U8 => Number::Whole((word as u8).into()),
        DType::I8 => Number::Whole((word as i8).into()),
    }
}

fn is_nan(word: u32, dtype: DType) -> bool {
    matches!(number(word, dtype), Number::Real(x) if x.is_nan())
}

/// Bits of special and random elements.
fn contents(random: &mut Random, dtype: DType, count: usize) -> Vec<u32> {
    const REALS: [f32; 40] = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        1.5,
        2.5,
        -2.5,
        0.99999994,
        127.0,
        127.5,
        128.0,
        -128.0,
        -128.9,
        -129.0,
        255.0,
        255.9,
        256.0,
        300.5,
        65504.0,
        65519.0,
        65520.0,
        1e-7,
        5.9604645e-8,
        2.9802322e-8,
        1e-30,
        1e-40,
        2147483500.0,
        2147483600.0,
        -2147483600.0,
        4294967000.0,
        4294967296.0,
        1e10,
        -1e10,
        3.39e38,
        f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    let special = |i: usize| match dtype {
        DType::F32 => REALS.get(i).map(|x| x.to_bits()),
        DType::F16 => REALS.get(i).map(|&x| f16::from_f32(x).to_bits().into()),
        DType::BF16 => REALS.get(i).map(|&x| bf16::from_f32(x).to_bits().into()),
        // Halfway cases of bf16 that differ only in bits that f32 does not have.
        _ => [0x4040_0000, 0x4040_0001, 0xc040_0001, 0x8080_8001, 0x8080_8000, !0, 1 << 31, 0x80]
            .get(i)
            .copied(),
    };
    let mut mixed = |i: usize| {
        // Half of the reals in the range of the integers.
        let near = (random.unit() * 400.0).to_bits();
        let any = random.word();
        match dtype {
            DType::F32 if i.is_multiple_of(2) => near,
            DType::F16 if i.is_multiple_of(2) => {
                f16::from_f32(f32::from_bits(near)).to_bits().into()
            }
            DType::BF16 if i.is_multiple_of(2) => near >> 16,
            _ => any,
        }
    };
    let mask = u32::MAX >> (32 - 8 * dtype.size());
    (0..count).map(|i| special(i).unwrap_or_else(|| mixed(i)) & mask).collect()
}

fn check(what: &str, dst: &View, src: DType, elements: &[u32]) {
    for (i, (got, &word)) in words(dst).into_iter().zip(elements).enumerate() {
        let want = match dst.dtype == src {
            true => word,
            false => converted(number(word, src), dst.dtype),
        };
        let nans = is_nan(got, dst.dtype) && is_nan(want, dst.dtype) && dst.dtype != src;
        assert!(got == want || nans, "{what}: element {i} ({word:#x}) is {got:#x}, not {want:#x}");
    }
}

#[test]
fn every_dtype_to_every_dtype_in_any_layout() {
    let mut random = Random(21);
    let shapes = [
        vec![],
        vec![0, 3],
        vec![1],
        vec![331],
        vec![17, 35],
        vec![4, 9, 20],
        vec![2, 3, 17, 5],
        vec![3, 1, 33, 40],
    ];
    for (shape, src, dst) in shapes
        .iter()
        .flat_map(|s| DType::ALL.into_iter().map(move |a| (s, a)))
        .flat_map(|(s, a)| DType::ALL.into_iter().map(move |b| (s, a, b)))
    {
        let elements = contents(&mut random, src, shape.iter().product());
        for (i, isa) in (0..9).flat_map(|i| isas().into_iter().map(move |isa| (i, isa))) {
            // Each layout with itself or with row-major order.
            let (from, to) = match i {
                0..5 => (layouts(shape)[i], layouts(shape)[0]),
                _ => (layouts(shape)[0], layouts(shape)[i - 4]),
            };
            let (from, to) = (view(src, from), view(dst, to));
            put_words(&from, &elements);
            let what = format!("{isa} {from:?} -> {to:?}");
            run(isa, Copy { src: from, dst: to.clone() }).unwrap();
            check(&what, &to, src, &elements);
        }
    }
}

#[test]
fn permutations_and_broadcasts() {
    let mut random = Random(22);
    for (shape, axes) in [
        (vec![3, 40, 5, 16], vec![0, 2, 1, 3]),
        (vec![33, 70], vec![1, 0]),
        (vec![2, 65, 48], vec![0, 2, 1]),
        (vec![16, 2, 32], vec![2, 1, 0]),
        (vec![5, 1, 7, 3], vec![3, 0, 2, 1]),
    ] {
        let words: Vec<u32> = (0..shape.iter().product()).map(|_| random.word()).collect();
        let layout = Layout::contiguous(&shape).permute(&axes);
        let src = filled(DType::F32, Layout::contiguous(&shape), &words).with(layout);
        let want = get::<u32>(&src);
        for isa in isas() {
            for to in layouts(src.shape()) {
                let dst = view(DType::U32, to);
                // The same size of element: bits move.
                let (src, dst) = (View { dtype: DType::U32, ..src.clone() }, dst);
                run(isa, Copy { src, dst: dst.clone() }).unwrap();
                assert_eq!(get::<u32>(&dst), want, "{isa} {shape:?} {axes:?} {to:?}");
            }
        }
    }
    let row = filled(DType::I8, Layout::contiguous(&[1, 37, 1]), &[7u8; 37]);
    let wide = row.with(row.layout.broadcast_to(&[20, 37, 19]).unwrap());
    for isa in isas() {
        let dst = view(DType::F32, Layout::contiguous(&[20, 37, 19]));
        run(isa, Copy { src: wide.clone(), dst: dst.clone() }).unwrap();
        assert!(get::<f32>(&dst).iter().all(|&x| x == 7.0), "{isa}");
    }
}

#[test]
fn a_view_copied_to_itself_stays() {
    for isa in isas() {
        let x = filled(DType::F32, layouts(&[5, 7])[2], &Random(23).units(35));
        let before = get::<f32>(&x);
        run(isa, Copy { src: x.clone(), dst: x.clone() }).unwrap();
        assert_eq!(before, get::<f32>(&x));
    }
}

#[test]
fn large_copies_with_any_threads() {
    let mut random = Random(24);
    let (n, m) = if EMULATED { (130, 70) } else { (700, 431) };
    let values = random.units(n * m);
    let src = filled(DType::F32, Layout::contiguous(&[n, m]), &values);
    for isa in isas() {
        for layout in [src.layout, src.layout.permute(&[1, 0])] {
            let src = src.with(layout);
            let want = get::<f32>(&src);
            same_with_any_threads("copy", || {
                let dst = view(DType::F32, Layout::contiguous(src.shape()));
                run(isa, Copy { src: src.clone(), dst: dst.clone() }).unwrap();
                assert_eq!(get::<f32>(&dst), want);
                let half = view(DType::BF16, Layout::contiguous(src.shape()));
                run(isa, Copy { src: src.clone(), dst: half.clone() }).unwrap();
                words(&half)
            });
        }
    }
}

#[test]
fn fill_writes_each_element_and_nothing_else() {
    let values = [
        0.0,
        -0.0,
        1.5,
        -3.7,
        300.0,
        1e20,
        -1e20,
        65519.999,
        65520.0,
        1.0 + 1.0 / 256.0 + 1e-12,
        3.5e38,
        1e-50,
        f64::NAN,
        f64::NEG_INFINITY,
    ];
    for (isa, dtype) in isas().into_iter().flat_map(|isa| DType::ALL.map(|d| (isa, d))) {
        for value in values {
            for layout in layouts(&[3, 4, 33]) {
                let dst = view(dtype, layout);
                let whole = Layout::contiguous(&[dst.storage.bytes()]);
                let bytes = View { dtype: DType::U8, layout: whole, ..dst.clone() };
                run(isa, Fill { dst: dst.clone(), value }).unwrap();
                let want = converted(Number::Real(value), dtype);
                let good = |w| w == want || (is_nan(w, dtype) && is_nan(want, dtype));
                assert!(words(&dst).into_iter().all(good), "{dtype} {value} {layout:?}");
                let touched = dst.len() * dtype.size();
                let untouched = get::<u8>(&bytes).iter().filter(|&&b| b == 0xa5).count();
                assert!(untouched >= bytes.len() - touched, "{dtype} {value} {layout:?}");
            }
        }
    }
    let large = view(DType::F16, Layout::contiguous(&[100_000]));
    run(Isa::from_env().unwrap(), Fill { dst: large.clone(), value: 2.0 }).unwrap();
    assert!(get::<f16>(&large).iter().all(|x| x.to_f32() == 2.0));
}
